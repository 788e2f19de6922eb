"""InCTRL against its equations, and what it must not depend on."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch

from harness import config
from harness.checking.contract import check
from harness.interface import Auxiliary, AuxiliaryCategory, Image, Prediction, Queries, Support
from methods import inctrl
from methods._learned.inctrl import InctrlNet, focal, read_checkpoint
from methods._ops.prompts import inctrl_prompts
from methods.inctrl import Inctrl
from tests.clip_fixtures import SIZE, build_model, memory, pictures, pixels_of, write_config

LEVELS = (2, 3)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_config(tmp_path_factory.mktemp("inctrl"))


def made(tiny: str, features=None, **parameters) -> Inctrl:
    options = {"size": SIZE, "levels": LEVELS, "epochs": 1, "steps": 3, "batch": 4, **parameters}
    method = Inctrl(encoder={"model": tiny, "weights": "random:0"}, **options)
    method.setup("cpu", features or memory())
    return method


def random_state(seed: int = 0, embedding: int = 24, patches: int = 36) -> dict[str, np.ndarray]:
    """A state whose running statistics are not the defaults, as after training."""
    torch.manual_seed(seed)
    net = InctrlNet(embedding, patches)
    for _ in range(3):
        net(
            torch.randn(8, embedding),
            torch.randn(8, embedding),
            torch.rand(8, patches),
            torch.rand(8),
        )
    # Large weights, so that scores differ between images by far more than rounding.
    return {name: array * (2.5 if "weight" in name else 1) for name, array in net.arrays().items()}


def auxiliary(shots: int = 2, seed: int = 0, normal: int = 6, anomalous: int = 4) -> Auxiliary:
    def category(number: int) -> AuxiliaryCategory:
        train = pictures(normal, seed=10 + number)
        good, bad = pictures(2, seed=20 + number), pictures(anomalous, seed=30 + number)
        bad = tuple(Image(i.key, (i.pixels // 3).astype(np.uint8)) for i in bad)
        labels = np.array([0] * len(good) + [1] * len(bad))
        return AuxiliaryCategory(
            f"c{number}", f"thing {number}", train, good + bad, labels, lambda i: None
        )

    return Auxiliary((category(0), category(1)), shots, seed)


def predict(
    method: Inctrl, references: tuple[Image, ...], queries: tuple[Image, ...], name: str = "pill"
) -> Prediction:
    method.fit(Support(references, object_name=name))
    return method.predict(Queries(queries))


def naive(
    state: dict[str, np.ndarray], references: tuple[Image, ...], query: Image, name: str
) -> dict:
    """The published forward pass for one query, in float64, patch by patch."""
    model = build_model()
    tensors = {key: torch.tensor(value).double() for key, value in state.items()}

    def head(prefix: str, x: torch.Tensor) -> float:
        for layer, norm in (("1", "bn2"), ("2", "bn3")):
            x = tensors[f"{prefix}.projection{layer}.weight"] @ x
            x = (x + tensors[f"{prefix}.projection{layer}.bias"]).clamp(min=0)
            mean, variance = (tensors[f"{prefix}.{norm}.running_{s}"] for s in ("mean", "var"))
            x = (x - mean) / torch.sqrt(variance + 1e-5)
            x = x * tensors[f"{prefix}.{norm}.weight"] + tensors[f"{prefix}.{norm}.bias"]
        x = tensors[f"{prefix}.projection3.weight"] @ x + tensors[f"{prefix}.projection3.bias"]
        return float(1 / (1 + torch.exp(-x)))

    def adapter(x: torch.Tensor) -> torch.Tensor:
        hidden = (tensors["adapter.fc.0.weight"] @ x).clamp(min=0)
        return (tensors["adapter.fc.2.weight"] @ hidden).clamp(min=0)

    def encode(image: Image) -> tuple[torch.Tensor, list[torch.Tensor]]:
        outputs = model.visual.forward_intermediates(
            pixels_of(image), indices=[n - 1 for n in LEVELS], output_fmt="NLC"
        )
        return outputs["image_features"][0], [level[0] for level in outputs["image_intermediates"]]

    image, levels = encode(query)
    others = [encode(reference) for reference in references]
    residual = np.zeros(36)
    for number, level in enumerate(levels):
        for place, patch in enumerate(level):
            cosines = [
                float(patch @ other / patch.norm() / other.norm())
                for _, their in others
                for other in their[number]
            ]
            residual[place] += 0.5 * (1 - max(cosines)) / len(levels)
    context = sum(adapter(other) for other, _ in others) / len(others)
    image_score = head("diff_head_ref", context - adapter(image))
    prototypes = []
    for sentences in inctrl_prompts(name):
        embeddings = model.encode_text(open_clip.tokenize(sentences))
        mean = (embeddings / embeddings.norm(dim=1, keepdim=True)).mean(dim=0)
        prototypes.append(mean / mean.norm())
    cosines = [float(100 * image @ p / image.norm()) for p in prototypes]
    text = 1 / (1 + np.exp(cosines[0] - cosines[1]))
    holistic = head("diff_head", torch.tensor(residual + image_score + text))
    return {
        "image": image_score,
        "text": text,
        "patch": residual.max(),
        "holistic": holistic,
        "final": (holistic + residual.max()) / 2,
        "residual": residual.reshape(6, 6),
    }


@pytest.mark.parametrize(("name", "shots"), [("metal nut", 2), ("horse", 1)])
def test_scores_equal_the_published_forward(tiny: str, name: str, shots: int) -> None:
    state, queries, references = random_state(), pictures(2), pictures(shots, seed=1)
    method = made(tiny, crop=False)
    method.load(state)
    prediction = predict(method, references, queries, name)
    for i, query in enumerate(queries):
        expected = naive(state, references, query, name)
        assert prediction.scores[i] == pytest.approx(expected["final"], rel=1e-4)
        for part in ("image", "text", "patch", "holistic"):
            assert prediction.parts[part][i] == pytest.approx(expected[part], rel=1e-4), part
        centres = prediction.maps[i].reshape(6, 8, 6, 8)[:, 3:5, :, 3:5].mean(axis=(1, 3))
        np.testing.assert_allclose(centres, expected["residual"], rtol=0.05)
    for part in ("image", "patch", "holistic"):
        assert np.ptp(prediction.parts[part]) > 5e-3, part


def test_order_of_references_and_batch_change_nothing(tiny: str) -> None:
    queries, references = pictures(5), pictures(3, seed=1)
    method = made(tiny)
    method.load(random_state())
    together = predict(method, references, queries)
    turned = predict(method, references[::-1], queries[::-1])
    np.testing.assert_allclose(together.scores, turned.scores[::-1], rtol=1e-6)
    np.testing.assert_array_equal(together.maps, turned.maps[::-1])
    alone = predict(method, references, queries[2:3])
    np.testing.assert_array_equal(alone.scores[0], together.scores[2])
    np.testing.assert_array_equal(alone.maps[0], together.maps[2])


def test_a_query_among_the_references_has_no_residual(tiny: str) -> None:
    queries = pictures(2)
    method = made(tiny)
    method.load(random_state())
    prediction = predict(method, queries[:1], queries)
    assert prediction.parts["patch"][0] < 1e-6
    assert prediction.parts["patch"][1] > 1e-3


def test_training_learns_and_repeats(tiny: str) -> None:
    """Anomalies of the auxiliary set score higher after training than normals do."""
    features = memory()
    method = made(tiny, features, steps=40, batch=8)
    data = auxiliary()
    state = method.train(data)
    again = made(tiny, features, steps=40, batch=8).train(auxiliary())
    assert state.keys() == again.keys()
    for name, array in state.items():
        np.testing.assert_array_equal(array, again[name])
    other = made(tiny, features, steps=40, batch=8).train(auxiliary(seed=1))
    assert any(not np.array_equal(state[name], other[name]) for name in state)

    # Every image is encoded once for the three runs.
    assert features.computed == sum(len(c.train) + len(c.test) for c in data.categories)

    method.load(state)
    category = data.categories[0]
    prediction = predict(method, category.train[:2], category.train[2:] + category.test)
    labels = np.concatenate([np.zeros(len(category.train) - 2, int), category.labels])
    assert (
        prediction.parts["image"][labels == 1].mean()
        > prediction.parts["image"][labels == 0].mean() + 0.1
    )


def test_a_step_gives_each_image_its_own_references(tiny: str) -> None:
    """What batches made of the published code: every trial equals itself alone."""
    method = made(tiny)
    batch = next(inctrl._batches(auxiliary(shots=3), 8))
    images, references, residuals = method._compared(batch)
    assert references.shape == (8, 3, 24)
    for i, trial in enumerate(batch):
        one = method._compared([trial])
        for batched, alone in zip((images, references, residuals), one, strict=True):
            torch.testing.assert_close(batched[i], alone[0], atol=1e-6, rtol=1e-6)


def test_batches_are_balanced_and_references_are_others() -> None:
    data = auxiliary(shots=3)
    normal = {i.key for c in data.categories for i in (*c.train, *c.test[:2])}
    anomalous = {i.key for c in data.categories for i in c.test[2:]}
    seen = {0: set(), 1: set()}
    for batch in islice(inctrl._batches(data, 8), 12):
        assert [trial.label for trial in batch].count(1) == 4
        for trial in batch:
            keys = [image.key for image in trial.images]
            assert len(set(keys)) == 4
            assert set(keys[1:]) <= normal
            own = next(c for c in data.categories if c.object_name == trial.object_name)
            assert set(keys) <= {i.key for i in (*own.train, *own.test)}
            seen[trial.label].add(keys[0])
    assert seen == {0: normal, 1: anomalous}


def test_references_reach_every_other_image() -> None:
    data = auxiliary(shots=1, normal=1)
    drawn = {
        (trial.images[0].key, trial.images[1].key)
        for batch in islice(inctrl._batches(data, 4), 200)
        for trial in batch
        if not trial.label
    }
    for category in data.categories:
        pool = [i.key for i in (*category.train, *category.test[:2])]
        assert {(a, b) for a in pool for b in pool if a != b} <= drawn


@pytest.mark.parametrize("published", [True, False])
def test_focal_loss(published: bool) -> None:
    scores, labels = torch.tensor([0.2, 0.9, 0.6]), torch.tensor([0.0, 1.0, 0.0])
    total = 0.0
    for score, label in zip(scores.tolist(), labels.tolist(), strict=True):
        probability = 1 / (1 + np.exp(-score)) if published else score
        right = probability if label else 1 - probability
        total += -((1 - right) ** 2) * np.log(right) / 3
    assert float(focal(scores, labels, published)) == pytest.approx(total, rel=1e-5)


def test_loads_the_authors_layout(tiny: str, tmp_path: Path) -> None:
    state = random_state(seed=3)
    tensors = {name: torch.tensor(array) for name, array in state.items()}
    tensors |= {
        "visual.conv1.weight": torch.zeros(2),
        "diff_head.bn1.weight": torch.ones(36),
        "diff_head.bn2.num_batches_tracked": torch.tensor(7),
    }
    path = tmp_path / "2" / "checkpoint.pyth"
    path.parent.mkdir()
    torch.save({"epoch": 5, "model_state": tensors, "cfg": "RNG_SEED: 10"}, path)
    path.rename(tmp_path / "2" / "visa.pyth")
    method = made(tiny, checkpoint=str(tmp_path / "{shots}" / "{auxiliary}.pyth"))
    assert method.auxiliary
    assert not method.auxiliary_per_seed
    with pytest.raises(FileNotFoundError, match=r"2/mvtec\.pyth"):
        method.train(Auxiliary((), 2, 0, "mvtec"))
    loaded = method.train(Auxiliary((), 2, 0, "visa"))
    assert loaded.keys() == state.keys()
    for name, array in state.items():
        np.testing.assert_array_equal(loaded[name], array)
    method.load(loaded)
    queries = pictures(3)
    trained = made(tiny)
    trained.load(state)
    # One whose origin is said by name needs nothing to train on: it is read for the support.
    checkpoint = str(tmp_path / "{shots}" / "visa.pyth")
    named = made(tiny, checkpoint=checkpoint, trained_on="visa")
    assert (named.auxiliary, named.trained_on) == (False, ("visa",))
    scores = [predict(one, queries[:2], queries).scores for one in (method, trained, named)]
    np.testing.assert_array_equal(scores[0], scores[1])
    np.testing.assert_array_equal(scores[0], scores[2])
    with pytest.raises(ValueError, match=r"inctrl: a checkpoint needs `trained_on`"):
        made(tiny, checkpoint=checkpoint)


def test_checkpoint_files_are_named(tiny: str, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint_4.pyth"
    missing = Inctrl(
        encoder={"model": tiny, "weights": "random:0"}, checkpoint=str(path), trained_on="visa"
    )
    with pytest.raises(FileNotFoundError, match=r"checkpoint_4\.pyth"):
        missing.files()
    torch.save({"model_state": {"visual.proj": torch.zeros(1)}}, path)
    with pytest.raises(ValueError, match="it lacks adapter"):
        read_checkpoint(path)
    path.write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="not a readable checkpoint"):
        read_checkpoint(path)
    several = Inctrl(
        encoder={"model": tiny, "weights": "random:0"},
        checkpoint=str(tmp_path / "checkpoint_{shots}.pyth"),
        trained_on="visa",
    )
    assert path in several.files()


def test_default_levels_are_fractions_of_the_depth(tiny: str) -> None:
    assert made(tiny, levels=None)._levels == (2, 2, 3)
    big = [round(24 * n / 12) for n in (7, 9, 11)]
    assert big == [14, 18, 22]


def test_state_of_another_size_is_refused(tiny: str) -> None:
    method = made(tiny)
    method.load(random_state(patches=225))
    with pytest.raises(ValueError, match=r"for 225 patches .* gives 36"):
        method.fit(Support(pictures(1)))


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"loss": "focal"}, "loss: expected"),
        ({"batch": 5}, "batch: expected"),
        ({"steps": 0}, "steps: expected"),
    ],
)
def test_parameters_are_checked(parameters: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        config.build("method", "inctrl", parameters)


def test_auxiliary_data_is_checked(tiny: str) -> None:
    with pytest.raises(ValueError, match="more than 8 are needed"):
        made(tiny).train(auxiliary(shots=8))
    with pytest.raises(ValueError, match="no anomalous images"):
        made(tiny).train(auxiliary(anomalous=0))


def test_promises_are_kept(tiny: str, capsys: pytest.CaptureFixture[str]) -> None:
    params = {"size": SIZE, "levels": [2, 3], "epochs": 1, "steps": 2, "batch": 4}
    kept = check("inctrl", {"encoder": {"model": tiny, "weights": "random:0"}, **params})
    assert kept == 0, capsys.readouterr().out

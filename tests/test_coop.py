"""CoOp: its prompts word by word, what training does, and what it must not depend on."""

from __future__ import annotations

import math

import numpy as np
import open_clip
import pytest
import torch

from harness import config
from harness.checking.contract import check
from harness.interface import Auxiliary, AuxiliaryCategory, Image, Queries, Support
from methods import coop
from methods.coop import Coop
from tests.clip_fixtures import SIZE, build_model, memory, pictures, pixels_of, write_config


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_config(tmp_path_factory.mktemp("coop"))


def made(tiny: str, features=None, **parameters) -> Coop:
    options = {"size": SIZE, "context": 4, "epochs": 2, "views": 2, **parameters}
    method = Coop(encoder={"model": tiny, "weights": "random:0"}, **options)
    method.setup("cpu", features or memory())
    return method


def auxiliary(shots: int = 2, seed: int = 0, count: int = 4) -> Auxiliary:
    """Two objects whose anomalous images are darker."""

    def category(number: int) -> AuxiliaryCategory:
        good = pictures(count, seed=20 + number)
        bad = tuple(
            Image(i.key, (i.pixels // 4).astype(np.uint8))
            for i in pictures(count, seed=30 + number)
        )
        labels = np.array([0] * count + [1] * count)
        train = pictures(count, seed=10 + number)
        return AuxiliaryCategory(
            f"c{number}", f"thing {number}", train, good + bad, labels, lambda i: None
        )

    return Auxiliary((category(0), category(1)), shots, seed)


def test_prompts_are_words_between_the_start_and_the_state(tiny: str) -> None:
    """With the words of a real sentence as context, a prompt is that sentence."""
    method = made(tiny)
    model = build_model(double=False)
    with torch.no_grad():
        tokens = open_clip.tokenize(["a sharp photo of"])
        method.load({"context": model.token_embedding(tokens)[0, 1:5].numpy()})
        method.fit(Support((), object_name="metal_nut"))
        expected = model.encode_text(
            open_clip.tokenize(
                ["a sharp photo of normal metal nut.", "a sharp photo of anomalous metal nut."]
            ),
            normalize=True,
        )
    torch.testing.assert_close(method._prototypes, expected, atol=1e-5, rtol=1e-5)


def test_score_is_the_softmax_at_the_models_scale(tiny: str) -> None:
    method, model = made(tiny), build_model(double=False)
    context = torch.randn((4, 16), generator=torch.Generator().manual_seed(1)).numpy()
    method.load({"context": context})
    queries = pictures(3)
    method.fit(Support(pictures(1, seed=1), object_name="pill"))
    prediction = method.predict(Queries(queries))
    assert prediction.maps is None
    for i, image in enumerate(queries):
        embedding = model.encode_image(pixels_of(image).float(), normalize=True)[0]
        normal, anomalous = (math.exp(float(embedding @ p) / 0.07) for p in method._prototypes)
        assert prediction.scores[i] == pytest.approx(anomalous / (normal + anomalous), rel=1e-4)
    alone = method.predict(Queries(queries[1:2]))
    assert alone.scores[0] == prediction.scores[1]
    # The support is not looked at.
    method.fit(Support(pictures(2, seed=9), object_name="pill"))
    np.testing.assert_array_equal(method.predict(Queries(queries)).scores, prediction.scores)


def test_training_lowers_the_loss_and_repeats(tiny: str) -> None:
    data = auxiliary(shots=4)
    options = {"epochs": 60, "learning_rate": 0.1, "views": 0, "weight_decay": 0.0}

    def loss(method: Coop) -> float:
        total = []
        for category in data.categories:
            method.fit(Support((), object_name=category.object_name))
            anomalous = tuple(category.test[4:])
            for images, label in ((category.train, 0), (anomalous, 1)):
                scores = method.predict(Queries(images)).scores
                total += [-math.log(s if label else 1 - s) for s in scores]
        return float(np.mean(total))

    method = made(tiny, **options)
    start = made(tiny, epochs=1, learning_rate=0.0, views=0).train(data)
    assert start["context"].shape == (4, 16)
    assert start["context"].std() < 0.05
    state = method.train(data)
    method.load(start)
    before = loss(method)
    method.load(state)
    after = loss(method)
    assert after < before - 0.05
    again = made(tiny, **options).train(auxiliary(shots=4))
    np.testing.assert_array_equal(state["context"], again["context"])
    other = made(tiny, **options).train(auxiliary(shots=4, seed=1))
    assert not np.array_equal(state["context"], other["context"])


def test_first_epoch_warms_up_and_the_rest_falls(
    tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = []
    original = torch.optim.SGD.step

    def step(self: torch.optim.SGD, *args: object) -> None:
        rates.append(self.param_groups[0]["lr"])
        original(self, *args)

    monkeypatch.setattr(torch.optim.SGD, "step", step)
    made(tiny, epochs=5).train(auxiliary(shots=1))
    expected = [1e-5, *(0.001 * (1 + math.cos(math.pi * e / 5)) for e in range(1, 5))]
    assert rates == pytest.approx(expected)


def test_examples_are_shots_of_each_kind() -> None:
    data = auxiliary(shots=3)
    examples = coop._drawn(data, 3, np.random.default_rng(0))
    for category in data.categories:
        own = [e for e in examples if e.object_name == category.object_name]
        normal = {e.image.key for e in own if not e.label}
        anomalous = {e.image.key for e in own if e.label}
        assert len(normal) == len(anomalous) == 3
        assert normal <= {i.key for i in category.train}
        assert anomalous <= {i.key for i in category.test[4:]}
    fewer = coop._drawn(auxiliary(count=2), 8, np.random.default_rng(0))
    assert len(fewer) == 2 * (2 + 2)


def test_views_are_parts_of_the_image() -> None:
    image = Image("x", np.arange(40 * 60 * 3, dtype=np.uint32).astype(np.uint8).reshape(40, 60, 3))
    shapes, mirrored = set(), set()
    for seed in range(40):
        view = coop._view(image, 0.5, seed)
        pixels = view.pixels
        np.testing.assert_array_equal(pixels, view.pixels)
        height, width = pixels.shape[:2]
        assert 0.4 * 2400 < height * width <= 2400
        shapes.add((height, width))
        for flip in (False, True):
            candidate = pixels[:, ::-1] if flip else pixels
            windows = np.lib.stride_tricks.sliding_window_view(
                image.pixels, (height, width, 3)
            ).reshape(-1, height, width, 3)
            if (windows == candidate).all(axis=(1, 2, 3)).any():
                mirrored.add(flip)
                break
        else:
            pytest.fail("a view is no part of the image")
    assert len(shapes) > 20
    assert mirrored == {False, True}
    assert coop._view(image, 0.5, 1).key != coop._view(image, 0.5, 2).key


@pytest.mark.usefixtures("every_warning")
def test_a_read_only_state_will_do(tiny: str) -> None:
    context = torch.randn((4, 16), generator=torch.Generator().manual_seed(1)).numpy()
    locked = context.copy()
    locked.flags.writeable = False  # as the store hands it out
    scores = []
    for state in (context, locked):
        method = made(tiny)
        method.load({"context": state})
        method.fit(Support((), object_name="metal_nut"))
        scores.append(method.predict(Queries(pictures(2))).scores)
    np.testing.assert_array_equal(*scores)


def test_state_of_another_encoder_is_refused(tiny: str) -> None:
    with pytest.raises(ValueError, match=r"of length 512, those of .* of 16"):
        made(tiny).load({"context": np.zeros((4, 512), np.float32)})


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"context": 0}, "context: expected"),
        ({"views": -1}, "views: expected"),
        ({"crop": 0}, "crop: expected"),
    ],
)
def test_parameters_are_checked(parameters: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        config.build("method", "coop", parameters)


def test_it_says_that_it_is_an_adaptation() -> None:
    assert Coop.note == "our CoOp adaptation"


def test_promises_are_kept(tiny: str, capsys: pytest.CaptureFixture[str]) -> None:
    params = {"size": SIZE, "context": 4, "epochs": 2, "views": 1}
    kept = check("coop", {"encoder": {"model": tiny, "weights": "random:0"}, **params})
    assert kept == 0, capsys.readouterr().out

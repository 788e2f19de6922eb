"""One-to-Normal against loops over its equations, in float64, and what it promises."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import config
from harness.interface import Arrays, Image, Prediction, Queries, Support
from harness.problems import InputError
from methods import _o2n_compare
from methods._o2n_text import TextLayers
from methods._prompts import compose, unit
from methods.generators.dreambooth import DreamBooth
from methods.o2n import O2n
from tests.clip_fixtures import SIZE, build_model, memory, pictures, pixels_of, write_config
from tests.tiny_base import save_tiny_base

GRID = 6
LEVELS = (1, 2, 3)
QUERIES = pictures(3)
REFERENCES = pictures(2, seed=1)
PERSONALIZED = pictures(3, seed=2)
POOL = REFERENCES + pictures(3, seed=3)
STATE = TextLayers.fresh([32] * 3, 24, seed=0, device="cpu").arrays()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_config(tmp_path_factory.mktemp("o2n"))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny_base(tmp_path_factory.mktemp("o2n-base"))


def o2n(tiny: str, features=None, state: Arrays | None = STATE, **parameters) -> O2n:
    method = O2n(encoder={"model": tiny, "weights": "random:0"}, size=SIZE, **parameters)
    method.setup("cpu", features or memory())
    if method.auxiliary and state is not None:
        method.load(state)
    return method


def support(references=REFERENCES, pool=POOL) -> Support:
    return Support(tuple(references), "metal_nut", 0, tuple(pool))


def predict(
    method: O2n, queries=QUERIES, personalized=PERSONALIZED, cell: Support | None = None
) -> Prediction:
    method.fit(cell or support())
    return method.predict(Queries(tuple(queries), tuple(personalized)))


class Naive:
    """Equations 4 to 7, one level, patch and bank patch at a time."""

    def __init__(self) -> None:
        self.model = build_model()
        self.text = []
        for sentences in compose("metal nut"):
            total = 0
            for sentence in sentences:
                embedding = self.model.encode_text(open_clip.tokenize([sentence]))[0]
                total = total + embedding / embedding.norm()
            self.text.append(total / total.norm())

    def encode(self, image: Image) -> list[list[torch.Tensor]]:
        """Patches of each level, row by row."""
        visual = self.model.visual
        patches = visual.conv1(pixels_of(image)).flatten(2)[0].T
        stream = torch.cat([visual.class_embedding[None], patches]) + visual.positional_embedding
        stream = visual.ln_pre(stream)[None]
        levels = []
        for block in visual.transformer.resblocks:
            stream = block(stream)
            levels.append(list(stream[0, 1:]))
        return levels

    @staticmethod
    def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
        return float(a @ b / a.norm() / b.norm())

    def s_p(self, query: list, personalized: list) -> list[list[float]]:
        return [
            [1 - self.cosine(a, b) for a, b in zip(level, other, strict=True)]
            for level, other in zip(query, personalized, strict=True)
        ]

    def s_n(self, query: list, bank: list[list]) -> list[list[float]]:
        return [
            [
                min(1 - self.cosine(patch, m) for image in bank for m in image[level])
                for patch in query[level]
            ]
            for level in range(len(query))
        ]

    def probability(self, vector: torch.Tensor) -> float:
        normal, anomalous = (np.exp(self.cosine(vector, t) / 0.01) for t in self.text)
        return float(anomalous / (normal + anomalous))

    def s_text(self, query: list) -> list[list[float]]:
        found = []
        for level, patches in enumerate(query):
            weight = torch.from_numpy(STATE[f"weight.{level}"]).double()
            bias = torch.from_numpy(STATE[f"bias.{level}"]).double()
            found.append([self.probability(weight @ patch + bias) for patch in patches])
        return found

    def class_token(self, image: Image) -> float:
        return self.probability(self.model.encode_image(pixels_of(image))[0])


def per_level(cells: list[list[float]]) -> float:
    return sum(max(level) for level in cells) / len(cells)


def of_mean(cells: list[list[float]]) -> float:
    return max(sum(values) / len(values) for values in zip(*cells, strict=True))


def by_hand(cells: list[list[float]], sigma: float) -> np.ndarray:
    """Mean over levels, enlarged bilinearly, blurred with the ends mirrored; axis by axis."""
    grid = np.mean(cells, axis=0).reshape(GRID, GRID)
    places = ((np.arange(SIZE) + 0.5) * GRID / SIZE - 0.5).clip(0, GRID - 1)
    rows = np.stack([np.interp(places, np.arange(GRID), column) for column in grid.T], axis=1)
    big = np.stack([np.interp(places, np.arange(GRID), row) for row in rows])
    if not sigma:
        return big
    reach = int(4 * sigma + 0.5)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    for _ in range(2):
        padded = np.pad(big, ((reach, reach), (0, 0)), mode="symmetric")
        blurred = [kernel @ padded[y : y + 2 * reach + 1] / kernel.sum() for y in range(SIZE)]
        big = np.stack(blurred).T
    return big


@pytest.fixture(scope="module")
def expected() -> dict:
    """Cells of every branch for every query; and the naive model, for single comparisons."""
    naive = Naive()
    bank = [naive.encode(image) for image in POOL]
    queries = [naive.encode(image) for image in QUERIES]
    others = [naive.encode(image) for image in PERSONALIZED]
    return {
        "naive": naive,
        "S_P": [naive.s_p(q, p) for q, p in zip(queries, others, strict=True)],
        "S_N": [naive.s_n(q, bank) for q in queries],
        "S_text": [naive.s_text(q) for q in queries],
        "queries": queries,
        "bank": bank,
    }


@pytest.mark.parametrize("sigma", [0.0, 4.0])
def test_scores_and_maps_equal_the_equations(tiny: str, expected: dict, sigma: float) -> None:
    found = predict(o2n(tiny, sigma=sigma))
    for i in range(len(QUERIES)):
        cells = {name: expected[name][i] for name in ("S_P", "S_N", "S_text")}
        branch = {name: per_level(levels) for name, levels in cells.items()}
        for name, value in branch.items():
            assert found.parts[name][i] == pytest.approx(value, abs=1e-5)
            hand = by_hand(cells[name], sigma)
            np.testing.assert_allclose(found.part_maps[name][i], hand, atol=1e-5)
        total = branch["S_P"] + branch["S_N"] + 0.5 * branch["S_text"]
        assert found.scores[i] == pytest.approx(total, abs=1e-5)
        whole = sum(w * by_hand(cells[n], sigma) for n, w in zip(cells, (1, 1, 0.5), strict=True))
        np.testing.assert_allclose(found.maps[i], whole, atol=1e-5)
    assert set(found.parts) == set(found.part_maps) == {"S_P", "S_N", "S_text"}
    assert found.scores.dtype == found.maps.dtype == np.float32
    assert found.maps.shape == (3, SIZE, SIZE)


def test_class_token_reading_equals_its_definition(tiny: str, expected: dict) -> None:
    method = o2n(tiny, text="class-token")
    assert not method.auxiliary
    found = predict(method)
    for i, image in enumerate(QUERIES):
        value = expected["naive"].class_token(image)
        assert found.parts["S_text"][i] == pytest.approx(value, abs=1e-5)
        np.testing.assert_allclose(found.part_maps["S_text"][i], value, atol=1e-5)
        assert found.parts["S_N"][i] == pytest.approx(per_level(expected["S_N"][i]), abs=1e-5)


def test_weights_only_weigh(tiny: str) -> None:
    features = memory()
    one = predict(o2n(tiny, features))
    other = predict(o2n(tiny, features, alpha=0.25, beta=3.0))
    for name in one.parts:
        assert np.array_equal(one.parts[name], other.parts[name])
    for whole, parts in ((other.scores, other.parts), (other.maps, other.part_maps)):
        total = parts["S_P"] + 0.25 * parts["S_N"] + 3 * parts["S_text"]
        np.testing.assert_allclose(whole, total, rtol=1e-6)


def test_maximum_of_the_mean_over_levels(tiny: str, expected: dict) -> None:
    found = predict(o2n(tiny, maximum="of-mean"))
    for name in found.parts:
        values = [of_mean(cells) for cells in expected[name]]
        np.testing.assert_allclose(found.parts[name], values, atol=1e-5)
        assert all(of_mean(cells) <= per_level(cells) for cells in expected[name])


def test_levels_are_those_asked_for(tiny: str, expected: dict) -> None:
    state = {"weight.0": STATE["weight.1"], "bias.0": STATE["bias.1"]}
    found = predict(o2n(tiny, levels=[2], state=state))
    for name in found.parts:
        values = [per_level([cells[1]]) for cells in expected[name]]
        np.testing.assert_allclose(found.parts[name], values, atol=1e-5)


def test_bank_of_the_same_cell_and_of_the_support(tiny: str, expected: dict) -> None:
    naive, queries, bank = expected["naive"], expected["queries"], expected["bank"]
    found = predict(o2n(tiny, scope="same-cell"))
    for i, query in enumerate(queries):
        cells = [
            [
                min(1 - naive.cosine(patch, image[level][place]) for image in bank)
                for place, patch in enumerate(query[level])
            ]
            for level in range(3)
        ]
        assert found.parts["S_N"][i] == pytest.approx(per_level(cells), abs=1e-5)
    found = predict(o2n(tiny, bank="support"))
    values = [per_level(naive.s_n(query, bank[:2])) for query in queries]
    np.testing.assert_allclose(found.parts["S_N"], values, atol=1e-5)


def test_search_takes_the_nearest_of_the_surroundings(tiny: str, expected: dict) -> None:
    naive = expected["naive"]
    found = predict(o2n(tiny, search=3))
    for i, (query, image) in enumerate(zip(expected["queries"], PERSONALIZED, strict=True)):
        other = naive.encode(image)
        cells = []
        for level in range(3):
            cells.append([])
            for y in range(GRID):
                for x in range(GRID):
                    around = [
                        1 - naive.cosine(query[level][y * GRID + x], other[level][v * GRID + u])
                        for v in range(max(0, y - 1), min(GRID, y + 2))
                        for u in range(max(0, x - 1), min(GRID, x + 2))
                    ]
                    cells[-1].append(min(around))
        assert found.parts["S_P"][i] == pytest.approx(per_level(cells), abs=1e-5)


def stacks(order: tuple[int, ...]) -> list[Image]:
    """Images of several prompts, one above the other."""
    sets = [pictures(3, seed=20 + number) for number in order]
    return [
        Image(f"stack{order}-{i}", np.vstack([images[i].pixels for images in sets]))
        for i in range(3)
    ]


@pytest.mark.parametrize(("selection", "join"), [("mean", np.mean), ("min", np.min)])
def test_several_prompts_images_without_selection(
    tiny: str, expected: dict, selection: str, join
) -> None:
    naive, method = expected["naive"], o2n(tiny, selection=selection)
    found = predict(method, personalized=stacks((0, 1, 2)))
    for i, query in enumerate(expected["queries"]):
        others = [naive.encode(pictures(3, seed=20 + number)[i]) for number in range(3)]
        cells = join([naive.s_p(query, other) for other in others], axis=0)
        assert found.parts["S_P"][i] == pytest.approx(per_level(cells.tolist()), abs=1e-5)
    again = predict(method, personalized=stacks((2, 0, 1)))
    np.testing.assert_allclose(again.scores, found.scores, rtol=1e-6)


def test_a_stack_where_one_image_was_expected_is_refused(tiny: str) -> None:
    with pytest.raises(ValueError, match="keeps the images of all 3 prompts"):
        predict(o2n(tiny), personalized=stacks((0, 1, 2)))
    mixed = [*stacks((0, 1, 2))[:2], PERSONALIZED[2]]
    with pytest.raises(ValueError, match="unequal numbers"):
        predict(o2n(tiny, selection="mean"), personalized=mixed)


def test_an_unchanged_query_scores_0(tiny: str) -> None:
    for parameters in ({}, {"scope": "same-cell"}, {"search": 3}, {"maximum": "of-mean"}):
        found = predict(o2n(tiny, **parameters), POOL[1:4], POOL[1:4])
        assert not found.parts["S_P"].any()
        assert not found.parts["S_N"].any()
        assert not found.part_maps["S_P"].any()
        assert not found.part_maps["S_N"].any()
        assert (found.parts["S_text"] > 0).all()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), few=st.integers(1, 20), more=st.integers(0, 20))
def test_a_larger_bank_is_never_farther(seed: int, few: int, more: int) -> None:
    random = torch.Generator().manual_seed(seed)
    queries = unit(torch.randn(2, 9, 5, generator=random))
    bank = unit(torch.randn(few + more, 9, 5, generator=random))
    for distance, shape in (
        (_o2n_compare.bank_distance, lambda b: b.flatten(0, 1)),
        (_o2n_compare.bank_distance_in_place, lambda b: b),
    ):
        small = distance(queries, shape(bank[:few]))
        large = distance(queries, shape(bank))
        assert bool((large <= small + 1e-6).all())
        assert 0 <= float(large.min()) <= float(large.max()) <= 2 + 1e-6


def test_a_bank_larger_than_the_memory_for_it_gives_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    random = torch.Generator().manual_seed(0)
    queries = unit(torch.randn(5, 9, 4, generator=random))
    bank = unit(torch.randn(50, 4, generator=random))
    whole = _o2n_compare.bank_distance(queries, bank)
    monkeypatch.setattr(_o2n_compare, "_BUDGET", 9 * 7)
    torch.testing.assert_close(_o2n_compare.bank_distance(queries, bank), whole)


@pytest.mark.parametrize("text", ["adapter", "class-token"])
def test_no_query_or_order_changes_a_score(tiny: str, text: str) -> None:
    method = o2n(tiny, text=text)
    queries, personalized = pictures(35, seed=5), pictures(35, seed=6)  # more than one block
    found = predict(method, queries, personalized)
    mixed = support(REFERENCES[::-1], (*POOL[3:], *POOL[:3]))
    for place in (0, 7, 34):
        alone = predict(method, queries[place : place + 1], personalized[place : place + 1], mixed)
        for name, values in found.parts.items():
            assert np.array_equal(alone.parts[name], values[place : place + 1])
        assert np.array_equal(alone.maps, found.maps[place : place + 1])


def test_branches_see_what_is_theirs(tiny: str) -> None:
    features = memory()
    one = predict(o2n(tiny, features)).parts
    other_bank = predict(o2n(tiny, features), cell=support(pool=pictures(4, seed=8))).parts
    other_images = predict(o2n(tiny, features), personalized=pictures(3, seed=9)).parts
    untrained = TextLayers.fresh([32] * 3, 24, seed=1, device="cpu").arrays()
    other_layers = predict(o2n(tiny, features, state=untrained)).parts
    for other, changed in ((other_bank, "S_N"), (other_images, "S_P"), (other_layers, "S_text")):
        for name, values in one.items():
            assert np.array_equal(values, other[name]) == (name != changed)


def test_text_scores_are_probabilities(tiny: str) -> None:
    for text in ("adapter", "class-token"):
        found = predict(o2n(tiny, text=text))
        for values in (found.parts["S_text"], found.part_maps["S_text"]):
            assert 0 <= values.min() <= values.max() <= 1


def test_maps_only_where_they_are_wanted(tiny: str) -> None:
    method = o2n(tiny)
    method.fit(support())
    found = method.predict(Queries(QUERIES, PERSONALIZED, maps=False))
    assert found.maps is None
    assert not found.part_maps
    assert np.array_equal(found.scores, predict(method).scores)


def test_a_second_support_costs_its_own_images_only(tiny: str) -> None:
    features = memory()
    method = o2n(tiny, features)
    predict(method)
    before = features.computed
    predict(method, personalized=pictures(3, seed=30), cell=support(pool=pictures(4, seed=31)))
    assert features.computed - before == 3 + 4  # personalized images and pool, no query


def test_crop_looks_at_the_centre_of_query_and_personalized_image_alike(tiny: str) -> None:
    wide = pictures(2, height=48, width=96, seed=40)
    squeezed = [Image(f"{i.key}s", np.ascontiguousarray(i.pixels[:, ::2])) for i in wide]
    method = o2n(tiny, crop=True)
    found = predict(method, wide, squeezed)
    centre = [Image(f"{i.key}c", np.ascontiguousarray(i.pixels[:, 24:72])) for i in wide]
    direct = predict(o2n(tiny), centre, PERSONALIZED[:2])
    np.testing.assert_allclose(found.parts["S_N"], direct.parts["S_N"], rtol=1e-6)
    np.testing.assert_allclose(found.parts["S_text"], direct.parts["S_text"], rtol=1e-6)
    assert found.maps.shape == (2, SIZE, SIZE)
    for cut, whole in zip(found.part_maps["S_N"], direct.part_maps["S_N"], strict=True):
        assert (cut[:, :10] == whole.min()).all()  # what was not looked at
        assert (cut[:, -10:] == whole.min()).all()
        np.testing.assert_allclose(
            cut[:, 13:35], (whole[:, 2::2] + whole[:, 3::2])[:, :22] / 2, atol=1e-4
        )
    same = predict(method, QUERIES, PERSONALIZED)  # square ones are not cropped
    assert np.array_equal(same.scores, predict(o2n(tiny)).scores)


def test_floor_is_what_the_autoencoder_alone_changes(tiny: str, base: str) -> None:
    """A generator at strength 0 gives the autoencoder's reconstruction (t to 0)."""
    features = memory()
    generator = DreamBooth(
        base=base, tune="lora", rank=2, train_steps=1, copies=1, prompts=1, strength=0.0
    )
    generator.setup("cpu", features)
    cell = support()
    generator.load(generator.customize(cell, {}), cell)
    made = generator.personalize(QUERIES, 0).images
    personalized = [Image(f"made-{i}", pixels) for i, pixels in enumerate(made)]
    found = predict(
        o2n(tiny, features, autoencoder=base, autoencoder_size=32), QUERIES, personalized
    )
    assert np.array_equal(found.parts["S_P"], found.parts["floor"])
    assert (found.parts["floor"] > 0.01).all()
    assert "floor" not in found.part_maps
    plain = predict(o2n(tiny, features), QUERIES, personalized)
    assert np.array_equal(plain.scores, found.scores)
    against = o2n(tiny, features, autoencoder=base, against="reconstruction")
    assert not predict(against, QUERIES, personalized).parts["S_P"].any()


def test_the_floor_depends_on_nothing_but_the_query(tiny: str, base: str) -> None:
    features = memory()
    method = o2n(tiny, features, autoencoder=base)
    one = predict(method).parts["floor"]
    before = features.computed
    other = predict(method, personalized=pictures(3, seed=9), cell=support(pool=POOL[:2]))
    assert np.array_equal(one, other.parts["floor"])
    assert features.computed - before == 3  # the new personalized images


def test_what_is_missing_is_said(tiny: str, base: str) -> None:
    with pytest.raises(ValueError, match="expected a personalized image of each of 3 queries"):
        predict(o2n(tiny), personalized=())
    with pytest.raises(RuntimeError, match="load the trained linear layers first"):
        predict(o2n(tiny, state=None))
    with pytest.raises(ValueError, match=r"layers are for levels of \[32, 32, 32\] channels, but"):
        o2n(tiny, levels=[1, 2])
    method = O2n(encoder={"model": "tf_efficientnet_lite0", "weights": "random:0"})
    with pytest.raises(ValueError, match="embeds no sentences"):
        method.setup("cpu", memory())
    with pytest.raises(ValueError, match="autoencoder_size must be a multiple of 4"):
        o2n(tiny, autoencoder=base, autoencoder_size=31)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"text": "clip"}, "text parameter of o2n must be one of adapter, class-token. Got 'clip'"),
        ({"scope": "cell"}, "scope parameter of o2n must be one of all, same-cell"),
        ({"bank": "refs"}, "bank parameter of o2n must be one of pool, support"),
        ({"maximum": "mean"}, "maximum parameter of o2n must be one of per-level, of-mean"),
        ({"selection": "ssim"}, "selection parameter of o2n must be one of generator, mean, min"),
        ({"against": "vae"}, "against parameter of o2n must be one of query, reconstruction"),
        ({"against": "reconstruction"}, "against: reconstruction needs `autoencoder`"),
        ({"autoencoder_size": 64}, "autoencoder_size needs `autoencoder`"),
        ({"alpha": -1.0}, "alpha parameter of o2n must be at least 0"),
        ({"beta": float("nan")}, "beta parameter of o2n must be at least 0"),
        ({"sigma": float("inf")}, "sigma parameter of o2n must be at least 0, and finite"),
        ({"temperature": 0.0}, "temperature parameter of o2n must be a finite number above 0"),
        ({"mosaic": 1.5}, "mosaic parameter of o2n must be between 0 and 1"),
        ({"search": 2}, "search parameter of o2n must be odd"),
        ({"levels": []}, "levels parameter of o2n must be a list of blocks"),
        ({"levels": [0, 3]}, "levels parameter of o2n must be a list of blocks"),
        ({"epochs": 0}, "epochs parameter of o2n must be at least 1"),
        ({"size": 0}, "size parameter of o2n must be at least 1"),
        ({"encoder": {"weights": "openai"}}, "encoder must be"),
    ],
)
def test_wrong_values_are_refused_before_anything_is_loaded(parameters, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        O2n(**parameters)


def test_defaults_are_the_papers() -> None:
    method = O2n()
    assert (method.size, method.alpha, method.beta) == (240, 1.0, 0.5)
    assert method.encoder == {"model": "ViT-L-14-336", "weights": "openai"}
    assert (method.generator, method.personalized, method.auxiliary) == (True, True, True)
    assert _o2n_compare.default_levels(dict.fromkeys(range(1, 25), 1024)) == (6, 12, 18, 24)
    assert _o2n_compare.default_levels({1: 16, 2: 24, 3: 40, 4: 112}) == (2, 3, 4)


SWEEP = """
name: x
datasets: [{use: surfaces}]
methods: [{use: o2n%s}]
generators: {g: {use: dreambooth}}
shots: [2]
seeds: [0]
"""


def problems(tmp_path: Path, method: str, tail: str = "") -> str:
    path = tmp_path / "sweep.yaml"
    path.write_text(SWEEP % method + tail)
    try:
        config.load(path)
    except InputError as error:
        return "\n".join(map(str, error.problems))
    return ""


def test_a_sweep_must_name_a_generator_and_an_auxiliary_dataset(tmp_path: Path) -> None:
    auxiliary = "auxiliary: [{use: mvtec}]"
    assert "o2n needs a generator" in problems(tmp_path, "", auxiliary)
    assert "trains on an auxiliary dataset" in problems(tmp_path, ", generator: g")
    assert problems(tmp_path, ", generator: g", auxiliary) == ""
    assert problems(tmp_path, ", generator: g, params: {text: class-token}") == ""
    wrong = ", generator: g, params: {alpa: 1}"
    assert "no such parameter" in problems(tmp_path, wrong, auxiliary)
    assert "expected a valid number" in problems(
        tmp_path, ", generator: g, params: {alpha: much}", auxiliary
    )


def test_it_runs_on_levels_of_different_grids(expected: dict) -> None:
    """Convolutional levels: each has its own maximum; the map has the finest grid."""
    random = torch.Generator().manual_seed(0)
    fine, coarse = torch.rand(2, 8, 8, generator=random), torch.rand(2, 4, 4, generator=random)
    score = _o2n_compare.score_of([fine, coarse], of_mean=False)
    for i in range(2):
        assert float(score[i]) == pytest.approx(float(fine[i].max() + coarse[i].max()) / 2)
    mean = _o2n_compare.mean_map([fine, coarse])
    big = torch.nn.functional.interpolate(coarse[None], (8, 8), mode="bilinear")[0]
    torch.testing.assert_close(mean, (fine + big) / 2)


def test_the_embedded_models_keep_the_promises() -> None:
    features = memory()
    spec = {"model": "micro", "weights": "embedded"}
    if not (Path(__file__).parents[1] / "methods/micro/clip/model.safetensors").is_file():
        pytest.skip("the embedded models are not in this checkout")
    method = O2n(encoder=spec, size=128, text="class-token")
    assert "micro" in method.note
    method.setup("cpu", features)
    found = predict(method)
    assert ((found.parts["S_P"] > 0) & (found.parts["S_N"] > 0)).all()
    for values in (found.parts["S_text"], found.part_maps["S_text"]):
        assert 0 <= values.min() <= values.max() <= 1
    same = predict(method, POOL[1:4], POOL[1:4])
    assert not same.parts["S_P"].any()
    assert not same.parts["S_N"].any()
    alone = predict(method, QUERIES[1:2], PERSONALIZED[1:2], support(REFERENCES, POOL[::-1]))
    assert np.array_equal(alone.scores, found.scores[1:2])
    fewer = predict(method, cell=support(pool=POOL[:3]))
    assert (found.parts["S_N"] <= fewer.parts["S_N"] + 1e-6).all()

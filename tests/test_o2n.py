"""One-to-Normal against loops over its equations, in float64."""

from __future__ import annotations

import numpy as np
import open_clip
import pytest
import torch

from harness.interface import Image
from methods._o2n import compare
from methods._ops.prompts import compose
from tests.clip_fixtures import SIZE, build_model, memory, pictures, pixels_of, write_config
from tests.o2n_fixtures import PERSONALIZED, POOL, QUERIES, STATE, o2n, predict

GRID = 6


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_config(tmp_path_factory.mktemp("o2n"))


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
        levels = []
        for level, patches in enumerate(query):
            weight = torch.from_numpy(STATE[f"weight.{level}"]).double()
            bias = torch.from_numpy(STATE[f"bias.{level}"]).double()
            levels.append([self.probability(weight @ patch + bias) for patch in patches])
        return levels

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
    prediction = predict(o2n(tiny, sigma=sigma))
    for i in range(len(QUERIES)):
        cells = {name: expected[name][i] for name in ("S_P", "S_N", "S_text")}
        branch = {name: per_level(levels) for name, levels in cells.items()}
        for name, value in branch.items():
            assert prediction.parts[name][i] == pytest.approx(value, abs=1e-5)
            hand = by_hand(cells[name], sigma)
            np.testing.assert_allclose(prediction.part_maps[name][i], hand, atol=1e-5)
        total = branch["S_P"] + branch["S_N"] + 0.5 * branch["S_text"]
        assert prediction.scores[i] == pytest.approx(total, abs=1e-5)
        whole = sum(w * by_hand(cells[n], sigma) for n, w in zip(cells, (1, 1, 0.5), strict=True))
        np.testing.assert_allclose(prediction.maps[i], whole, atol=1e-5)
    assert set(prediction.parts) == set(prediction.part_maps) == {"S_P", "S_N", "S_text"}
    assert prediction.scores.dtype == prediction.maps.dtype == np.float32
    assert prediction.maps.shape == (3, SIZE, SIZE)


def test_class_token_reading_equals_its_definition(tiny: str, expected: dict) -> None:
    method = o2n(tiny, text="class-token")
    assert not method.auxiliary
    prediction = predict(method)
    for i, image in enumerate(QUERIES):
        value = expected["naive"].class_token(image)
        assert prediction.parts["S_text"][i] == pytest.approx(value, abs=1e-5)
        np.testing.assert_allclose(prediction.part_maps["S_text"][i], value, atol=1e-5)
        assert prediction.parts["S_N"][i] == pytest.approx(per_level(expected["S_N"][i]), abs=1e-5)


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
    prediction = predict(o2n(tiny, maximum="of-mean"))
    for name in prediction.parts:
        values = [of_mean(cells) for cells in expected[name]]
        np.testing.assert_allclose(prediction.parts[name], values, atol=1e-5)
        assert all(of_mean(cells) <= per_level(cells) for cells in expected[name])


def test_levels_are_those_asked_for(tiny: str, expected: dict) -> None:
    state = {"weight.0": STATE["weight.1"], "bias.0": STATE["bias.1"]}
    prediction = predict(o2n(tiny, levels=[2], state=state))
    for name in prediction.parts:
        values = [per_level([cells[1]]) for cells in expected[name]]
        np.testing.assert_allclose(prediction.parts[name], values, atol=1e-5)


def test_bank_of_the_same_cell_and_of_the_support(tiny: str, expected: dict) -> None:
    naive, queries, bank = expected["naive"], expected["queries"], expected["bank"]
    prediction = predict(o2n(tiny, scope="same-cell"))
    for i, query in enumerate(queries):
        cells = [
            [
                min(1 - naive.cosine(patch, image[level][place]) for image in bank)
                for place, patch in enumerate(query[level])
            ]
            for level in range(3)
        ]
        assert prediction.parts["S_N"][i] == pytest.approx(per_level(cells), abs=1e-5)
    prediction = predict(o2n(tiny, bank="support"))
    values = [per_level(naive.s_n(query, bank[:2])) for query in queries]
    np.testing.assert_allclose(prediction.parts["S_N"], values, atol=1e-5)


def test_search_takes_the_nearest_of_the_surroundings(tiny: str, expected: dict) -> None:
    naive = expected["naive"]
    prediction = predict(o2n(tiny, search=3))
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
        assert prediction.parts["S_P"][i] == pytest.approx(per_level(cells), abs=1e-5)


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
    prediction = predict(method, personalized=stacks((0, 1, 2)))
    for i, query in enumerate(expected["queries"]):
        others = [naive.encode(pictures(3, seed=20 + number)[i]) for number in range(3)]
        cells = join([naive.s_p(query, other) for other in others], axis=0)
        assert prediction.parts["S_P"][i] == pytest.approx(per_level(cells.tolist()), abs=1e-5)
    again = predict(method, personalized=stacks((2, 0, 1)))
    np.testing.assert_allclose(again.scores, prediction.scores, rtol=1e-6)


def test_a_stack_where_one_image_was_expected_is_refused(tiny: str) -> None:
    with pytest.raises(ValueError, match="keeps the images of all 3 prompts"):
        predict(o2n(tiny), personalized=stacks((0, 1, 2)))
    mixed = [*stacks((0, 1, 2))[:2], PERSONALIZED[2]]
    with pytest.raises(ValueError, match="unequal numbers"):
        predict(o2n(tiny, selection="mean"), personalized=mixed)


def test_it_runs_on_levels_of_different_grids() -> None:
    """Convolutional levels: each has its own maximum; the map has the finest grid."""
    random = torch.Generator().manual_seed(0)
    fine, coarse = torch.rand(2, 8, 8, generator=random), torch.rand(2, 4, 4, generator=random)
    score = compare.score_of([fine, coarse], of_mean=False)
    for i in range(2):
        assert float(score[i]) == pytest.approx(float(fine[i].max() + coarse[i].max()) / 2)
    mean = compare.mean_map([fine, coarse])
    big = torch.nn.functional.interpolate(coarse[None], (8, 8), mode="bilinear")[0]
    torch.testing.assert_close(mean, (fine + big) / 2)

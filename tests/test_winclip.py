"""WinCLIP against naive loops over its definitions, in float64, on a small random CLIP."""

from __future__ import annotations

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import config
from harness.checking.contract import check
from harness.interface import Image, Prediction, Queries, Support
from methods._encoders.pictures import uncropped
from methods._ops.crop import centre
from methods._ops.prompts import compose
from methods._ops.windows import harmonic_mean, members, nearest, spread, upsample
from methods.winclip import Winclip
from tests.clip_fixtures import SIZE, build_model, memory, pictures, pixels_of, write_config

GRID = 6


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_config(tmp_path_factory.mktemp("winclip"))


def winclip(tiny: str, features=None, **parameters) -> Winclip:
    method = Winclip(encoder={"model": tiny, "weights": "random:0"}, size=SIZE, **parameters)
    method.setup("cpu", features or memory())
    return method


def predict(
    method: Winclip, references: tuple[Image, ...], queries: tuple[Image, ...]
) -> Prediction:
    method.fit(Support(references, object_name="metal_nut"))
    return method.predict(Queries(queries))


class Naive:
    """The paper's definitions, one window, patch and reference at a time."""

    def __init__(self, temperature: float = 0.01, normalize: bool = True) -> None:
        self.model = build_model()
        self.temperature = temperature
        self.text = []
        for sentences in compose("metal nut"):
            total = 0
            for sentence in sentences:
                embedding = self.model.encode_text(open_clip.tokenize([sentence]))[0]
                total = total + (embedding / embedding.norm() if normalize else embedding)
            self.text.append(total / total.norm())

    def probability(self, embedding: torch.Tensor) -> float:
        unit = embedding / embedding.norm()
        normal, anomalous = (float(torch.exp(unit @ t / self.temperature)) for t in self.text)
        return anomalous / (normal + anomalous)

    def encode(self, image: Image) -> dict:
        visual = self.model.visual
        patches = visual.conv1(pixels_of(image)).flatten(2)[0].T
        sequence = torch.cat([visual.class_embedding[None], patches]) + visual.positional_embedding
        encoded = {"image": self.model.encode_image(pixels_of(image))[0]}
        stream = visual.transformer(visual.ln_pre(sequence)[None])[0]
        encoded[1] = {(r, c): stream[1 + r * GRID + c] for r in range(GRID) for c in range(GRID)}
        for side in (2, 3):
            encoded[side] = {}
            for row in range(GRID - side + 1):
                for column in range(GRID - side + 1):
                    index = [0]
                    for y in range(side):
                        for x in range(side):
                            index.append(1 + (row + y) * GRID + column + x)
                    out = visual.transformer(visual.ln_pre(sequence[index])[None])[0, 0]
                    encoded[side][row, column] = visual.ln_post(out) @ visual.proj
        return encoded

    @staticmethod
    def patches(scores: dict, side: int) -> np.ndarray:
        result = np.zeros((GRID, GRID))
        for row in range(GRID):
            for column in range(GRID):
                covering = [
                    score
                    for (r, c), score in scores.items()
                    if r <= row < r + side and c <= column < c + side
                ]
                result[row, column] = len(covering) / sum(1 / s for s in covering)
        return result

    def text_map(self, query: dict) -> np.ndarray:
        image = self.probability(query["image"])
        maps = [
            self.patches({k: self.probability(v) for k, v in query[side].items()}, side)
            for side in (2, 3)
        ]
        return 3 / (1 / maps[0] + 1 / maps[1] + 1 / image)

    def association(self, query: dict, references: list[dict]) -> np.ndarray:
        maps = []
        for side in (1, 2, 3):
            scores = {}
            for place, vector in query[side].items():
                cosines = [
                    float(vector @ other / vector.norm() / other.norm())
                    for reference in references
                    for other in reference[side].values()
                ]
                scores[place] = 0.5 * (1 - max(cosines))
            maps.append(self.patches(scores, side))
        return sum(maps) / 3


def enlarged(grid: np.ndarray) -> np.ndarray:
    """Bilinear by hand: samples at pixel centres, clamped at the border."""
    places = ((np.arange(SIZE) + 0.5) * GRID / SIZE - 0.5).clip(0, GRID - 1)
    rows = np.stack([np.interp(places, np.arange(GRID), column) for column in grid.T], axis=1)
    return np.stack([np.interp(places, np.arange(GRID), row) for row in rows])


@pytest.mark.parametrize(("temperature", "normalize"), [(0.01, True), (0.07, False)])
def test_zero_shot_equals_the_definition(tiny: str, temperature: float, normalize: bool) -> None:
    queries = pictures(2)
    method = winclip(tiny, temperature=temperature, normalize=normalize)
    prediction = predict(method, (), queries)
    naive = Naive(temperature, normalize)
    for i, image in enumerate(queries):
        query = naive.encode(image)
        assert prediction.scores[i] == pytest.approx(naive.probability(query["image"]), rel=1e-4)
        np.testing.assert_allclose(prediction.maps[i], enlarged(naive.text_map(query)), rtol=1e-4)
    assert prediction.maps.shape == (2, SIZE, SIZE)
    assert prediction.scores.dtype == prediction.maps.dtype == np.float32


def test_few_shot_equals_the_definition(tiny: str) -> None:
    queries, references = pictures(2), pictures(2, seed=1)
    naive = Naive()
    encoded = [naive.encode(image) for image in references]
    prediction = predict(winclip(tiny), references, queries)
    means = predict(winclip(tiny, map="mean"), references, queries)
    alone = predict(winclip(tiny, map="association", score="association"), references, queries)
    for i, image in enumerate(queries):
        query = naive.encode(image)
        text, association = naive.text_map(query), naive.association(query, encoded)
        score = 0.5 * (naive.probability(query["image"]) + association.max())
        assert prediction.scores[i] == pytest.approx(score, rel=1e-4)
        assert alone.scores[i] == pytest.approx(association.max(), rel=1e-4)
        assert prediction.parts["association"][i] == pytest.approx(association.max(), rel=1e-4)
        np.testing.assert_allclose(prediction.maps[i], enlarged(text + association), rtol=1e-4)
        np.testing.assert_allclose(means.maps[i], enlarged((text + association) / 2), rtol=1e-4)
        np.testing.assert_allclose(alone.maps[i], enlarged(association), rtol=1e-4)


def test_worked_vector_of_harmonic_windows() -> None:
    scores = torch.tensor([[[1.0, 0.75], [0.5, 0.25]]])
    expected = [[1, 6 / 7, 0.75], [2 / 3, 0.48, 0.375], [0.5, 1 / 3, 0.25]]
    np.testing.assert_allclose(spread(scores, 2)[0], expected, rtol=1e-12)


@settings(deadline=None, max_examples=30)
@given(
    st.integers(1, 4),
    st.integers(0, 3),
    st.integers(0, 3),
    st.integers(0, 2**16),
)
def test_spread_is_the_mean_over_covering_windows(
    side: int, rows: int, columns: int, seed: int
) -> None:
    height, width = side + rows, side + columns
    scores = torch.rand((2, rows + 1, columns + 1), generator=torch.Generator().manual_seed(seed))
    scores = scores.double() + 0.01
    index = members(height, width, side)
    for i in range(2):
        for patch in range(height * width):
            covering = scores[i].flatten()[(index == patch).any(dim=1)]
            expected = len(covering) / float((1 / covering).sum())
            assert float(spread(scores, side)[i].flatten()[patch]) == pytest.approx(expected)


def test_scores_of_zero_are_not_errors() -> None:
    scores = torch.tensor([[[0.0, 0.5], [0.5, 0.5]]])
    spreads = spread(scores, 2)[0]
    assert spreads[0, 0] == spreads[1, 1] == 0
    assert spreads[2, 2] == pytest.approx(0.5)
    assert float(harmonic_mean([torch.tensor(0.0), torch.tensor(0.7)])) == 0
    vectors = torch.eye(3)[None]
    assert torch.equal(nearest(vectors, torch.eye(3)), torch.zeros(1, 3))


def test_a_query_among_the_references_has_no_association(tiny: str) -> None:
    queries = pictures(3)
    prediction = predict(winclip(tiny), queries[:2], queries)
    assert (prediction.parts["association"][:2] < 1e-6).all()
    assert prediction.parts["association"][2] > 1e-3


def test_order_of_references_and_batch_change_nothing(tiny: str) -> None:
    queries, references = pictures(5), pictures(3, seed=1)
    together = predict(winclip(tiny), references, queries)
    turned = predict(winclip(tiny), references[::-1], queries[::-1])
    np.testing.assert_array_equal(together.scores, turned.scores[::-1])
    np.testing.assert_array_equal(together.maps, turned.maps[::-1])
    alone = predict(winclip(tiny), references, queries[3:4])
    np.testing.assert_array_equal(alone.scores[0], together.scores[3])
    np.testing.assert_array_equal(alone.maps[0], together.maps[3])


def test_zero_shot_forgets_the_references_before(tiny: str) -> None:
    queries = pictures(3)
    fresh = predict(winclip(tiny), (), queries)
    method = winclip(tiny)
    few = predict(method, pictures(2, seed=1), queries)
    again = predict(method, (), queries)
    np.testing.assert_array_equal(fresh.scores, again.scores)
    np.testing.assert_array_equal(fresh.maps, again.maps)
    assert not np.allclose(few.scores, fresh.scores)
    assert set(again.parts) == {"text"}
    assert 0 in Winclip.shots


def test_queries_and_sentences_are_encoded_once(tiny: str) -> None:
    """For all shots and seeds, and for another WinCLIP of the same worker."""
    features = memory()
    queries = pictures(4)
    method = winclip(tiny, features)
    for seed, shots in ((1, 1), (2, 2), (3, 0)):
        predict(method, pictures(shots, seed=seed), queries)
    assert features.computed == 4 + 1 + 2
    predict(winclip(tiny, features, temperature=0.07), (), queries)
    assert features.computed == 7
    asked = []
    original = method._encoder.encode_text
    method._encoder.encode_text = lambda sentences: (
        asked.append(len(sentences)) or original(sentences)
    )
    predict(method, (), queries)
    assert asked == []
    method.fit(Support((), object_name="pill"))
    assert asked == [154, 88]


def test_pool_replaces_the_support(tiny: str) -> None:
    queries, pool = pictures(2), pictures(4, seed=1)
    method = winclip(tiny)
    method.fit(Support(pool[:1], object_name="metal_nut", pool=pool))
    pooled = method.predict(Queries(queries))
    np.testing.assert_array_equal(pooled.scores, predict(winclip(tiny), pool, queries).scores)


def test_maps_only_when_asked(tiny: str) -> None:
    method, queries = winclip(tiny), pictures(2)
    with_maps = predict(method, pictures(1, seed=1), queries)
    without = method.predict(Queries(queries, maps=False))
    assert without.maps is None
    np.testing.assert_array_equal(without.scores, with_maps.scores)


def test_crop_sees_the_centre_only(tiny: str) -> None:
    wide = pictures(1, 48, 96)[0]
    cut = wide.pixels.copy()
    cut[:, :24], cut[:, 72:] = 0, 255
    edited = Image("edited", cut)
    prediction = predict(winclip(tiny, crop=True), pictures(1, seed=1), (wide, edited))
    assert prediction.scores[0] == prediction.scores[1]
    np.testing.assert_array_equal(prediction.maps[0], prediction.maps[1])
    # The map covers the whole image: the centre half of its columns, nothing beside.
    assert prediction.maps.shape == (2, SIZE, SIZE)
    assert (prediction.maps[0][:, :12] == 0).all()
    assert (prediction.maps[0][:, 36:] == 0).all()
    assert (prediction.maps[0][:, 12:36] > 0).all()
    square = Image("square", centre(wide.pixels, SIZE, SIZE, "bicubic"))
    same = predict(winclip(tiny), pictures(1, seed=1), (square,))
    np.testing.assert_array_equal(same.scores[0], prediction.scores[0])


def test_windows_of_one_patch_stand_beside_the_patches(tiny: str) -> None:
    queries, support = pictures(2, seed=4), pictures(1, seed=1)
    maps = {}
    for windows in ((1, 2), (2,), (1,)):
        method = winclip(tiny, windows=windows)
        method.fit(Support(support, object_name="metal_nut"))
        maps[windows] = method._association(method._encode(queries))
        assert len(method._references) == len(windows) + 1, "the patches' scale is gone"
    # Means over (patches, 1, 2), (patches, 2) and (patches, 1): what differs is the patches' own.
    patches = 2 * maps[2,] + 2 * maps[1,] - 3 * maps[1, 2]
    encodings = [method._encode(some) for some in (queries, support)]
    own, bank = (torch.stack([e.levels[0] for e in some]).flatten(1, 2) for some in encodings)
    cosine = F.cosine_similarity(own[:, :, None], bank[0][None, None], dim=3)
    expected = (1 - cosine.amax(2)) / 2
    torch.testing.assert_close(patches.flatten(1).float(), expected, rtol=0, atol=1e-4)


def test_uncropped_leaves_squares_alone() -> None:
    maps = torch.rand((3, 4, 4), generator=torch.Generator().manual_seed(0)) + 0.1
    restored = uncropped(maps, [(20, 10), (9, 9), (10, 30)], 12)
    assert restored.shape == (3, 12, 12)
    assert torch.equal(restored[1], upsample(maps, (12, 12))[1])
    assert torch.equal(restored[0, 3:9], upsample(maps, (6, 12))[0])
    assert (restored[0, :3] == 0).all()
    assert (restored[0, 9:] == 0).all()
    assert torch.equal(restored[2, :, 4:8], upsample(maps, (12, 4))[2])
    assert float(restored[2].sum()) == pytest.approx(float(restored[2, :, 4:8].sum()))


def test_uncropped_leaves_its_input_alone_at_equal_size() -> None:
    maps = torch.rand((2, 12, 12), generator=torch.Generator().manual_seed(0)) + 0.1
    original = maps.clone()
    restored = uncropped(original, [(20, 10), (9, 9)], 12)
    assert torch.equal(original, maps)
    assert torch.equal(restored[0, 3:9], upsample(maps, (6, 12))[0])
    assert (restored[0, :3] == 0).all()
    assert (restored[0, 9:] == 0).all()
    assert torch.equal(restored[1], maps[1])


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"map": "max"}, "map: expected"),
        ({"score": "sum"}, "score: expected"),
        ({"templates": "mine"}, "templates: expected"),
        ({"temperature": 0}, "temperature: expected"),
        ({"windows": ()}, "windows: expected"),
    ],
)
def test_parameters_are_checked(parameters: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        config.build("method", "winclip", parameters)


def test_encoders_without_text_are_refused() -> None:
    method = Winclip(encoder={"model": "tf_efficientnet_lite0", "weights": "random:0"})
    with pytest.raises(ValueError, match="embeds no sentences"):
        method.setup("cpu", memory())


def test_promises_are_kept(tiny: str, capsys: pytest.CaptureFixture[str]) -> None:
    params = {"size": SIZE}
    kept = check("winclip", {"encoder": {"model": tiny, "weights": "random:0"}, **params})
    assert kept == 0, capsys.readouterr().out

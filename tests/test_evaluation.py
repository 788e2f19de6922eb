"""What stands beside a cell's metrics: defect regions lost by resizing, trivial statistics."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import label

from harness.data.images import resize_mask
from harness.interface import Image, Prediction, Sample
from harness.results.evaluation import evaluate, predicted, vanished


def naive(mask: np.ndarray, size: tuple[int, int]) -> tuple[int, int]:
    regions, count = label(mask, structure=np.ones((3, 3)))
    lost = [not resize_mask(regions == n, size).any() for n in range(1, count + 1)]
    return sum(lost), count


@given(st.integers(0, 10_000), st.integers(3, 60), st.integers(2, 60), st.integers(2, 40))
def test_vanished_regions_are_those_without_a_pixel_left(
    seed: int, height: int, width: int, side: int
) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < 0.08
    assert vanished(mask, (side, side)) == naive(mask, (side, side))


def test_a_small_defect_in_a_large_image() -> None:
    mask = np.zeros((1024, 1024), bool)
    mask[100:300, 100:300] = mask[503:505, 705:707] = True
    assert not resize_mask(mask, (256, 256))[120:130, 170:180].any()
    assert vanished(mask, (256, 256)) == (1, 2)
    assert vanished(mask, (1024, 1024)) == (0, 2)
    assert vanished(np.zeros((9, 9), bool), (3, 3)) == (0, 0)


@pytest.mark.parametrize("small", [False, True])
def test_what_vanishes_is_counted_and_stands_in_the_status(small: bool) -> None:
    masks = np.zeros((4, 64, 64), bool)
    masks[2, 10:30, 10:30] = masks[3, 20:40, 20:40] = True
    if small:
        masks[3, 5, 5] = True
        masks[3, 9, 60] = True
    samples = [Sample(f"{i}", int(i > 1), f"m{i}" if i > 1 else None) for i in range(4)]
    rng = np.random.default_rng(0)
    maps = rng.random((4, 16, 16), dtype=np.float32)
    parts = [{"scores": maps.max(axis=(1, 2)), "maps": maps, "gallery.index": np.arange(4)}]
    images = [Image(str(i), np.zeros((64, 64, 3), np.uint8)) for i in range(4)]
    mask_of = {s.image: None if s.mask is None else masks[i] for i, s in enumerate(samples)}
    statistics = [{"mean": float(i), "std": 1.0} for i in range(4)]
    _, meta = evaluate(
        parts, samples, images, lambda s: mask_of[s.image], 16, 0, statistics=statistics
    )
    row = meta["row"]
    assert row["n_vanished"] == 2 * small
    expected = "2 of 4 defect regions vanish at 16 x 16 pixels" if small else "ok"
    assert row["status"] == expected
    assert (row["trivial"], row["trivial_auroc"]) == ("mean", 1.0)


def test_without_masks_nothing_is_counted() -> None:
    samples = [Sample(f"{i}", i % 2) for i in range(4)]
    parts = [{"scores": np.arange(4, dtype=np.float32), "gallery.index": np.arange(0)}]
    images = [Image(str(i), np.zeros((8, 8, 3), np.uint8)) for i in range(4)]
    _, meta = evaluate(parts, samples, images, lambda s: None, 16, 0)
    assert meta["row"]["n_vanished"] is None
    assert meta["row"]["trivial_auroc"] is None
    assert meta["row"]["status"] == "pixel metrics: no masks"


def test_a_method_without_maps_is_not_said_to_lack_masks() -> None:
    samples = [Sample(f"{i}", i % 2, f"m{i}" if i % 2 else None) for i in range(4)]
    parts = [{"scores": np.arange(4, dtype=np.float32), "gallery.index": np.arange(0)}]
    images = [Image(str(i), np.zeros((8, 8, 3), np.uint8)) for i in range(4)]
    marked = np.ones((8, 8), bool)
    _, meta = evaluate(parts, samples, images, lambda s: marked if s.label else None, 16, 0)
    assert meta["row"]["status"] == "pixel metrics: no maps"


def test_maps_of_some_shards_alone_are_none() -> None:
    """As where a method gave maps for one shard and none for another."""
    samples = [Sample(f"{i}", i % 2, f"m{i}" if i % 2 else None) for i in range(4)]
    images = [Image(str(i), np.zeros((8, 8, 3), np.uint8)) for i in range(4)]
    marked = np.ones((8, 8), bool)
    shards = [{"scores": np.arange(2, dtype=np.float32), "gallery.index": np.arange(0)}] * 2
    maps = np.random.default_rng(0).random((2, 8, 8), dtype=np.float32)
    for parts in ([shards[0] | {"maps": maps}, shards[1]], [shards[0], shards[1] | {"maps": maps}]):
        _, meta = evaluate(parts, samples, images, lambda s: marked if s.label else None, 16, 0)
        assert meta["row"]["status"] == "pixel metrics: no maps"
        assert meta["row"]["pixel_auroc"] is None
    both = [shard | {"maps": maps} for shard in shards]
    _, meta = evaluate(both, samples, images, lambda s: marked if s.label else None, 16, 0)
    assert meta["row"]["pixel_auroc"] is not None


def coarse(maps: np.ndarray) -> tuple[list[float], np.ndarray]:
    """Limits and levels of the coarse maps of two queries."""
    samples = [Sample(f"{i}", i) for i in range(2)]
    images = [Image(str(i), np.zeros((8, 8, 3), np.uint8)) for i in range(2)]
    part = {"scores": np.arange(2, dtype=np.float32), "gallery.index": np.arange(2)}
    parts = [part | {"small.map": maps.astype(np.float32)}]
    arrays, _ = evaluate(parts, samples, images, lambda s: None, 16, 2)
    order = np.argsort(arrays["gallery.all.index"])
    return arrays["gallery.limits"].tolist(), arrays["gallery.all.map"][order]


def test_coarse_maps_have_limits_whatever_their_values() -> None:
    limits, levels = coarse(np.full((2, 4, 4), np.nan))
    assert limits == [0.0, 1.0]
    assert not levels.any()
    # All of one value but for a point so small that neither end of the range reaches it.
    flat = np.full((2, 40, 40), 0.5)
    flat[1, 3, 3] = 0.7
    limits, levels = coarse(flat)
    assert limits == [0.5, 0.5]
    assert levels[1, 3, 3] == round(255 * 0.2)
    assert np.count_nonzero(levels) == 1
    ramp = np.linspace(0, 100, 2 * 51 * 51).reshape(2, 51, 51)
    limits, levels = coarse(ramp)
    assert limits == pytest.approx([2, 99.8])
    expected = 255 * np.clip((ramp - 2) / 97.8, 0, 1)
    np.testing.assert_allclose(levels, expected, atol=0.51)


def test_what_is_stored_of_a_shard_is_what_something_will_read() -> None:
    maps = np.random.default_rng(0).random((2, 8, 8), dtype=np.float32)
    parts = {"near": np.array([1.0, 2.0], np.float32)}
    scores = np.array([3.0, 4.0], np.float32)
    prediction = Prediction(scores, maps, parts=parts, part_maps={"near": maps})
    bare = predicted(prediction, None, 0, masks=False)
    assert bare.keys() == {"scores", "part.near"}
    assert np.array_equal(bare["part.near"], parts["near"])
    assert np.array_equal(bare["scores"], scores)
    assert predicted(prediction, None, 0, masks=True)["maps"] is maps
    pictures = np.zeros((2, 8, 8, 3), np.uint8)
    shown = predicted(prediction, pictures, 1, masks=False)
    small = {"small.map", "small.part.near", "small.personalized"}
    assert shown.keys() == {"scores", "part.near", *small}
    assert predicted(Prediction(scores), None, 1, masks=True).keys() == {"scores"}

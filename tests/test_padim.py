from __future__ import annotations

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter

from harness import config
from harness.execution.memory.cache import FeatureMemory
from harness.interface import Image, Queries, Support
from methods._encoders.cnn import build
from methods._ops.gaussian import Factored, LowRank, gaussians
from methods.padim import Padim, drawn_channels

RANDOM = {"model": "resnet18", "weights": "random:3"}


def pictures(count, seed=0, shape=(64, 64, 3)):
    rng = np.random.default_rng(seed)
    return tuple(Image(f"{seed}/{i}", rng.integers(0, 256, shape, np.uint8)) for i in range(count))


@pytest.fixture(scope="module")
def method():
    memory = FeatureMemory(1 << 28)  # one network for all tests

    def make(**parameters):
        padim = Padim(encoder=RANDOM, size=64, **parameters)
        padim.setup("cpu", memory)
        return padim

    return make


def joined(levels):
    """Levels (n, h, w, c) to float64 (n, h, w, d), coarse cells repeated."""
    height = levels[0].shape[1]
    return np.concatenate(
        [
            level.numpy()
            .astype(float)
            .repeat(height // level.shape[1], 1)
            .repeat(height // level.shape[1], 2)
            for level in levels
        ],
        3,
    )


def naive_distances(support, queries, ridge):
    """A dense covariance, inverse and quadratic form per location, in float64."""
    support, queries = joined(support), joined(queries)
    height, width, d = support.shape[1:]
    out = np.zeros(queries.shape[:3])
    for i in range(height):
        for j in range(width):
            mean = support[:, i, j].mean(0)
            covariance = np.cov(support[:, i, j], rowvar=False) + ridge * np.eye(d)
            delta = queries[:, i, j] - mean
            out[:, i, j] = np.einsum("nd,de,ne->n", delta, np.linalg.inv(covariance), delta) ** 0.5
    return out


def pyramid(n, dims, seed, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    sides = (4, 2, 1)
    return [
        torch.randn(n, side, side, dim, generator=generator) * scale
        for side, dim in zip(sides, dims, strict=False)
    ]


@pytest.mark.parametrize(
    ("shots", "dims", "scale"),
    [(4, (100, 150, 300), 1), (2, (3, 4), 1), (8, (30, 40, 30), 9), (7, (7,), 1), (40, (5, 9), 3)],
)
def test_distances_equal_the_dense_inverse(shots, dims, scale):
    support, queries = pyramid(shots, dims, 0, scale), pyramid(3, dims, 1, scale)
    expected = naive_distances(support, queries, 0.01)
    # Both sides in float64 but for the last rounding of ours to float32.
    for ours in (LowRank(support, 0.01), Factored([support], 0.01)):
        np.testing.assert_allclose(ours.distances(queries), expected, rtol=3e-7)


def test_distances_hold_where_variance_dwarfs_the_ridge():
    # Queries inside the span of the support: what is left after the projection is tiny.
    support = pyramid(6, (20, 30), 0, scale=100)
    mixed = [torch.stack([level[0], level[:2].mean(0)]) for level in support]
    expected = naive_distances(support, mixed, 0.01)
    for ours in (LowRank(support, 0.01), Factored([support], 0.01)):
        np.testing.assert_allclose(ours.distances(mixed), expected, rtol=1e-5)


def test_images_may_come_in_any_blocks_far_from_zero():
    support, queries = pyramid(30, (6, 9, 12), 0), pyramid(3, (6, 9, 12), 1)
    support, queries = ([level + 1e4 for level in some] for some in (support, queries))
    expected = naive_distances(support, queries, 0.01)
    for size in (1, 7, 30):
        blocks = zip(*(level.split(size) for level in support), strict=True)
        np.testing.assert_allclose(
            Factored(blocks, 0.01).distances(queries), expected, rtol=3e-7, err_msg=str(size)
        )


def test_the_smaller_form_is_taken():
    blocks = [pyramid(10, (6, 9, 12), seed) for seed in range(3)]
    together = [torch.cat(level) for level in zip(*blocks, strict=True)]
    many, few = gaussians(iter(blocks), 30, 0.01), gaussians([blocks[0]], 10, 0.01)
    assert (type(many), type(few)) == (Factored, LowRank)
    queries = pyramid(2, (6, 9, 12), 9)
    torch.testing.assert_close(
        many.distances(queries), LowRank(together, 0.01).distances(queries), rtol=3e-7, atol=0
    )
    with pytest.raises(ValueError, match="at least 2 images, got 1"):
        gaussians([blocks[0]], 1, 0.01)


def test_coarse_levels_that_do_not_divide_follow_nearest_interpolation():
    generator = torch.Generator().manual_seed(0)
    support = [
        torch.randn(3, 7, 7, 4, generator=generator),
        torch.randn(3, 4, 4, 6, generator=generator),
    ]
    fine = F.interpolate(support[1].permute(0, 3, 1, 2), (7, 7), mode="nearest").permute(0, 2, 3, 1)
    full = [torch.cat([support[0], fine], 3)]
    for form in (LowRank, lambda levels, ridge: Factored([levels], ridge)):
        torch.testing.assert_close(
            form(support, 0.01).distances(support), form(full, 0.01).distances(full)
        )


def test_levels_whose_cells_are_not_nested_are_told_from_those_that_are():
    # 7 to 5 to 2: fine row 3 lies in row 2 of 5, which is row 0 of 2, and directly in row 0; row 4
    # in row 2 of 5 as well, but directly in row 1.
    generator = torch.Generator().manual_seed(0)
    support, queries = (
        [torch.randn(n, s, s, d, generator=generator) for s, d in ((7, 4), (5, 6), (2, 3))]
        for n in (12, 2)
    )
    torch.testing.assert_close(
        Factored([support], 0.01).distances(queries), LowRank(support, 0.01).distances(queries)
    )


def test_whole_method_equals_the_paper_step_by_step(method):
    support, queries = pictures(3), pictures(2, seed=1)
    ours = method(channels=20, sigma=2.0)
    ours.fit(Support(support))
    prediction = ours.predict(Queries(queries))

    network, (mean, std) = build("resnet18", "random:3")
    pixels = np.stack([image.pixels for image in (*support, *queries)]) / 255
    batch = torch.tensor((pixels - mean) / std, dtype=torch.float32).permute(0, 3, 1, 2)
    stages = network.forward_intermediates(batch, indices=[1, 2, 3], intermediates_only=True)
    chosen = sorted(random.Random(1024).sample(range(64 + 128 + 256), 20))
    embedding = joined([stage.permute(0, 2, 3, 1) for stage in stages])[..., chosen]
    embedding = torch.from_numpy(embedding)
    distances = naive_distances([embedding[:3]], [embedding[3:]], 0.01)
    large = F.interpolate(torch.from_numpy(distances)[:, None], (64, 64), mode="bilinear")[:, 0]
    maps = np.stack([gaussian_filter(m, 2.0) for m in large.numpy()])
    np.testing.assert_allclose(prediction.maps, maps, rtol=1e-4)
    np.testing.assert_allclose(prediction.scores, maps.max((1, 2)), rtol=1e-4)


def test_scores_do_not_depend_on_maps_or_on_other_queries(method):
    ours = method()
    ours.fit(Support(pictures(4)))
    queries = pictures(30, seed=1)  # more than one block
    together = ours.predict(Queries(queries))
    without = ours.predict(Queries(queries, maps=False))
    assert without.maps is None
    assert together.maps.shape == (30, 64, 64)
    np.testing.assert_array_equal(together.scores, without.scores)
    alone = [ours.predict(Queries((image,), maps=False)).scores[0] for image in queries[-6:]]
    np.testing.assert_allclose(together.scores[-6:], alone, rtol=1e-6)


def test_a_cell_forgets_the_one_before_and_takes_the_pool(method):
    queries = Queries(pictures(3, seed=1), maps=False)
    first, fresh = method(), method()
    first.fit(Support(pictures(5, seed=7)))
    first.fit(Support(pictures(2)))
    fresh.fit(Support(pictures(1), pool=pictures(2)))
    np.testing.assert_array_equal(first.predict(queries).scores, fresh.predict(queries).scores)


def test_crop_ignores_the_border(method):
    plain, marked = (
        pictures(1, shape=(64, 96, 3))[0],
        pictures(1, shape=(64, 96, 3))[0].pixels.copy(),
    )
    marked[:, :12] = 255
    ours = method(crop=48)
    ours.fit(Support(pictures(2, seed=5)))
    prediction = ours.predict(Queries((plain, Image("marked", marked))))
    assert prediction.scores[0] == prediction.scores[1]
    assert prediction.maps.shape == (2, 64, 64)


def test_drawn_channels_are_the_released_codes_subset():
    dims = [64, 128, 256]
    groups = drawn_channels(dims, 100, 1024)
    flat = [c + start for start, group in zip((0, 64, 192), groups, strict=True) for c in group]
    assert set(flat) == set(random.Random(1024).sample(range(448), 100))
    assert drawn_channels(dims, 448, 0) == [list(range(d)) for d in dims]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"levels": ()}, "levels: expected"),
        ({"channels": 0}, "channels: expected"),
        ({"ridge": 0}, "ridge: expected"),
        ({"sigma": -1}, "sigma: expected"),
        ({"crop": 300}, "crop must be 1 to size = 256, got 300"),
        ({"encoder": {"model": "resnet18"}}, "encoder must be {model: ..., weights: ...}"),
    ],
)
def test_bad_parameters_are_named(parameters, message):
    with pytest.raises(ValueError, match=message):
        config.build("method", "padim", parameters)


def test_a_level_that_is_not_there_and_a_single_image_are_named(method):
    with pytest.raises(ValueError, match="levels of resnet18/random:3 are 1 to 4, got 5"):
        method(levels=(1, 5))
    with pytest.raises(ValueError, match="at least 2 images, got 1"):
        method().fit(Support(pictures(1)))

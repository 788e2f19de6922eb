from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Picture
from scipy.ndimage import gaussian_filter
from torchvision import transforms

from harness.interface import Image
from methods._ops.crop import centre, centres, framed
from methods._ops.maps import enlarging, patch_features, smooth, smoothing


@pytest.mark.parametrize(
    ("source", "target"), [(4, 16), (14, 224), (7, 20), (9, 9), (8, 3), (1, 5)]
)
def test_enlarging_is_torchs_bilinear(source, target):
    rows = np.random.default_rng(0).normal(size=(3, source))
    theirs = F.interpolate(
        torch.from_numpy(rows)[:, None, None], (1, target), mode="bilinear", align_corners=False
    )
    np.testing.assert_allclose(rows @ enlarging(source, target).T, theirs[:, 0, 0], atol=1e-12)


@pytest.mark.parametrize(("size", "sigma"), [(64, 4.0), (20, 4.0), (5, 4.0), (30, 0.7), (12, 0.0)])
def test_smoothing_is_scipys_gaussian_filter(size, sigma):
    rows = np.random.default_rng(0).normal(size=(3, size))
    theirs = gaussian_filter(rows, (0, sigma), mode="reflect") if sigma else rows
    np.testing.assert_allclose(rows @ smoothing(size, sigma).T, theirs, atol=1e-12)


def test_smooth_is_interpolation_then_filter_on_each_map_alone():
    maps = torch.rand(3, 16, 12, generator=torch.Generator().manual_seed(0))
    large = F.interpolate(maps[:, None], (64, 64), mode="bilinear", align_corners=False)[:, 0]
    theirs = np.stack([gaussian_filter(m, 4.0) for m in large.double().numpy()])
    np.testing.assert_allclose(smooth(maps, 64, 4.0), theirs, atol=2e-6)
    torch.testing.assert_close(smooth(maps[1:2], 64, 4.0), smooth(maps, 64, 4.0)[1:2])


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 30), st.integers(1, 60), st.floats(0, 9))
def test_a_constant_map_stays_constant(source, target, sigma):
    flat = torch.full((1, source, source), 3.0)
    np.testing.assert_allclose(smooth(flat, target, sigma), 3.0, rtol=1e-5)


def naive_patches(levels, side, dims):
    """Cell by cell, as the released code describes it: patches, pooled, enlarged, pooled again."""
    height, width = levels[0].shape[:2]
    parts = []
    for level in levels:
        h, w, d = level.shape
        padded = np.zeros((h + 2 * (side // 2), w + 2 * (side // 2), d))
        padded[side // 2 : side // 2 + h, side // 2 : side // 2 + w] = level
        cells = []
        for i in range(h):
            for j in range(w):
                square = padded[i : i + side, j : j + side]  # (s, s, d)
                values = square.transpose(2, 0, 1).ravel()
                cells.append(square.mean((0, 1)) if dims is None else pooled(values, dims))
        part = torch.tensor(np.array(cells)).reshape(h, w, -1).permute(2, 0, 1)[None]
        parts.append(F.interpolate(part, (height, width), mode="bilinear")[0].permute(1, 2, 0))
    joined = torch.cat(parts, 2).numpy()
    return joined if dims is None else np.apply_along_axis(pooled, 2, joined, dims)


def pooled(values, length):
    edges = [
        (i * len(values) // length, -(-(i + 1) * len(values) // length)) for i in range(length)
    ]
    return np.array([values[a:b].mean() for a, b in edges])


@pytest.mark.parametrize("dims", [None, 7, 40])
@pytest.mark.parametrize("side", [1, 3, 5])
def test_patch_features_equal_a_loop_over_cells(side, dims):
    rng = np.random.default_rng(0)
    levels = [rng.normal(size=shape).astype(np.float32) for shape in ((8, 8, 5), (4, 4, 9))]
    ours = patch_features([torch.from_numpy(level) for level in levels], side, dims)
    np.testing.assert_allclose(ours, naive_patches(levels, side, dims), atol=1e-5)


@pytest.mark.parametrize("kernel", ["bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("shape", [(90, 70), (70, 90), (41, 40), (32, 32)])
def test_centre_resizes_then_crops_as_torchvision_does(kernel, shape):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    how = getattr(transforms.InterpolationMode, kernel.upper())
    steps = [transforms.Resize(32, how), transforms.CenterCrop(28)]
    expected = np.asarray(transforms.Compose(steps)(Picture.fromarray(pixels)))
    np.testing.assert_array_equal(centre(pixels, 32, 28, kernel), expected)


def test_centres_of_other_settings_are_other_images():
    pixels = np.zeros((20, 31, 3), np.uint8)
    settings = [
        (16, 12, "bilinear"),
        (16, 12, "lanczos"),
        (16, 14, "bilinear"),
        (18, 12, "bicubic"),
    ]
    keys = {centres([Image("a", pixels)], *some)[0].key for some in settings}
    assert len(keys | {"a"}) == 5


def test_framed_puts_maps_back_where_they_were_cropped():
    inner = torch.rand(2, 8, 8, generator=torch.Generator().manual_seed(0)) + 5
    # The centre half of a square picture, and of one twice as wide as high, 8 x 8 cells of it.
    spread = framed(inner, [(32, 32, 3), (32, 64, 3)], share=0.5, size=16)
    assert spread.shape == (2, 16, 16)
    torch.testing.assert_close(spread[0, 4:12, 4:12], inner[0])
    lowest = inner.amin((1, 2))
    torch.testing.assert_close(spread[0, :4], lowest[0].expand(4, 16))
    # Of the wide one the crop covers half of the height and a quarter of the width.
    columns = F.interpolate(inner[1][None, None], (8, 4), mode="area")[0, 0]
    torch.testing.assert_close(spread[1, 4:12, 6:10], columns)
    torch.testing.assert_close(spread[1, :, :6], lowest[1].expand(16, 6))

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from methods._diffusion import ssim


def naive(a: np.ndarray, b: np.ndarray, sigma: float = 1.5) -> float:
    """Equation 13 of Wang et al. 2004, window by window, in float64."""
    reach = np.arange(11) - 5
    bell = np.exp(-(reach[:, None] ** 2 + reach[None] ** 2) / (2 * sigma**2))
    bell /= bell.sum()
    values = []
    for channel in range(a.shape[0]):
        for y in range(a.shape[1] - 10):
            for x in range(a.shape[2] - 10):
                p, q = (z[channel, y : y + 11, x : x + 11].astype(float) for z in (a, b))
                mp, mq = (bell * p).sum(), (bell * q).sum()
                vp, vq = (bell * (p - mp) ** 2).sum(), (bell * (q - mq) ** 2).sum()
                both = (bell * (p - mp) * (q - mq)).sum()
                top = (2 * mp * mq + 1e-4) * (2 * both + 9e-4)
                values.append(top / ((mp**2 + mq**2 + 1e-4) * (vp + vq + 9e-4)))
    return float(np.mean(values))


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_ssim_is_the_papers_equation(seed: int, noise: float) -> None:
    rng = np.random.default_rng(seed)
    a = rng.random((2, 16, 14))
    b = np.clip(a + noise * rng.standard_normal(a.shape), 0, 1)
    got = ssim.ssim(torch.from_numpy(a)[None], torch.from_numpy(b)[None])
    assert got.shape == (1,)
    assert got.item() == pytest.approx(naive(a, b), abs=1e-9)


def test_equal_images_are_fully_similar_and_pairs_are_independent() -> None:
    a = torch.rand(3, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    b = torch.cat([a[:1], a[1:] * 0.5])
    got = ssim.ssim(a, b)
    assert got[0].item() == pytest.approx(1, abs=1e-5)
    assert (got[1:] < 0.95).all()
    assert torch.allclose(got[2:], ssim.ssim(a[2:], b[2:]), atol=1e-6)
    grid = ssim.ssim(a[:, None], b)
    assert grid.shape == (3, 3)
    assert torch.allclose(grid.diagonal(), got, atol=1e-6)


def test_resized_leaves_images_of_the_right_side_alone() -> None:
    image = torch.rand(1, 3, 240, 240)
    assert ssim.resized(image) is image
    assert ssim.resized(torch.full((2, 3, 100, 50), 0.25)).shape == (2, 3, 240, 240)

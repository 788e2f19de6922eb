"""Structural similarity of images, as One-to-Normal needs it to choose among prompts."""

from __future__ import annotations

from collections.abc import Sequence

import torch

#: side at which images are compared: the paper's inference resolution
SIDE = 240


def resized(images: torch.Tensor, side: int = SIDE) -> torch.Tensor:
    """(N, C, H, W) in [0, 1] -> (N, C, side, side), antialiased bilinear."""
    if images.shape[-2:] == (side, side):
        return images
    return torch.nn.functional.interpolate(
        images, (side, side), mode="bilinear", antialias=True, align_corners=False
    )


def ssim(a: torch.Tensor, b: torch.Tensor, window: int = 11, sigma: float = 1.5) -> torch.Tensor:
    """Mean structural similarity of pairs of images (Wang et al. 2004, equation 13).

    Gaussian window, K1 = 0.01, K2 = 0.03, dynamic range 1, population covariances, the mean over
    the positions where the window lies inside the image, and over channels.

    Parameters
    ----------
    a, b : float tensors of shape (..., C, H, W) in [0, 1]; what stands before C is broadcast
    window : odd side of the Gaussian window in pixels, at most H and W
    sigma : its standard deviation in pixels

    Returns
    -------
    float tensor of the broadcast shape before C, in [-1, 1]; 1 for equal images
    """
    bell = _bell(window, sigma)

    def smooth(x: torch.Tensor) -> torch.Tensor:
        return _along(_along(x, bell, -1), bell, -2)

    mean_a, mean_b = smooth(a), smooth(b)
    var_a = smooth(a * a) - mean_a**2
    var_b = smooth(b * b) - mean_b**2
    both = smooth(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    light = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    structure = (2 * both + c2) / (var_a + var_b + c2)
    return (light * structure).mean((-3, -2, -1))


def _bell(window: int, sigma: float) -> list[float]:
    """The window along one axis; its sum is 1."""
    reach = torch.arange(window, dtype=torch.float64) - window // 2
    bell = torch.exp(-(reach**2) / (2 * sigma**2))
    weights: list[float] = (bell / bell.sum()).tolist()
    return weights


def _along(x: torch.Tensor, bell: Sequence[float], axis: int) -> torch.Tensor:
    """Weighted means along an axis, where the window lies inside: shorter by window - 1.

    Shifted sums take an eighth of the time of a convolution of single channels.
    """
    length = x.shape[axis] - len(bell) + 1
    total = x.narrow(axis, 0, length) * bell[0]
    for shift in range(1, len(bell)):
        total.add_(x.narrow(axis, shift, length), alpha=bell[shift])
    return total

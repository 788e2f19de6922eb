"""Patch maps: enlarging, smoothing and pooling, each as few matrix products."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray


def enlarging(source: int, target: int) -> NDArray[np.float64]:
    """Bilinear interpolation along one axis as a matrix (target, source), half-pixel centres."""
    position = (np.arange(target) + 0.5) * source / target - 0.5
    position = position.clip(0, source - 1)
    low = np.floor(position).astype(int)
    high = np.minimum(low + 1, source - 1)
    matrix = np.zeros((target, source))
    rows = np.arange(target)
    np.add.at(matrix, (rows, low), 1 - (position - low))
    np.add.at(matrix, (rows, high), position - low)
    return matrix


def smoothing(size: int, sigma: float) -> NDArray[np.float64]:
    """Gaussian blur along one axis as a matrix (size, size), cut at 4 sigma, mirrored at the ends."""
    if sigma == 0:
        return np.eye(size)
    radius = int(4 * sigma + 0.5)
    offsets = np.arange(-radius, radius + 1)
    kernel = np.exp(-0.5 * (offsets / sigma) ** 2)
    kernel /= kernel.sum()
    index = np.arange(size)[:, None] + offsets[None]
    index = index % (2 * size)
    index = np.where(index < size, index, 2 * size - 1 - index)
    matrix = np.zeros((size, size))
    np.add.at(matrix, (np.arange(size)[:, None], index), np.broadcast_to(kernel, index.shape))
    return matrix


def _operator(source: int, target: int, sigma: float, like: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(smoothing(target, sigma) @ enlarging(source, target)).to(like)


def smooth(maps: torch.Tensor, size: int, sigma: float) -> torch.Tensor:
    """Enlarge maps (N, h, w) to (N, size, size) bilinearly, then blur them by ``sigma`` pixels.

    Both are linear and separable, so each axis costs one product with a matrix made once.
    """
    down = _operator(maps.shape[1], size, sigma, maps)
    across = _operator(maps.shape[2], size, sigma, maps)
    return down @ (maps @ across.T)


def neighbourhood_mean(level: torch.Tensor, side: int = 3) -> torch.Tensor:
    """Mean of each cell's side x side neighbourhood, zeros outside: (h, w, d) to (h, w, d)."""
    if side == 1:
        return level
    pooled = F.avg_pool2d(level.permute(2, 0, 1)[None], side, stride=1, padding=side // 2)
    return pooled[0].permute(1, 2, 0)


def stretched(level: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """A level (h, w, d) interpolated bilinearly to (height, width, d)."""
    if level.shape[:2] == (height, width):
        return level
    batch = level.permute(2, 0, 1)[None]
    out = F.interpolate(batch, (height, width), mode="bilinear", align_corners=False)
    return out[0].permute(1, 2, 0)

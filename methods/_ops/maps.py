"""Patch maps: enlarging and smoothing as one matrix product per axis; neighbourhoods of patches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray


def enlarging(source: int, target: int) -> NDArray[np.float64]:
    """Bilinear interpolation along one axis as a matrix (target, source).

    Cells are centred on half coordinates; beyond the outermost centres values continue unchanged.
    """
    position = ((np.arange(target) + 0.5) * source / target - 0.5).clip(0, source - 1)
    low = np.floor(position).astype(int)
    high = np.minimum(low + 1, source - 1)
    matrix = np.zeros((target, source))
    rows = np.arange(target)
    np.add.at(matrix, (rows, low), 1 - (position - low))
    np.add.at(matrix, (rows, high), position - low)
    return matrix


def smoothing(size: int, sigma: float) -> NDArray[np.float64]:
    """Gaussian blur along one axis as a matrix (size, size).

    The kernel ends at four sigma; the axis is mirrored at its ends, the end values repeated.
    """
    if sigma == 0:
        return np.eye(size)
    radius = int(4 * sigma + 0.5)
    offsets = np.arange(-radius, radius + 1)
    kernel = np.exp(-0.5 * (offsets / sigma) ** 2)
    kernel /= kernel.sum()
    index = (np.arange(size)[:, None] + offsets) % (2 * size)
    index = np.where(index < size, index, 2 * size - 1 - index)
    matrix = np.zeros((size, size))
    np.add.at(matrix, (np.arange(size)[:, None], index), kernel)
    return matrix


def smooth(maps: torch.Tensor, size: int, sigma: float) -> torch.Tensor:
    """Enlarge maps (N, h, w) bilinearly to (N, size, size), then blur them by ``sigma`` pixels."""
    down, across = (
        torch.from_numpy(smoothing(size, sigma) @ enlarging(side, size)).to(maps)
        for side in maps.shape[1:]
    )
    return down @ (maps @ across.T)


def patch_features(
    levels: Sequence[torch.Tensor], neighbourhood: int, dims: int | None
) -> torch.Tensor:
    """One vector per cell of the first level, of all levels and each cell's surroundings.

    Parameters
    ----------
    levels : sequence of tensors of shape (h, w, d)
        Levels after the first are interpolated to its grid.
    neighbourhood : int
        Side, odd, of the square around a cell; zeros outside the grid.
    dims : int, optional
        Length of the vectors: the (channels x square) values of a cell of each level are pooled to
        ``dims``, then the concatenation of all levels is. None averages over the square and
        concatenates.

    Returns
    -------
    tensor of shape (h, w, dims or the sum of all d)
    """
    grid = levels[0].shape[:2]
    parts = []
    for level in levels:
        batch = level.permute(2, 0, 1)[None]  # (1, d, h, w)
        if dims is not None:
            # Pooling channels is linear, as is the interpolation below: done before it, it is done
            # on fewer cells.
            square = torch.nn.functional.unfold(
                batch, neighbourhood, padding=neighbourhood // 2
            )  # (1, d * s * s, p)
            pooled = torch.nn.functional.adaptive_avg_pool1d(square.mT, dims).mT
            batch = pooled.unflatten(2, level.shape[:2])
        elif neighbourhood > 1:
            batch = torch.nn.functional.avg_pool2d(
                batch, neighbourhood, 1, padding=neighbourhood // 2
            )
        if batch.shape[2:] != grid:
            batch = torch.nn.functional.interpolate(
                batch, grid, mode="bilinear", align_corners=False
            )
        parts.append(batch[0].permute(1, 2, 0))
    joined = torch.cat(parts, 2)
    return joined if dims is None else torch.nn.functional.adaptive_avg_pool1d(joined, dims)

"""Comparisons of One-to-Normal on patch features: with one image, with a bank, and over levels.

All vectors are of length 1, so that 1 - cosine is half the squared distance of two vectors. Taken
by differences it is 0 for equal vectors, bit for bit, and loses nothing for near ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from methods._ops.maps import enlarging

#: elements of the largest intermediate tensor; a CPU is twice as fast where it stays in its cache
_BUDGET = {"cpu": 1 << 19, "cuda": 1 << 25}


def default_levels(dims: Mapping[int, int]) -> tuple[int, ...]:
    """Ends of four equal parts of a transformer; stages 2 to 4 of a convolutional net.

    Only a convolutional net has levels of different widths.
    """
    depth = max(dims)
    if len(set(dims.values())) > 1:
        return (2, 3, 4)
    return tuple(sorted({max(1, round(depth * part / 4)) for part in (1, 2, 3, 4)}))


def personalized_distance(
    queries: torch.Tensor, personalized: torch.Tensor, search: int = 1
) -> torch.Tensor:
    """1 - cosine between each cell and its counterpart (Eq. 4 before the maximum).

    Parameters
    ----------
    queries, personalized : tensors of shape (n, h, w, d)
    search : int
        Side, odd, of the square of the other image's cells of which the nearest counts; 1 is the
        same position alone.

    Returns
    -------
    tensor of shape (n, h, w)
        In 0..2.
    """
    height, width = queries.shape[1:3]
    reach = search // 2
    best = _half_squared(queries - personalized)
    for down in range(-min(reach, height - 1), min(reach, height - 1) + 1):
        for right in range(-min(reach, width - 1), min(reach, width - 1) + 1):
            rows, other_rows = _overlap(height, down)
            columns, other_columns = _overlap(width, right)
            difference = queries[:, rows, columns] - personalized[:, other_rows, other_columns]
            part = best[:, rows, columns]
            part.copy_(torch.minimum(part, _half_squared(difference)))
    return best


def bank_distance(queries: torch.Tensor, bank: torch.Tensor) -> torch.Tensor:
    """1 - cosine between each cell and the nearest vector of a bank (Eq. 5 before the maximum).

    Parameters
    ----------
    queries : tensor of shape (n, p, d)
    bank : tensor of shape (m, d)

    Returns
    -------
    tensor of shape (n, p)
        In 0..2.
    """
    budget = _BUDGET[queries.device.type]
    width = min(len(bank), max(1, budget // queries.shape[1]))
    height = max(1, budget // (queries.shape[1] * width))
    distances = []
    for block in queries.split(height):
        best = index = None
        for start in range(0, len(bank), width):
            # One product of equal shape per image, so that no image's last bits depend on others.
            part = bank[start : start + width].T.expand(len(block), -1, -1)
            cosine, place = torch.bmm(block, part).max(dim=2)
            if best is None:
                best, index = cosine, place
            else:
                index = torch.where(cosine > best, place + start, index)
                best = torch.maximum(best, cosine)
        distances.append(_half_squared(block - bank[index]))
    return torch.cat(distances)


def bank_distance_in_place(queries: torch.Tensor, bank: torch.Tensor) -> torch.Tensor:
    """1 - cosine between each cell and the nearest of the bank's cells at its own position.

    Parameters
    ----------
    queries : tensor of shape (n, p, d)
    bank : tensor of shape (b, p, d)
        Features of b images.

    Returns
    -------
    tensor of shape (n, p)
        In 0..2.
    """
    best = _half_squared(queries - bank[0])
    for image in bank[1:]:
        best = torch.minimum(best, _half_squared(queries - image))
    return best


def score_of(maps: Sequence[torch.Tensor], of_mean: bool) -> torch.Tensor:
    """Image scores (n,) of one map (n, h, w) per level, each with its own grid.

    The mean over levels of the largest cell (Eq. 4 to 6); ``of_mean``: the largest cell of the mean
    over levels, as InCTRL has it.
    """
    if of_mean:
        return mean_map(maps).flatten(1).amax(dim=1)
    return torch.stack([level.flatten(1).amax(dim=1) for level in maps]).mean(dim=0)


def mean_map(maps: Sequence[torch.Tensor]) -> torch.Tensor:
    """Mean over levels (n, h, w), coarser ones enlarged bilinearly to the finest grid."""
    height, width = max(tuple(level.shape[1:]) for level in maps)
    enlarged = []
    for level in maps:
        if tuple(level.shape[1:]) != (height, width):
            down, across = (
                torch.from_numpy(enlarging(side, target)).to(level)
                for side, target in zip(level.shape[1:], (height, width), strict=True)
            )
            level = down @ (level @ across.T)
        enlarged.append(level)
    return torch.stack(enlarged).mean(dim=0)


def _half_squared(difference: torch.Tensor) -> torch.Tensor:
    return 0.5 * difference.square().sum(dim=-1)


def _overlap(size: int, shift: int) -> tuple[slice, slice]:
    """Positions of an axis, and those ``shift`` further, as far as both exist."""
    return slice(max(0, -shift), size - max(0, shift)), slice(max(0, shift), size - max(0, -shift))

"""One Gaussian per location of a pyramid of features, by the exact form that is smallest."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import torch

_BLOCK = 512  # locations whose low-rank systems are solved at a time
_WIDE = 64  # locations whose coarser factors are repeated at a time

Levels = Sequence[torch.Tensor]  # each (n, h, w, c), the finest first
Grid = tuple[int, int]


def gaussians(blocks: Iterable[Levels], count: int, ridge: float) -> LowRank | Factored:
    """A regularised Gaussian at each location of the finest level of a pyramid of features.

    A location's vector is the concatenation of all levels, coarse ones repeated over the fine cells
    that they cover (nearest neighbour). Its covariance is the unbiased one plus ``ridge`` on the
    diagonal. Of two exact forms of the same distances the one that holds fewer numbers is taken.

    Parameters
    ----------
    blocks : iterable of sequences of tensors of shape (n, h, w, c)
        Features of the normal images, some at a time, the finest level first.
    count : int
        How many normal images that is in all, at least 2.
    ridge : float
        Added to the diagonal of every covariance.

    Returns
    -------
    LowRank or Factored
        With ``distances``.

    Raises
    ------
    ValueError
        For fewer than 2 images.
    """
    if count < 2:
        raise ValueError(f"a covariance needs at least 2 images, got {count}")
    blocks = iter(blocks)
    first = next(blocks)
    blocks = itertools.chain([first], blocks)
    shapes = [(level.shape[1] * level.shape[2], level.shape[3]) for level in first]
    low = shapes[0][0] * count**2 + sum(cells * width * count for cells, width in shapes)
    pairs = itertools.combinations_with_replacement(shapes, 2)
    if low <= sum(cells * width * other for (cells, width), (_, other) in pairs):
        levels = [torch.cat(level) for level in zip(*blocks, strict=True)]
        return LowRank(levels, ridge)
    return Factored(blocks, ridge)


class LowRank:
    """Distances by systems as large as there are normal images.

    With n normal images, deviations ``E`` (n, d) from their mean and covariance
    ``S = E'E / (n - 1) + ridge I``, the matrix inversion lemma gives for a deviation x

        x' S^-1 x = (|x|^2 - |L^-1 E x|^2) / ridge,    L L' = E E' + (n - 1) ridge I,

    so that only n x n systems are solved; and since repeating cells does not change inner products,
    those with queries are taken at each level's own resolution. All in float64: the difference
    above loses about ``(largest variance + ridge) / ridge`` of the precision.
    """

    def __init__(self, levels: Levels, ridge: float) -> None:
        n = len(levels[0])
        self._ridge = ridge
        self._grid = levels[0].shape[1:3]
        flat = [level.double().flatten(1, 2) for level in levels]  # (n, p, c)
        self._means = [level.mean(0) for level in flat]
        # (p, c, n): ready to be multiplied by queries
        self._deviations = [
            (level - mean).permute(1, 2, 0).contiguous()
            for level, mean in zip(flat, self._means, strict=True)
        ]
        self._cells = [_cells(self._grid, level.shape[1:3]).to(level.device) for level in levels]
        # L^-1, as every query needs it: a product is faster than thousands of small solves.
        whiten = []
        for block in _slices(self._grid[0] * self._grid[1], _BLOCK):
            pairs = zip(self._deviations, self._cells, strict=True)
            deviations = torch.cat([level[cells[block]] for level, cells in pairs], 1)  # (b, d, n)
            matrix = deviations.mT @ deviations
            matrix.diagonal(dim1=1, dim2=2).add_((n - 1) * ridge)
            whiten.append(_whitening(matrix))
        self._whiten = torch.cat(whiten)  # (P, n, n)

    def distances(self, levels: Levels) -> torch.Tensor:
        """Distances (N, H, W), float32, of N images with ``levels`` as at construction."""
        along: Any = None  # tensors from the first level on
        norm: Any = None
        for level, mean, deviations, cells in zip(
            levels, self._means, self._deviations, self._cells, strict=True
        ):
            x = level.double().flatten(1, 2).sub_(mean)  # (N, p, c)
            onto = (x.transpose(0, 1) @ deviations)[cells]  # (P, N, n)
            length = x.square().sum(2).T[cells]  # (P, N)
            along = onto if along is None else along.add_(onto)
            norm = length if norm is None else norm.add_(length)
        explained = (self._whiten @ along.mT).square_().sum(1)
        return _maps(norm.sub_(explained).div_(self._ridge), self._grid)


class Factored:
    """Distances by a Cholesky factor of the covariances in which coarse cells appear once.

    With the coarse levels first, the rows of a factor that belong to a level depend on that level
    and coarser ones alone: fine cells of one coarse cell share its rows. Three levels of 56², 28²
    and 14² cells with 64, 128 and 256 channels so take 141 million numbers instead of 629 million,
    whatever the number of normal images, which come a few at a time. All in float64.
    """

    def __init__(self, blocks: Iterable[Levels], ridge: float) -> None:
        count = 0
        start: list[torch.Tensor] = []
        for levels in blocks:
            if not start:
                self._arrange(levels)
                # Deviations from one of the images, for sums of squares that lose no precision.
                start = [level[:1] for level in self._flat(levels)]
                sums = [torch.zeros_like(level[0]) for level in start]
                device = levels[0].device
                products = {
                    (i, j): torch.zeros(len(sums[i]), sums[i].shape[1], sums[j].shape[1]).to(
                        device, torch.float64
                    )
                    for i in range(len(sums))
                    for j in range(i, len(sums))
                }
            x = [level - one for level, one in zip(self._flat(levels), start, strict=True)]
            count += len(x[0])
            for i, level in enumerate(x):
                sums[i] += level.sum(0)
            by_cell = [level.transpose(0, 1) for level in x]  # (p, n, c)
            for (i, j), product in products.items():
                product.baddbmm_(by_cell[i].mT, by_cell[j][self._up[i, j]])
        self._means = [one[0] + total / count for one, total in zip(start, sums, strict=True)]
        for (i, j), product in products.items():
            other = sums[j][self._up[i, j]] / count
            product.baddbmm_(sums[i][:, :, None], other[:, None], alpha=-1).div_(count - 1)
            if i == j:
                product.diagonal(dim1=1, dim2=2).add_(ridge)
        self._factor(products)

    def _arrange(self, levels: Levels) -> None:
        """Which coarse cell each fine one lies in; one level of all where that is unclear."""
        self._grid = levels[0].shape[1:3]
        grids = [level.shape[1:3] for level in levels]
        up = {
            (i, j): _cells(grids[i], grids[j]).to(levels[0].device)
            for i in range(len(grids))
            for j in range(i, len(grids))
        }
        self._nested = all(torch.equal(up[i, j][up[0, i]], up[0, j]) for i, j in up)
        self._spread = [up[0, j] for j in range(len(grids))]
        self._up = up if self._nested else {(0, 0): up[0, 0]}

    def _flat(self, levels: Levels) -> list[torch.Tensor]:
        """Float64 vectors (n, p, c) of each level, or of all of them in one."""
        flat = [level.double().flatten(1, 2) for level in levels]
        if self._nested:
            return flat
        pairs = zip(flat, self._spread, strict=True)
        return [torch.cat([level[:, cells] for level, cells in pairs], 2)]

    def _factor(self, covariances: dict[tuple[int, int], torch.Tensor]) -> None:
        """Rows of the factor by level, in the place of the covariances: L_ij, and L_ii^-1."""
        self._rows = covariances
        depth = len(self._means)
        for i in reversed(range(depth)):
            own = covariances[i, i]
            for block in _slices(len(own), _WIDE):
                coarser = [(j, self._up[i, j][block]) for j in reversed(range(i + 1, depth))]
                for number, (j, cells) in enumerate(coarser):
                    row = covariances[i, j][block]
                    for k, _ in coarser[:number]:
                        row -= covariances[i, k][block] @ covariances[j, k][cells].mT
                    row.copy_(row @ covariances[j, j][cells].mT)
                    own[block] -= row @ row.mT
                own[block] = _whitening(own[block])

    def distances(self, levels: Levels) -> torch.Tensor:
        """Distances (N, H, W), float32, of N images with ``levels`` as at construction."""
        depth = len(self._means)
        white: dict[int, torch.Tensor] = {}
        squared: torch.Tensor | None = None
        flat = self._flat(levels)
        for i in reversed(range(depth)):
            x = (flat[i] - self._means[i]).permute(1, 2, 0)  # (p, c, N)
            for j in reversed(range(i + 1, depth)):
                x = torch.baddbmm(x, self._rows[i, j], white[j][self._up[i, j]], alpha=-1)
            white[i] = self._rows[i, i] @ x
            length = white[i].square().sum(1)[self._up[0, i]]
            squared = length if squared is None else squared.add_(length)
        return _maps(squared, self._grid)


def _whitening(matrices: torch.Tensor) -> torch.Tensor:
    """L^-1 of each matrix L L'."""
    eye = torch.eye(matrices.shape[1]).to(matrices)
    return torch.linalg.solve_triangular(torch.linalg.cholesky(matrices), eye, upper=False)


def _maps(squared: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Distances (N, H, W), float32, of squared ones (H * W, N)."""
    return squared.clamp_(min=0).sqrt_().float().T.unflatten(1, grid).contiguous()


def _slices(count: int, size: int) -> list[slice]:
    return [slice(start, start + size) for start in range(0, count, size)]


def _cells(fine: Sequence[int], coarse: Sequence[int]) -> torch.Tensor:
    """Index (H * W,) of the coarse cell that covers each fine cell."""
    rows, columns = (torch.arange(f) * c // f for f, c in zip(fine, coarse, strict=True))
    return (rows[:, None] * coarse[1] + columns).flatten()

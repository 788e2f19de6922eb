"""One Gaussian per location of a pyramid of features, by the exact form that is cheapest."""

from __future__ import annotations

from collections.abc import Sequence

import torch

_BLOCK = 512  # locations whose matrices are held at a time


class Gaussians:
    """Mahalanobis distance to a regularised Gaussian at each location of the finest level.

    A location's vector is the concatenation of all levels, coarse ones repeated over the fine
    cells that they cover (nearest neighbour). With n normal images, deviations ``E`` (n, d) from
    their mean and covariance ``S = E'E / (n - 1) + ridge I``, the matrix inversion lemma gives for
    a deviation x

        x' S^-1 x = (|x|^2 - |L^-1 E x|^2) / ridge,    L L' = E E' + (n - 1) ridge I,

    so that only n x n systems are solved, exactly; and since repeating cells does not change inner
    products, those with queries are taken at each level's own resolution. With more images than
    dimensions, S itself is smaller and is factored instead. All in float64: the difference above
    loses about ``(largest variance + ridge) / ridge`` of the precision.

    Parameters
    ----------
    levels : sequence of tensors of shape (n, h, w, c)
        Features of n >= 2 normal images, the finest level first.
    ridge : float
        Added to the diagonal of every covariance.
    """

    def __init__(self, levels: Sequence[torch.Tensor], ridge: float) -> None:
        n, d = len(levels[0]), sum(level.shape[3] for level in levels)
        if n < 2:
            raise ValueError(f"a covariance needs at least 2 images, got {n}")
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
        self._few = n <= d
        # L^-1, as every query needs it: a product is faster than thousands of small solves.
        whiten = []
        for block in self._blocks():
            pairs = zip(self._deviations, self._cells, strict=True)
            deviations = torch.cat([level[cells[block]] for level, cells in pairs], 1)  # (b, d, n)
            if self._few:
                matrix = deviations.mT @ deviations
                matrix.diagonal(dim1=1, dim2=2).add_((n - 1) * ridge)
            else:
                matrix = deviations @ deviations.mT / (n - 1)
                matrix.diagonal(dim1=1, dim2=2).add_(ridge)
            eye = torch.eye(matrix.shape[1]).to(matrix)
            factor = torch.linalg.cholesky(matrix)
            whiten.append(torch.linalg.solve_triangular(factor, eye, upper=False))
        self._whiten = torch.cat(whiten)  # (P, n, n), or (P, d, d)

    def distances(self, levels: Sequence[torch.Tensor]) -> torch.Tensor:
        """Distances (N, H, W), float32, of N images with ``levels`` as at construction."""
        centred = [
            level.double().flatten(1, 2).sub_(mean)  # (N, p, c)
            for level, mean in zip(levels, self._means, strict=True)
        ]
        squared = self._low_rank(centred) if self._few else self._dense(centred)
        return squared.clamp_(min=0).sqrt_().float().T.unflatten(1, self._grid).contiguous()

    def _low_rank(self, centred: Sequence[torch.Tensor]) -> torch.Tensor:
        """Squared distances (P, N) by inner products at each level's own resolution."""
        along = norm = None
        for x, deviations, cells in zip(centred, self._deviations, self._cells, strict=True):
            onto = (x.transpose(0, 1) @ deviations)[cells]  # (P, N, n)
            length = x.square().sum(2).T[cells]  # (P, N)
            along = onto if along is None else along.add_(onto)
            norm = length if norm is None else norm.add_(length)
        explained = (self._whiten @ along.mT).square_().sum(1)
        return norm.sub_(explained).div_(self._ridge)

    def _dense(self, centred: Sequence[torch.Tensor]) -> torch.Tensor:
        """Squared distances (P, N) by the factors of the covariances."""
        squared = []
        for block in self._blocks():
            pairs = zip(centred, self._cells, strict=True)
            x = torch.cat([level[:, cells[block]] for level, cells in pairs], 2)  # (N, b, d)
            squared.append((self._whiten[block] @ x.permute(1, 2, 0)).square_().sum(1))
        return torch.cat(squared)

    def _blocks(self) -> list[slice]:
        count = self._grid[0] * self._grid[1]
        return [slice(start, start + _BLOCK) for start in range(0, count, _BLOCK)]


def _cells(fine: Sequence[int], coarse: Sequence[int]) -> torch.Tensor:
    """Index (H * W,) of the coarse cell that covers each fine cell."""
    rows, columns = (torch.arange(f) * c // f for f, c in zip(fine, coarse, strict=True))
    return (rows[:, None] * coarse[1] + columns).flatten()

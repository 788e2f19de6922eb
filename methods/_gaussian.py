"""One Gaussian per location of a pyramid of features, by its exact low-rank form."""

from __future__ import annotations

from collections.abc import Sequence

import torch


class Gaussians:
    """Mahalanobis distance to a regularised Gaussian at each location of the finest level.

    A location's vector is the concatenation of all levels, coarse ones repeated over the fine cells
    they cover (nearest neighbour). With n normal images, deviations ``E`` (n, d) from their mean and
    covariance ``S = E'E / (n - 1) + ridge I``, the matrix inversion lemma gives for a deviation x

        x' S^-1 x = (|x|^2 - |L^-1 E x|^2) / ridge,    L L' = E E' + (n - 1) ridge I,

    so that only n x n systems are solved, exactly. And since repeating cells does not change inner
    products, these are taken at each level's own resolution. All in float64: the difference above
    loses about ``(largest variance + ridge) / ridge`` of the precision.

    Parameters
    ----------
    levels : sequence of tensors of shape (n, h, w, c)
        Features of n >= 2 normal images, the finest level first.
    ridge : float
        Added to the diagonal of every covariance.
    """

    def __init__(self, levels: Sequence[torch.Tensor], ridge: float) -> None:
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
        gram = sum(
            (deviation.mT @ deviation)[cells]
            for deviation, cells in zip(self._deviations, self._cells, strict=True)
        )  # (P, n, n)
        gram.diagonal(dim1=1, dim2=2).add_((n - 1) * ridge)
        eye = torch.eye(n, dtype=torch.float64, device=gram.device)
        # L^-1, since every query needs it: a product is faster than thousands of small solves.
        self._whiten = torch.linalg.solve_triangular(torch.linalg.cholesky(gram), eye, upper=False)

    def distances(self, levels: Sequence[torch.Tensor]) -> torch.Tensor:
        """Distances (N, H, W), float32, of N images with ``levels`` as at construction."""
        along, norm = None, None
        parts = zip(levels, self._means, self._deviations, self._cells, strict=True)
        for level, mean, deviation, cells in parts:
            x = level.double().flatten(1, 2).sub_(mean)  # (N, p, c)
            onto = (x.transpose(0, 1) @ deviation)[cells]  # (P, N, n)
            length = x.square().sum(2)[:, cells]  # (N, P)
            along = onto if along is None else along.add_(onto)
            norm = length if norm is None else norm.add_(length)
        explained = (self._whiten @ along.mT).square().sum(1)  # (P, N)
        squared = (norm - explained.T).clamp_(min=0).div_(self._ridge)
        return squared.sqrt_().float().unflatten(1, self._grid)


def _cells(fine: Sequence[int], coarse: Sequence[int]) -> torch.Tensor:
    """Index (H * W,) of the coarse cell that covers each fine cell."""
    rows, columns = (torch.arange(f) * c // f for f, c in zip(fine, coarse, strict=True))
    return (rows[:, None] * coarse[1] + columns[None]).flatten()

"""Square windows of patches: what they hold, and how their scores spread back to patches."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def members(height: int, width: int, side: int) -> torch.Tensor:
    """Row-major patch indices of every window of ``side`` x ``side`` patches, at stride 1.

    Returns
    -------
    int64 tensor of shape ((height - side + 1) * (width - side + 1), side * side)

    Raises
    ------
    ValueError
        If no window fits the grid.
    """
    if not 1 <= side <= min(height, width):
        raise ValueError(
            f"windows must be 1 to {min(height, width)} patches wide on a {height} x {width} grid, "
            f"got {side}"
        )
    grid = torch.arange(height * width).reshape(height, width)
    return grid.unfold(0, side, 1).unfold(1, side, 1).reshape(-1, side * side)


def harmonic_mean(scores: Sequence[torch.Tensor]) -> torch.Tensor:
    """Harmonic mean of tensors that broadcast, 0 where any of them is 0; float64."""
    inverse = sum(1 / score.double() for score in scores)
    return _finite(len(scores) / torch.as_tensor(inverse))


def spread(scores: torch.Tensor, side: int) -> torch.Tensor:
    """Score of each patch: the harmonic mean over the windows that cover it (WinCLIP, Sec. 4.2).

    Parameters
    ----------
    scores : tensor of shape (n, h - side + 1, w - side + 1)
        Scores of the windows, at least 0, in row-major order.
    side : int
        Side of a window in patches.

    Returns
    -------
    float64 tensor of shape (n, h, w)
        0 where a covering window scores 0: the harmonic mean's limit.
    """
    inverse = 1 / scores.double()
    return _finite(_covering_sum(torch.ones_like(inverse), side) / _covering_sum(inverse, side))


def _covering_sum(values: torch.Tensor, side: int) -> torch.Tensor:
    # A patch is covered by the side x side windows that end at it: a box sum over zero padding.
    padded = torch.nn.functional.pad(values, (side - 1,) * 4)
    return padded.unfold(1, side, 1).unfold(2, side, 1).sum(dim=(-2, -1))


def _finite(values: torch.Tensor) -> torch.Tensor:
    return torch.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)


def nearest(queries: torch.Tensor, references: torch.Tensor, budget: int = 1 << 26) -> torch.Tensor:
    """Half the cosine distance of each query vector to the nearest reference vector.

    Parameters
    ----------
    queries : float tensor of shape (n, p, d)
        Unit vectors, p of each of n images.
    references : float tensor of shape (m, d) or (n, m, d)
        Unit vectors, shared by all images or each image's own; their order does not matter.
    budget : int
        Elements of the largest intermediate tensor.

    Returns
    -------
    tensor of shape (n, p)
        0.5 * (1 - largest cosine), in 0..1.
    """
    bank = references.expand(len(queries), -1, -1).transpose(1, 2)
    chunk = max(1, budget // max(1, queries.shape[1] * bank.shape[2]))
    best = [
        # One product of equal shape per image, so that no image's last bits depend on the others.
        torch.bmm(part, others).amax(dim=-1)
        for part, others in zip(queries.split(chunk), bank.split(chunk), strict=True)
    ]
    return (0.5 * (1 - torch.cat(best))).clamp(0, 1)


def upsample(maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Maps of shape (n, h, w), stretched bilinearly to ``size`` (height, width)."""
    if tuple(maps.shape[1:]) == tuple(size):
        return maps
    return torch.nn.functional.interpolate(
        maps[:, None], size=size, mode="bilinear", align_corners=False
    )[:, 0]

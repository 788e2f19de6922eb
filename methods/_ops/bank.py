"""A memory bank of patches: choosing a coreset, and finding nearest neighbours by brute force."""

from __future__ import annotations

import torch

#: rows and bank points whose distances are held at a time: they stay in a CPU's cache
_BLOCKS = {"cpu": (256, 8192), "cuda": (16384, 16384)}
#: smaller banks are searched outright
_WORTH_PRUNING = 100
_PRUNING = 13  # every n-th point gives the bound; odd, so as not to follow the rows of a grid
_FIRST = 16  # patches of an image searched in full to begin with


def greedy_coreset(points: torch.Tensor, count: int, seed: int) -> torch.Tensor:
    """Indices of ``count`` points chosen by greedy k-centre: each the farthest from those before.

    Parameters
    ----------
    points : tensor of shape (n, d)
        Projected to 128 dimensions by a random Gaussian matrix when d is larger.
    count : int
        How many to choose, 1 to n.
    seed : int
        Of the projection and of the first point.

    Returns
    -------
    int64 tensor of shape (count,)
        In the order they were chosen.
    """
    generator = torch.Generator().manual_seed(seed)
    first = int(torch.randint(len(points), (), generator=generator))
    if points.shape[1] > 128:
        projection = torch.randn(points.shape[1], 128, generator=generator) / 128**0.5
        points = (points - points.mean(0)) @ projection.to(points)
    lengths = points.square().sum(1)
    nearest = torch.full_like(lengths, torch.inf)
    chosen = torch.empty(count, dtype=torch.int64, device=points.device)
    index = torch.tensor(first, device=points.device)
    for step in range(count):
        chosen[step] = index
        distance = torch.addmv(lengths, points, points[index], alpha=-2).add_(lengths[index])
        nearest = torch.minimum(nearest, distance)
        nearest[index] = -torch.inf  # never twice, even among equal points
        index = nearest.argmax()
    return chosen


class Bank:
    """Points to be near to.

    Parameters
    ----------
    points : tensor of shape (n, d)

    Attributes
    ----------
    points : tensor of shape (n, d)
        Centred, as are the rows that all functions take once they went through ``centred``: the
        shorter the vectors, the less the product form of a distance loses.
    """

    def __init__(self, points: torch.Tensor) -> None:
        self._center = points.mean(0)
        self.points = points - self._center
        self._lengths = self.points.square().sum(1)

    def __len__(self) -> int:
        return len(self.points)

    def centred(self, rows: torch.Tensor) -> torch.Tensor:
        """Rows (..., d) moved as the points were."""
        return rows - self._center

    def nearest(self, rows: torch.Tensor, neighbours: int = 1, every: int = 1) -> torch.Tensor:
        """Squared distances (r, neighbours), ascending, of centred rows (r, d) to their nearest.

        ``every`` searches each every-th point only, which bounds the true distance from above.
        """
        points, lengths = self.points[::every], self._lengths[::every]
        height, width = _BLOCKS.get(rows.device.type, _BLOCKS["cpu"])
        buffer = rows.new_empty(height * min(width, len(points)))
        squared = []
        for block in rows.split(height):
            best = None
            for part, length in zip(points.split(width), lengths.split(width), strict=True):
                products = buffer[: len(block) * len(part)].view(len(block), len(part))
                torch.addmm(length, block, part.T, alpha=-2, out=products)
                closest = (
                    products.amin(1, keepdim=True)
                    if neighbours == 1
                    else products.topk(min(neighbours, len(part)), largest=False).values
                )
                if best is not None:
                    closest = torch.cat([best, closest], 1)
                    closest = closest.topk(min(neighbours, closest.shape[1]), largest=False).values
                best = closest
            squared.append(best + block.square().sum(1, keepdim=True))
        return torch.cat(squared).clamp_(min=0)

    def farthest(self, patches: torch.Tensor) -> torch.Tensor:
        """Index (n,) of the patch of each image (n, p, d), centred, that is farthest from the bank.

        Exact. A patch whose distance to a part of the bank is below what some patch of its image
        reaches against all of it cannot be the farthest, and is not searched further.
        """
        n, p, _ = patches.shape
        flat = patches.flatten(0, 1)
        if len(self) < _WORTH_PRUNING:
            return self.nearest(flat)[:, 0].view(n, p).argmax(1)
        bound = self.nearest(flat, every=_PRUNING)[:, 0].view(n, p)
        reached = torch.full_like(bound, -1)
        first = bound.topk(min(_FIRST, p)).indices
        first = (first + torch.arange(n, device=first.device)[:, None] * p).flatten()
        reached.view(-1)[first] = self.nearest(flat[first])[:, 0]
        rest = (bound > reached.amax(1, keepdim=True)).flatten()
        rest[first] = False
        rest = rest.nonzero()[:, 0]
        if len(rest):
            reached.view(-1)[rest] = self.nearest(flat[rest])[:, 0]
        return reached.argmax(1)

    def closest(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Index (r,) of the point nearest to each of a few centred rows, and the distance to it.

        The distance is taken by differences, not products: an image of the support scores 0.
        """
        index = torch.addmm(self._lengths, rows, self.points.T, alpha=-2).argmin(1)
        return index, (rows - self.points[index]).square().sum(1).sqrt()

    def around(self, index: torch.Tensor, count: int) -> torch.Tensor:
        """Indices (r, count) of the points nearest to points ``index`` (r,), themselves first."""
        squared = torch.addmm(self._lengths, self.points[index], self.points.T, alpha=-2)
        squared.scatter_(1, index[:, None], -torch.inf)
        return squared.topk(count, largest=False).indices

"""The template of a method: scores an image by how its colours differ from the support's.

To add a method of your own, copy this file, rename the class, run ``python -m harness check NAME``
and name it in a sweep: ``methods: [{use: NAME, params: {grid: 4}}]``. A heavy library (torch, timm)
may be imported at the top as a plain ``import torch``; everything else is as you see it here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from harness.interface import Features, Image, Method, Prediction, Queries, Support


class MeanColor(Method):
    """Distance between the mean colours of an image's cells and those of the nearest support.

    A floor for comparisons: whatever beats it has seen more than brightness and hue.

    Parameters
    ----------
    grid : int
        Cells per side that an image is divided into.
    """

    # What a method declares stands on the class; harness.interface.Method lists all of it.
    shots = range(1, 1_000_000)

    def __init__(self, *, grid: Annotated[int, Field(ge=1, le=256)] = 8) -> None:
        # Keep the parameters under their own names, load nothing. The engine checks every value
        # by its annotation; what concerns two parameters at once is checked here: ValueError.
        self.grid = grid

    def setup(self, device: str, features: Features) -> None:
        """Keep the worker's memory. Called once per process: a network would be loaded here."""
        self.features = features

    def fit(self, support: Support) -> None:
        """Keep the support's colours; assigning afresh is how a cell forgets the one before."""
        # `normals` is the support, with generated images where the cell names a generator.
        self.reference = self._colors(support.normals)  # (k, grid, grid, 3)

    def predict(self, queries: Queries) -> Prediction:
        """Score each query on its own; make maps only when they are asked for."""
        colors = self._colors(queries.images)  # (N, grid, grid, 3)
        difference = colors[:, None] - self.reference[None]
        distance = np.sqrt((difference**2).sum(-1)).min(axis=1)  # (N, grid, grid), nearest support
        # Higher is more anomalous; any finite range will do.
        scores = distance.mean(axis=(1, 2))
        return Prediction(scores=scores, maps=distance if queries.maps else None)

    def _colors(self, images: Sequence[Image]) -> NDArray[np.float32]:
        # What depends on one image alone goes through `features.get_or_compute`: each worker then
        # computes it once for every shot and seed. The first argument names all else it depends on.
        def compute(batch: Sequence[Image]) -> list[NDArray[np.float32]]:
            return [cell_means(image.pixels, self.grid) for image in batch]

        return np.stack(self.features.get_or_compute(f"mean_color/{self.grid}", images, compute))


def cell_means(pixels: NDArray[np.uint8], grid: int) -> NDArray[np.float32]:
    """Mean colour of each cell: uint8 (H, W, 3) to float32 (grid, grid, 3) in 0..1."""
    height, width = pixels.shape[:2]
    if min(height, width) < grid:
        raise ValueError(f"mean_color: a {width} x {height} image has no {grid} x {grid} cells")
    # Cells start at these rows and columns; reduceat sums from each start to the next.
    rows, columns = (np.arange(grid) * side // grid for side in (height, width))
    sums = np.add.reduceat(np.add.reduceat(pixels.astype(np.float64), rows, 0), columns, 1)
    heights, widths = np.diff(rows, append=height), np.diff(columns, append=width)
    means: NDArray[np.float32] = sums / (255 * np.outer(heights, widths)[..., None])
    return means.astype(np.float32)

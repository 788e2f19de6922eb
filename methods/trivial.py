"""A trivial statistic as a method: what brightness, contrast, sharpness or size alone achieve."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from harness.interface import Features, Image, Method, Prediction, Queries, Support

STATISTICS = ("mean", "std", "laplacian", "pixels", "aspect")


class Trivial(Method):
    """How far a statistic of an image is from its mean over the support.

    A row of the table that nothing should be below: a method that is has shown nothing. It is
    fitted like any other, on the support alone; the line that stands beside every result (column
    ``trivial_auroc``) is of the same statistics, in the direction that suits the labels best.

    Parameters
    ----------
    statistic : {"mean", "std", "laplacian", "pixels", "aspect"}
        Of grey, 0..255: mean, standard deviation, variance of the Laplacian; number of pixels;
        width over height. All of them are among the parts of a prediction.
    """

    preload = ()

    def __init__(
        self, *, statistic: Literal["mean", "std", "laplacian", "pixels", "aspect"] = "mean"
    ) -> None:
        self.statistic = statistic

    def setup(self, device: str, features: Features) -> None:
        """Keep the worker's memory."""
        self.features = features

    def fit(self, support: Support) -> None:
        """Keep the means over the support, generated images included."""
        self.means = self._table(support.normals).mean(axis=0)  # (5,)

    def predict(self, queries: Queries) -> Prediction:
        """Distances from those means."""
        distances = np.abs(self._table(queries.images) - self.means).astype(np.float32)
        parts = {name: distances[:, i].copy() for i, name in enumerate(STATISTICS)}
        return Prediction(parts[self.statistic], parts=parts)

    def _table(self, images: Sequence[Image]) -> NDArray[np.float64]:
        """Statistics (N, 5) of images, each computed once."""

        def compute(batch: Sequence[Image]) -> list[NDArray[np.float64]]:
            return [statistics(image.pixels) for image in batch]

        return np.stack(self.features.get_or_compute("trivial", images, compute))


def statistics(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """``STATISTICS`` (5,) of an image (H, W, 3); grey is by the weights of ITU-R 601."""
    grey = pixels.astype(np.float64) @ np.array([0.299, 0.587, 0.114])
    height, width = grey.shape
    rows, columns = np.diff(grey, 2, axis=0)[:, 1:-1], np.diff(grey, 2, axis=1)[1:-1]
    laplacian = float((rows + columns).var()) if rows.size else 0.0
    return np.array([grey.mean(), grey.std(), laplacian, height * width, width / height])

"""Methods of few lines, one for each thing that a method may declare."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.interface import (
    Arrays,
    Auxiliary,
    Features,
    Image,
    Method,
    Prediction,
    Queries,
    Support,
    progress,
)
from toys._tally import names, tally


class Near(Method):
    """Distance to the nearest normal image.

    Parameters
    ----------
    power : of the pixel difference
    file : a file of weights, read when it is set up
    """

    shots = range(1_000)

    def __init__(self, *, power: float = 2.0, file: str | None = None) -> None:
        self.power = power
        self.file = file

    def files(self) -> Sequence[Path]:
        return [] if self.file is None else [Path(self.file)]

    def setup(self, device: str, features: Features) -> None:
        self.features = features
        self.scale = 1.0 if self.file is None else float(Path(self.file).read_text())

    def fit(self, support: Support) -> None:
        tally("fit", type(self).__name__, support.object_name, names(support.images))
        self.seen = len(support.images)
        self.normals = self.vectors(support.normals)

    def vectors(self, images: Sequence[Image]) -> list[NDArray[np.float64]]:
        def compute(batch: Sequence[Image]) -> list[NDArray[np.float64]]:
            for image in batch:
                tally("encode", image.key)
            return [image.pixels.astype(np.float64) / 255 for image in batch]

        return self.features.get_or_compute("pixels", images, compute)

    def distances(self, images: Sequence[Image]) -> NDArray[np.float64]:
        zero = [np.full_like(v, 0.5) for v in self.vectors(images[:1])]
        normals = np.stack(self.normals or zero)
        queries = np.stack(self.vectors(images))
        gaps = np.abs(queries[:, None] - normals[None]) ** self.power
        return self.scale * gaps.mean(axis=4).min(axis=1)  # (N, H, W)

    def predict(self, queries: Queries) -> Prediction:
        tally("predict", type(self).__name__, self.seen, names(queries.images))
        maps = self.distances(queries.images)
        scores = maps.mean(axis=(1, 2))
        parts = {"brightest": maps.max(axis=(1, 2)).astype(np.float32)}
        return Prediction(
            scores.astype(np.float32), maps.astype(np.float32) if queries.maps else None, parts
        )


class Talks(Near):
    """Logs what it does."""

    def fit(self, support: Support) -> None:
        logging.getLogger("toys.talks").info("fitted to %d images", len(support.images))
        super().fit(support)


class Taught(Near):
    """Learns a factor from the auxiliary data.

    Parameters
    ----------
    random : whether the factor is drawn
    """

    auxiliary = True

    def __init__(self, *, power: float = 2.0, file: str | None = None, random: bool = True) -> None:
        super().__init__(power=power, file=file)
        self.auxiliary_per_seed = random

    def train(self, auxiliary: Auxiliary) -> Arrays:
        seen = [
            (c.name, c.object_name, len(c.train), len(c.test), int(c.labels.sum()))
            for c in auxiliary.categories
        ]
        tally("train", type(self).__name__, auxiliary.shots, *(n for n, *_ in seen))
        first = auxiliary.categories[0]
        mean = np.mean([image.pixels.mean() for image in first.train])
        masked = sum(first.masks(i) is not None for i in range(len(first.test)))
        drawn = np.random.random()  # noqa: NPY002 - the engine seeds it
        return {"factor": np.array([mean, masked, drawn, auxiliary.shots or 0])}

    def load(self, state: Arrays) -> None:
        tally("load", type(self).__name__)
        self.factor = float(state["factor"].sum())

    def distances(self, images: Sequence[Image]) -> NDArray[np.float64]:
        return super().distances(images) * self.factor


class TaughtPerShots(Taught):
    """Learns one factor for each number of shots."""

    auxiliary_per_shots = True


class Compared(Near):
    """Distance of a query to its one-to-normal image."""

    personalized = True
    shots = range(1, 1_000)

    def distances(self, images: Sequence[Image]) -> NDArray[np.float64]:
        own = np.stack([image.pixels for image in self.pairs]).astype(np.float64) / 255
        queries = np.stack(self.vectors(images))
        return (np.abs(queries - own) ** self.power).mean(axis=3)

    def predict(self, queries: Queries) -> Prediction:
        assert len(queries.personalized) == len(queries.images)
        self.pairs = queries.personalized
        return super().predict(queries)


class Pooled(Near):
    """Works on the generator's pool only."""

    generator = True

    def fit(self, support: Support) -> None:
        assert support.pool
        assert "mean" in support.customized
        super().fit(support)
        tally("pool", len(support.images), len(support.pool))


class Dice(Near):
    """Throws dice while fitting and while predicting."""

    def fit(self, support: Support) -> None:
        super().fit(support)
        self.thrown = np.random.random()  # noqa: NPY002 - the engine seeds it

    def predict(self, queries: Queries) -> Prediction:
        prediction = super().predict(queries)
        noise = np.random.random(len(prediction.scores))  # noqa: NPY002 - the engine seeds it
        return Prediction((prediction.scores * 0.01 + noise + self.thrown).astype(np.float32))


class Spy(Near):
    """Hands back all it can see of a query, for the test to look at."""

    def fit(self, support: Support) -> None:
        super().fit(support)
        for image in (*support.images, *support.pool):
            tally("support", *sorted(_attributes(image)))

    def predict(self, queries: Queries) -> Prediction:
        for image in queries.images:
            tally("query", image.key, *sorted(_attributes(image)))
        return super().predict(queries)


def _attributes(thing: Any) -> list[str]:
    return [name for name in dir(thing) if not name.startswith("__")]


class Writes(Near):
    """Writes into every array it is handed; any that lets it would spoil others' results.

    Parameters
    ----------
    where : what to write to: query, support, pool, personalized, customized or trained
    """

    personalized = True
    auxiliary = True
    shots = range(1, 1_000)

    def __init__(self, *, where: str) -> None:
        super().__init__()
        self.where = where

    def train(self, auxiliary: Auxiliary) -> Arrays:
        return {"state": np.zeros(3)}

    def load(self, state: Arrays) -> None:
        self.state = state["state"]

    def fit(self, support: Support) -> None:
        super().fit(support)
        self.found = {
            "support": support.images[0].pixels,
            "pool": support.pool[-1].pixels,
            "customized": support.customized["mean"],
            "trained": self.state,
        }

    def predict(self, queries: Queries) -> Prediction:
        self.found["query"] = queries.images[0].pixels
        self.found["personalized"] = queries.personalized[0].pixels
        self.found[self.where][:] = 0
        return super().predict(queries)


class Stepwise(Near):
    """Says how far it is, for three seconds."""

    def fit(self, support: Support) -> None:
        super().fit(support)
        for step in range(1, 33):
            time.sleep(0.1)
            progress(step, 32, {"loss": 1 / step})

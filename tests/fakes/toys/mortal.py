"""Plug-ins that end their own process when they find an order to, and one that eats memory.

An order is a file in a folder: "train" is followed once, by whoever removes it, "train.always" each
time, and "train.bee.always" each time for the category bee.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.interface import Arrays, Auxiliary, Prediction, Queries, Support
from toys._tally import tally
from toys.data import Squares
from toys.generators import Blend
from toys.methods import Compared, Near


def strike(payloads: str, what: str, where: str = "") -> None:
    """End this process at once if that is ordered: nothing is closed, nobody is told."""
    file = os.path.join(payloads, what)
    due = os.path.exists(f"{file}.always") or os.path.exists(f"{file}.{where}.always")
    if not due:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(file)
            due = True
    if due:
        tally("killed", what, os.getpid())
        os.kill(os.getpid(), signal.SIGKILL)


class MortalSquares(Squares):
    """Ends whoever evaluates: nobody else reads masks.

    Parameters
    ----------
    payloads : folder of payloads
    """

    def __init__(self, *, payloads: str) -> None:
        super().__init__(masks=True)
        self.payloads = payloads

    def open(self, source: str) -> bytes | NDArray[Any]:
        category, kind, _ = source.split("/")
        if kind == "mask":
            strike(self.payloads, "evaluate", category)
        return super().open(source)


class MortalBlend(Blend):
    """Ends whoever prepares, customizes, generates or personalizes.

    Parameters
    ----------
    payloads : folder of payloads
    """

    def __init__(self, *, payloads: str) -> None:
        super().__init__()
        self.payloads = payloads

    def _call(self, what: str, *words: object) -> None:
        super()._call(what, *words)
        strike(self.payloads, what)


class Mortal(Compared):
    """Ends whoever trains or predicts.

    Parameters
    ----------
    payloads : folder of payloads
    """

    auxiliary = True

    def __init__(self, *, payloads: str) -> None:
        super().__init__()
        self.payloads = payloads

    def train(self, auxiliary: Auxiliary) -> Arrays:
        strike(self.payloads, "train")
        means = [image.pixels.mean() for c in auxiliary.categories for image in c.train]
        return {"factor": np.mean(means) * np.random.random(1)}  # noqa: NPY002 - seeded

    def load(self, state: Arrays) -> None:
        self.factor = float(state["factor"][0])

    def predict(self, queries: Queries) -> Prediction:
        strike(self.payloads, "predict")
        prediction = super().predict(queries)
        return Prediction(prediction.scores * np.float32(self.factor), prediction.maps)


class Glutton(Near):
    """Takes memory for one object, until something ends it.

    Parameters
    ----------
    megabytes : when it has enough and raises
    once : a file; it takes nothing once that is there
    where : name of the object
    """

    def __init__(self, *, megabytes: int, once: str | None = None, where: str = "bee") -> None:
        super().__init__()
        self.megabytes = megabytes
        self.once = once
        self.where = where

    def fit(self, support: Support) -> None:
        if support.object_name == self.where and not (self.once and os.path.exists(self.once)):
            if self.once:
                open(self.once, "x").close()
            held = []
            for _ in range(0, self.megabytes, 64):
                held.append(np.full(64 << 20, 1, dtype=np.uint8))  # written to, so really taken
                time.sleep(0.02)
            time.sleep(2)
            raise RuntimeError("nobody minded")
        super().fit(support)


class Bulky(Near):
    """Leaves artifacts that take room.

    Parameters
    ----------
    side : height and width of its maps
    """

    def __init__(self, *, side: int = 64) -> None:
        super().__init__()
        self.side = side

    def predict(self, queries: Queries) -> Prediction:
        prediction = super().predict(queries)
        grain = np.random.random((self.side, self.side))  # noqa: NPY002 - seeded
        maps = prediction.scores[:, None, None] + grain[None]
        return Prediction(prediction.scores, maps.astype(np.float32))

"""Plug-ins whose every step takes a known time: what is measured can be told right or wrong."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.interface import Features, Image, Prediction, Queries, Support
from toys._tally import tally
from toys.data import Squares
from toys.generators import Blend
from toys.methods import Near

STEP = 0.02


def step(what: str) -> None:
    """Say that something is done, and take the time for it."""
    began = time.perf_counter()
    time.sleep(STEP)
    tally("step", what, time.perf_counter() - began)  # as long as it was: machines may be busy


class TimedSquares(Squares):
    """Squares that take their time to be read."""

    def open(self, source: str) -> bytes | NDArray[Any]:
        step("decode")
        return super().open(source)


class TimedBlend(Blend):
    """Blend, whose calls each take a step."""

    def _call(self, what: str, *words: object) -> None:
        super()._call(what, *words)
        step("fit" if what == "load" else "work")


class Timed(Near):
    """Near in steps: one to set up, one to encode an image, one to fit, three to predict.

    Parameters
    ----------
    mortal : a file whose presence ends the first process that predicts
    """

    personalized = True

    def __init__(self, *, mortal: str | None = None) -> None:
        super().__init__()
        self.mortal = mortal

    def setup(self, device: str, features: Features) -> None:
        step("setup")
        super().setup(device, features)

    def vectors(self, images: Sequence[Image]) -> list[NDArray[np.float64]]:
        def compute(batch: Sequence[Image]) -> list[NDArray[np.float64]]:
            vectors = [image.pixels.astype(np.float64) / 255 for image in batch]
            for _ in batch:
                step("encode")
            return vectors

        return self.features.many("timed", images, compute)

    def fit(self, support: Support) -> None:
        step("fit")
        super().fit(support)

    def predict(self, queries: Queries) -> Prediction:
        if self.mortal and os.path.exists(self.mortal):
            os.unlink(self.mortal)
            time.sleep(10 * STEP)
            os.kill(os.getpid(), signal.SIGKILL)
        for _ in range(3):
            step("work")
        return super().predict(queries)

"""A method that goes wrong for one category, in one of many ways."""

from __future__ import annotations

import ctypes
import os
import sys
import time

import numpy as np

from harness.interface import Prediction, Queries, Support
from toys._tally import tally
from toys.methods import Near


class Trouble(Near):
    """Near, but for one category.

    Parameters
    ----------
    how : what happens
    where : name of the object it happens to
    when : "fit" or "predict"
    once : a file; trouble is over once it is there
    """

    def __init__(
        self, *, how: str, where: str = "bee", when: str = "fit", once: str | None = None
    ) -> None:
        super().__init__()
        self.how = how
        self.where = where
        self.when = when
        self.once = once

    def fit(self, support: Support) -> None:
        self.object = support.object_name
        if self.when == "fit":
            self.go_wrong()
        super().fit(support)

    def predict(self, queries: Queries) -> Prediction:
        if self.when == "predict":
            self.go_wrong()
        n = len(queries.images)
        if self.object == self.where:
            if self.how == "short":
                return Prediction(np.zeros(n - 1, dtype=np.float32))
            if self.how == "flat maps":
                return Prediction(np.zeros(n, np.float32), np.zeros((n, 4), np.float32))
            if self.how == "nan":
                return Prediction(np.full(n, np.nan, dtype=np.float32))
            if self.how == "one nan":
                scores = np.arange(n, dtype=np.float32)
                scores[0] = np.nan
                return Prediction(scores)
            if self.how == "nothing":
                return None  # type: ignore[return-value]
            if self.how == "eats":
                for image in queries.images:
                    try:
                        image.pixels.sum()
                    except ValueError:
                        continue
                return Prediction(np.arange(n, dtype=np.float32))
            if self.how == "wraps":
                try:
                    return super().predict(queries)
                except ValueError as error:
                    raise RuntimeError("my own words") from error
        return super().predict(queries)

    def go_wrong(self) -> None:
        if self.object != self.where:
            return
        if self.once is not None:
            if os.path.exists(self.once):
                return
            open(self.once, "x").close()
        tally("trouble", self.how)
        match self.how:
            case "raise":
                raise RuntimeError("this is\nof two lines")
            case "exit":
                sys.exit(0)
            case "os._exit":
                os._exit(3)
            case "interrupt":
                raise KeyboardInterrupt
            case "segfault":
                ctypes.string_at(0)
            case "hang":
                while True:
                    time.sleep(0.05)
            case "spoils":
                np.argsort = None  # type: ignore[assignment]
                raise ValueError("nobody sorts")
            case "leak":
                try:
                    raise OSError(f"no answer from {os.environ['TOYS_SECRET']}")
                except OSError as error:
                    raise RuntimeError(f"tried {os.environ['TOYS_SECRET']} in vain") from error
            case "memory":
                raise MemoryError
            case "generator exit":
                raise GeneratorExit

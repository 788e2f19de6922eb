"""Plug-ins that take their time, so that they can be interrupted."""

from __future__ import annotations

import time

from harness.interface import Prediction, Queries, Support
from toys.generators import Blend
from toys.methods import Near


class Slow(Near):
    """Near, a little later."""

    def fit(self, support: Support) -> None:
        time.sleep(0.03)
        super().fit(support)

    def predict(self, queries: Queries) -> Prediction:
        time.sleep(0.03)
        return super().predict(queries)


class Late(Blend):
    """Blend, a little later.

    Parameters
    ----------
    seconds : that each call takes
    """

    def __init__(self, *, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def _call(self, what: str, *words: object) -> None:
        super()._call(what, *words)
        time.sleep(self.seconds)

"""A method that takes its time, so that it can be interrupted."""

from __future__ import annotations

import time

from harness.interface import Prediction, Queries, Support
from toys.methods import Near


class Slow(Near):
    """Near, a little later."""

    def fit(self, support: Support) -> None:
        time.sleep(0.03)
        super().fit(support)

    def predict(self, queries: Queries) -> Prediction:
        time.sleep(0.03)
        return super().predict(queries)

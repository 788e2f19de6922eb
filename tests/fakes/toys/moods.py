"""Methods that do not make the same of the same: caught by an audit, unless they say so."""

from __future__ import annotations

import os

import numpy as np

from harness.interface import Prediction, Queries
from toys.methods import Near

_ANSWERS = 0  # of this process


class Drifts(Near):
    """Its scores depend on how often its process was asked before."""

    def predict(self, queries: Queries) -> Prediction:
        global _ANSWERS
        prediction = super().predict(queries)
        _ANSWERS += 1
        return Prediction(prediction.scores + np.float32(_ANSWERS - 1), prediction.maps)


class Moody(Near):
    """Its scores are drawn from the machine's noise, and it says so."""

    deterministic = False

    def predict(self, queries: Queries) -> Prediction:
        prediction = super().predict(queries)
        noise = np.frombuffer(os.urandom(len(prediction.scores)), np.uint8)
        return Prediction(prediction.scores + noise.astype(np.float32), prediction.maps)

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
        given = super().predict(queries)
        _ANSWERS += 1
        return Prediction(given.scores + np.float32(_ANSWERS - 1), given.maps)


class Moody(Near):
    """Its scores are drawn from the machine's noise, and it says so."""

    deterministic = False

    def predict(self, queries: Queries) -> Prediction:
        given = super().predict(queries)
        noise = np.frombuffer(os.urandom(len(given.scores)), np.uint8)
        return Prediction(given.scores + noise.astype(np.float32), given.maps)

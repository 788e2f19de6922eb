"""Plug-ins that take their time, so that they can be interrupted."""

from __future__ import annotations

import os
import time
from pathlib import Path

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


class Together(Blend):
    """Blend, by two processes where that is asked for: none goes on before the other has begun.

    Parameters
    ----------
    folder : it is asked for while that is there
    """

    def __init__(self, *, folder: str) -> None:
        super().__init__()
        self.folder = folder

    def _call(self, what: str, *words: object) -> None:
        super()._call(what, *words)
        places, end = Path(self.folder), time.monotonic() + 200
        if places.is_dir():
            (places / str(os.getpid())).touch()
            while len(list(places.iterdir())) < 2 and time.monotonic() < end:
                time.sleep(0.02)

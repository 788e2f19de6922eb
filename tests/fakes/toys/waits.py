"""A method that waits for a word from outside."""

from __future__ import annotations

import os
import time
from pathlib import Path

from harness.interface import Support
from toys.methods import Near


class Waits(Near):
    """Near, once a file is there.

    Parameters
    ----------
    word : file that it waits for, at most three minutes; beside it lies WORD.awaited meanwhile
    """

    def __init__(self, *, word: str) -> None:
        super().__init__()
        self.word = word

    def fit(self, support: Support) -> None:
        Path(f"{self.word}.awaited").touch()
        end = time.monotonic() + 180
        while not os.path.exists(self.word) and time.monotonic() < end:
            time.sleep(0.02)
        super().fit(support)

"""What names a result and an artifact: a cell's five words, and the hash that is a key."""

from __future__ import annotations

import hashlib
import json
from typing import Any, NamedTuple

from harness.errors import amount, printable


class Cell(NamedTuple):
    """The unit that has a result."""

    method: str
    dataset: str
    category: str
    shots: int
    seed: int

    def __str__(self) -> str:
        where = f"{self.dataset}/{self.category}"
        return printable(
            f"{self.method} on {where}, {amount(self.shots, 'shot')}, seed {self.seed}"
        )


def hashed(*parts: Any) -> str:
    """Key made of JSON-able parts: 32 hexadecimal digits of sha256."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]

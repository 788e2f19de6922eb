"""Plug-ins for planning alone: what they declare, and data whose every detail a test can set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.interface import Dataset, Sample
from toys.generators import Blend
from toys.methods import Near


class Weighty(Blend):
    """A generator with weights and a caveat.

    Parameters
    ----------
    weights : their file
    """

    note = "small weights"

    def __init__(self, *, weights: str) -> None:
        super().__init__()
        self.weights = weights

    def files(self) -> Sequence[Path]:
        return [Path(self.weights)]


class Trained(Near):
    """A method that was trained on other data.

    Parameters
    ----------
    on : datasets
    place : a folder
    """

    def __init__(self, *, on: tuple[str, ...] = (), place: Path = Path("here")) -> None:
        super().__init__()
        self.trained_on = tuple(on)
        self.place = place


class Strips(Dataset):
    """Tiles of strips, one of them with a mask; and remarks.

    Parameters
    ----------
    masked : how many of the six queries have a mask
    shared : whether train images may be of a tested strip
    """

    def __init__(self, *, masked: int = 1, shared: bool = False) -> None:
        self.masked = masked
        self.shares_groups = shared

    def categories(self) -> list[str]:
        return ["steel", "wool"]

    def train(self, category: str) -> list[Sample]:
        groups = ("0", "", "", "", "")
        return [Sample(f"{category}/train/{i}", group=g) for i, g in enumerate(groups)]

    def test(self, category: str) -> list[Sample]:
        tiles = []
        for i in range(6):
            left = 8 * (i // 3)
            box = (left, 0, left + 8, 8)
            mask = f"{category}/mask/{i}" if i < self.masked else None
            tiles.append(
                Sample(f"{category}/strip/{i % 3}", i % 2, mask, group=str(i % 3), box=box)
            )
        return tiles

    def object_name(self, category: str) -> str:
        return f"a piece of {category}"

    def remarks(self, category: str) -> list[str]:
        return [f"{category} is dusty"]

    def stamp(self, source: str) -> str:
        return source

    def open(self, source: str) -> NDArray[Any]:
        rng = np.random.default_rng(list(source.encode()))
        if "mask" in source:
            return np.ones((8, 16), dtype=bool)
        return rng.integers(0, 256, (8, 16, 3), dtype=np.uint8)

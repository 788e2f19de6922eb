"""A dataset made of arithmetic: normals are flat and noisy, anomalies have a bright square."""

from __future__ import annotations

import zlib
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.interface import Dataset, Sample


class Squares(Dataset):
    """Squares on a ground.

    Parameters
    ----------
    names : categories
    normals : training images of each
    queries : test images of each, half of them with a square
    masks : whether the squares come with masks
    side : height and width in pixels
    shift : another value gives other pixels under the same names
    broken : sources that cannot be read
    """

    def __init__(
        self,
        *,
        names: list[str] | None = None,
        normals: int = 10,
        queries: int = 10,
        masks: bool = False,
        side: int = 12,
        shift: int = 0,
        broken: list[str] | None = None,
    ) -> None:
        self.names = names or ["ant", "bee"]
        self.normals = normals
        self.queries = queries
        self.masks = masks
        self.side = side
        self.shift = shift
        self.broken = broken or []

    def categories(self) -> list[str]:
        return list(self.names)

    def train(self, category: str) -> list[Sample]:
        return [Sample(f"{category}/train/{i:03}") for i in range(self.normals)]

    def test(self, category: str) -> list[Sample]:
        samples = []
        for i in range(self.queries):
            bad = i % 2
            kind = "square" if bad else "good"
            mask = f"{category}/mask/{i:03}" if bad and self.masks else None
            samples.append(Sample(f"{category}/{kind}/{i:03}", bad, mask, kind))
        return samples

    def stamp(self, source: str) -> str:
        return f"{self.shift}.{source}"

    def open(self, source: str) -> bytes | NDArray[Any]:
        if source in self.broken:
            return b"no picture"
        category, kind, number = source.split("/")
        rng = np.random.default_rng([zlib.crc32(source.encode()), self.shift])
        top, left = (int(number) * step % (self.side - 4) for step in (3, 5))
        square = np.zeros((self.side, self.side), dtype=bool)
        square[top : top + 4, left : left + 4] = True
        if kind == "mask":
            return square
        base = 60 + zlib.crc32(category.encode()) % 60
        pixels = rng.integers(base, base + 40, (self.side, self.side, 3))
        if kind == "square":
            pixels[square] += int(rng.integers(10, 60))
        return pixels.astype(np.uint8)


class Views(Squares):
    """Squares of which several queries in a row show one thing.

    Parameters
    ----------
    views : queries of a thing
    """

    def __init__(self, *, queries: int = 10, views: int = 2) -> None:
        super().__init__(names=["ant"], queries=queries)
        self.views = views

    def test(self, category: str) -> list[Sample]:
        samples = super().test(category)
        return [replace(s, group=f"thing {i // self.views}") for i, s in enumerate(samples)]

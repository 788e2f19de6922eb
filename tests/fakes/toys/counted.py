"""Plug-ins that say in which process they open, encode and so on: each should happen once there."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.interface import Arrays, Features, Image, Personalized, Support
from toys._tally import tally
from toys.data import Squares
from toys.generators import Blend


class CountedSquares(Squares):
    """Says what is opened, and by whom."""

    def __init__(self, *, masks: bool = True, queries: int = 12) -> None:
        super().__init__(masks=masks, queries=queries)

    def open(self, source: str) -> bytes | NDArray[Any]:
        kind = "mask" if "/mask/" in source else "image"
        tally("opened", kind, source, os.getpid())
        return super().open(source)


class CountedBlend(Blend):
    """Blends latents, which it makes of images through the worker's memory."""

    def setup(self, device: str, features: Features) -> None:
        self.features = features

    def latents(self, images: Sequence[Image]) -> list[NDArray[np.float64]]:
        def compute(batch: Sequence[Image]) -> list[NDArray[np.float64]]:
            for image in batch:
                tally("latent", image.key, os.getpid())
            return [image.pixels[::2, ::2] / 255.0 for image in batch]

        return self.features.get_or_compute("vae:toy", images, compute)

    def customize(self, support: Support, prior: Arrays) -> Arrays:
        self.latents(support.images)
        return super().customize(support, prior)

    def load(self, state: Arrays, support: Support) -> None:
        tally("loaded", support.object_name, os.getpid())
        super().load(state, support)

    def personalize(self, images: Sequence[Image], seed: int) -> Personalized:
        self.latents(images)
        return super().personalize(images, seed)

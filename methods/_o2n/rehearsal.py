"""Damaged supports, personalized: what One-to-Normal's branches see before any query is there."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pydantic

from harness.interface import Features, Image, Pixels, Support
from methods._o2n.defects import KINDS, damaged
from methods.generators.dreambooth import DreamBooth


@dataclass(frozen=True)
class Act:
    """A picture of a support, as it is or damaged; ``source`` is its position in the support."""

    image: Image
    source: int
    damaged: bool


def acts(images: Sequence[Image], damages: int) -> list[Act]:
    """Every image as it is, and ``damages`` damaged ones: images and kinds of damage in turn."""
    played = [Act(image, source, False) for source, image in enumerate(images)]
    for number in range(damages):
        source, kind = number % len(images), KINDS[number % len(KINDS)]
        key = f"{images[source].key}/{kind}/{number}"
        # Decoded when looked at, as any image; what is drawn depends on the key alone.
        image = Image(key, partial(_drawn, images[source], kind, key))
        played.append(Act(image, source, True))
    return played


def _drawn(image: Image, kind: str, key: str) -> Pixels:
    random = np.random.default_rng(list(hashlib.sha256(key.encode()).digest()))
    return damaged(image.pixels, kind, random)[0]


class Personalizer:
    """The cell's customized model, once more, for pictures that are no queries.

    Parameters
    ----------
    parameters : mapping
        Of the generator ``dreambooth`` that the cell names.
    """

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        checked = pydantic.validate_call(config=pydantic.ConfigDict(allow_inf_nan=False))
        build: Any = checked(DreamBooth.__init__)
        self._generator = DreamBooth.__new__(DreamBooth)
        try:
            build(self._generator, **parameters)
        except pydantic.ValidationError as error:
            first = error.errors()[0]
            name = ".".join(map(str, first["loc"]))
            raise ValueError(f"o2n: personalizer: {name}: {first['msg']}") from None

    def files(self) -> Sequence[Path]:
        """Weights that results depend on."""
        return self._generator.files()

    def setup(self, device: str, features: Features) -> None:
        """Load the base."""
        self._generator.setup(device, features)

    def personalized(self, support: Support, images: Sequence[Image]) -> list[Image]:
        """One-to-normal images by the model that the support was customized with.

        Raises
        ------
        ValueError
            The support brings no customized model.
        """
        if not support.customized:
            raise ValueError(
                "o2n: weights by synthetic defects need a generator that customizes a model"
            )
        self._generator.load(support.customized, support)
        rebuilt = self._generator.personalize(images, support.seed).images
        digest = hashlib.sha256(
            b"".join(support.customized[name].tobytes() for name in sorted(support.customized))
        ).hexdigest()[:24]
        return [
            Image(f"{image.key}/rehearsed/{digest}", pixels)
            for image, pixels in zip(images, rebuilt, strict=True)
        ]

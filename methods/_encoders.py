"""One entrance to all encoders: a description in, a frozen network that gives `Encoding` out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from harness.interface import Features, Image
from methods._encoding import Encoding


class Encoder(Protocol):
    """What methods ask of an encoder, convolutional or transformer."""

    name: str  # names the network and its weights; part of every feature space

    def encode(
        self,
        images: Sequence[Image],
        *,
        size: int,
        levels: Sequence[int],
        windows: Sequence[int] = (),
    ) -> list[Encoding]:
        """Encodings of images stretched to ``size`` pixels, one per image, remembered."""


def load_encoder(spec: Mapping[str, str], device: str, features: Features) -> Encoder:
    """The encoder that ``{model, weights}`` describes, shared by all methods of the worker."""

    def load() -> Encoder:
        from methods._cnn import CnnEncoder

        return CnnEncoder(spec["model"], spec["weights"], device, features)

    return features.once(f"encoder/{spec['model']}/{spec['weights']}/{device}", load)

"""Images that One-to-Normal compares a query with, as the encoder is to see them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as Picture

from harness.interface import Features, Image

if TYPE_CHECKING:
    from methods._diffusion.model import Parts


def unstacked(images: Sequence[Image], several: bool) -> list[list[Image]]:
    """The P personalized images of each query, first all queries' first, then their second.

    A generator that keeps the image of every prompt puts them one above the other, each square.

    Raises
    ------
    ValueError
        Where one image was expected and a stack came, or when queries have unequal numbers.
    """
    counts = {max(1, round(i.pixels.shape[0] / i.pixels.shape[1])) for i in images}
    if len(counts) != 1:
        raise ValueError(f"o2n: queries have {sorted(counts)} personalized images, unequal numbers")
    count = counts.pop()
    if count > 1 and not several:
        raise ValueError(
            f"o2n: the generator keeps the images of all {count} prompts; give o2n "
            f"`selection: mean` or `min`, or let the generator select one"
        )
    if count == 1:
        return [list(images)]

    def cut(image: Image, place: int) -> NDArray[np.uint8]:
        side = image.pixels.shape[0] // count
        return image.pixels[place * side : (place + 1) * side]

    return [[Image(f"{i.key}#{p}", partial(cut, i, p)) for i in images] for p in range(count)]


def shaped(images: Sequence[Image], like: Sequence[tuple[int, int]]) -> list[Image]:
    """Square images, stretched to the (height, width) of the queries that they stand for."""

    def stretched(image: Image, height: int, width: int) -> NDArray[np.uint8]:
        picture = Picture.fromarray(image.pixels)
        return np.asarray(picture.resize((width, height), Picture.Resampling.BICUBIC))

    return [
        image
        if height == width
        else Image(f"{image.key}/{height}x{width}", partial(stretched, image, height, width))
        for image, (height, width) in zip(images, like, strict=True)
    ]


class Autoencoder:
    """What a diffusion base's autoencoder alone makes of an image: the floor of personalization.

    Parameters
    ----------
    base : str
        As the generator's: hub id, local folder or ``micro``.
    size : int, optional
        Side of its input in pixels; by default what it was trained on.
    device : str
    features : Features
        The worker's memory, where a generator of the same base leaves its parts and latents.
    """

    def __init__(self, base: str, size: int | None, device: str, features: Features) -> None:
        from methods._diffusion import model

        self._model, self._features, self._device = model, features, device
        self._parts: Parts = features.get_or_create(
            f"diffusion:{base}:{device}", lambda: model.load_parts(base, device)
        )
        self._side = size or int(self._parts.vae.config.sample_size)
        factor = model.factor(self._parts)
        if self._side % factor:
            raise ValueError(
                f"o2n: autoencoder_size must be a multiple of {factor} with base {base!r}, "
                f"got {self._side}"
            )
        self.name = f"vae:{base}:{self._side}:{torch.float32}"

    def reconstructions(self, images: Sequence[Image]) -> list[Image]:
        """Square reconstructions, made when they are first looked at."""
        return [
            Image(f"{image.key}/{self.name}", partial(self._reconstruct, image)) for image in images
        ]

    def _reconstruct(self, image: Image) -> NDArray[np.uint8]:
        def compute(some: Sequence[Image]) -> list[torch.Tensor]:
            pixels = [self._model.to_tensor(x.pixels, self._side, self._device) for x in some]
            return list(self._model.encode(self._parts, torch.stack(pixels), torch.float32))

        latent = torch.stack(self._features.get_or_compute(self.name, [image], compute))
        decoded = self._model.decode(self._parts, latent, torch.float32)
        pixels: NDArray[np.uint8] = self._model.to_pixels(decoded)[0]
        return pixels

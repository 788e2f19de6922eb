"""What CLIP methods do before an encoder sees an image: crop it, and name the files it rests on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture

from harness.interface import Features, Image, Pixels
from methods import _weights


def encoder_files(spec: Mapping[str, Any]) -> tuple[Path, ...]:
    """Local files that an encoder's results depend on, without loading anything."""
    model = spec["model"]
    config = (Path(model).expanduser().absolute(),) if model.endswith(".json") else ()
    return (*config, *_weights.files(spec))


def centred(images: Sequence[Image], size: int) -> list[Image]:
    """The images' centres of ``size`` x ``size`` pixels, made when they are first looked at."""
    return [
        Image(f"{image.key}/centre{size}", lambda image=image: centre(image.pixels, size))
        for image in images
    ]


def centre(pixels: Pixels, size: int) -> Pixels:
    """Centre square of uint8 (H, W, 3) after its shortest side was resized to ``size``, bicubic."""
    height, width = pixels.shape[:2]
    if height <= width:
        rows, columns = size, int(size * width / height)
    else:
        rows, columns = int(size * height / width), size
    if (rows, columns) != (height, width):
        picture = Picture.fromarray(pixels).resize((columns, rows), Picture.Resampling.BICUBIC)
        pixels = np.asarray(picture)
    top, left = round((rows - size) / 2), round((columns - size) / 2)
    return np.ascontiguousarray(pixels[top : top + size, left : left + size])


def shapes(images: Sequence[Image], features: Features) -> list[tuple[int, int]]:
    """Height and width of each image in pixels."""
    return features.many("shape", images, lambda batch: [i.pixels.shape[:2] for i in batch])


def uncropped(maps: NDArray[np.float32], shapes: Sequence[tuple[int, int]]) -> NDArray[np.float32]:
    """Maps of centre squares, laid over the whole images they will be stretched over.

    Parameters
    ----------
    maps : float32 ndarray of shape (n, s, s)
        At least 0.
    shapes : sequence of (int, int)
        Height and width of the n images before ``centre``.

    Returns
    -------
    float32 ndarray of shape (n, s, s)
        What lies outside the square scores 0.
    """
    if all(height == width for height, width in shapes):
        return maps
    whole = np.zeros_like(maps)
    side = maps.shape[1]
    for canvas, square, (height, width) in zip(whole, maps, shapes, strict=True):
        rows = max(1, round(side * min(1, width / height)))
        columns = max(1, round(side * min(1, height / width)))
        squeezed = Picture.fromarray(square).resize((columns, rows), Picture.Resampling.BILINEAR)
        top, left = (side - rows) // 2, (side - columns) // 2
        canvas[top : top + rows, left : left + columns] = np.asarray(squeezed)
    return whole

"""The centre crop of the papers' pre-processing, and maps put back where they were cropped."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from PIL import Image as Picture

from harness.interface import Image, Pixels


def centre(pixels: Pixels, size: int, side: int, kernel: str) -> Pixels:
    """Centre square of uint8 (H, W, 3) after its shortest side was resized to ``size`` pixels.

    Resizing first, and rounding as torchvision does, are what the papers' code has.

    Parameters
    ----------
    pixels : uint8 ndarray of shape (H, W, 3)
    size : int
        Length of the shortest side after resizing, in pixels.
    side : int
        Of the square, at most ``size``.
    kernel : str
        bilinear, bicubic or lanczos; all antialiased.
    """
    height, width = pixels.shape[:2]
    if height <= width:
        rows, columns = size, int(size * width / height)
    else:
        rows, columns = int(size * height / width), size
    if (rows, columns) != (height, width):
        how = Picture.Resampling[kernel.upper()]
        pixels = np.asarray(Picture.fromarray(pixels).resize((columns, rows), how))
    top, left = round((rows - side) / 2), round((columns - side) / 2)
    return np.ascontiguousarray(pixels[top : top + side, left : left + side])


def _centre(image: Image, size: int, side: int, kernel: str) -> Pixels:
    return centre(image.pixels, size, side, kernel)


def centres(images: Sequence[Image], size: int, side: int, kernel: str) -> list[Image]:
    """Centre squares as images of their own, made when they are asked for; see ``centre``."""
    return [
        Image(
            f"{image.key}/centre {side} of {size} {kernel}",
            partial(_centre, image, size, side, kernel),
        )
        for image in images
    ]


def framed(
    maps: torch.Tensor, shapes: Sequence[tuple[int, ...]], share: float, size: int
) -> torch.Tensor:
    """Maps (N, h, w) of centre squares, spread over all of their images: (N, size, size).

    What the crop left out was not looked at: it gets the lowest value of its map.

    Parameters
    ----------
    maps : tensor of shape (N, h, w)
    shapes : sequence of (H, W, ...)
        Of the images before the crop.
    share : float
        Of the shorter side that the crop kept.
    size : int
        Side of the result in pixels.
    """
    covered = torch.tensor(
        [[_side(shape, share) / shape[1], _side(shape, share) / shape[0]] for shape in shapes]
    ).to(maps)
    # From coordinates of the image to those of its crop, both -1..1: centred, so only a scale.
    transform = torch.diag_embed(1 / covered)
    transform = torch.nn.functional.pad(transform, (0, 1))
    grid = torch.nn.functional.affine_grid(
        transform, [len(maps), 1, size, size], align_corners=False
    )
    lowest = maps.amin((1, 2), keepdim=True)
    spread = torch.nn.functional.grid_sample((maps - lowest)[:, None], grid, align_corners=False)
    return spread[:, 0] + lowest


def _side(shape: Sequence[int], share: float) -> int:
    return max(1, round(min(shape[0], shape[1]) * share))

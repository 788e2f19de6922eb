"""The centre crop of the papers' pre-processing, and maps put back where they were cropped."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from harness.interface import Image, Pixels


def centre(pixels: Pixels, share: float) -> Pixels:
    """The centre square of uint8 (H, W, 3): ``share`` of the shorter side, in whole pixels."""
    side = _side(pixels.shape, share)
    top, left = ((length - side) // 2 for length in pixels.shape[:2])
    return pixels[top : top + side, left : left + side]


def centres(images: Sequence[Image], share: float) -> list[Image]:
    """Centre squares as images of their own, decoded when they are asked for."""
    return [
        Image(f"{image.key}/centre {share:.6f}", lambda image=image: centre(image.pixels, share))
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

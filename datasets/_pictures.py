"""What listing needs to know of pixels: sizes and marked regions."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture
from PIL import UnidentifiedImageError


def opened(contents: bytes | Path) -> Picture.Image:
    """Open a picture by its header; pixels are decoded when first used.

    Raises
    ------
    ValueError
        If the file is not a picture.
    """
    try:
        return Picture.open(io.BytesIO(contents) if isinstance(contents, bytes) else contents)
    except UnidentifiedImageError:
        where = f"{len(contents)} bytes" if isinstance(contents, bytes) else str(contents)
        raise ValueError(f"{where}: expected a picture") from None


def size(path: Path) -> tuple[int, int]:
    """Width and height of a picture file, from its header."""
    with opened(path) as picture:
        return picture.size


def marked(contents: bytes | Path, threshold: int = 0) -> NDArray[np.bool_]:
    """Where a mask file is above the threshold, or 1 where it has one bit: bool (H, W).

    Palettes go by index; alpha does not count.
    """
    with opened(contents) as picture:
        values = np.asarray(picture)
        if picture.mode in ("LA", "PA", "RGBA"):
            values = values[..., :-1]
    region: NDArray[np.bool_] = (
        values if values.dtype == np.bool_ else np.asarray(values > threshold)
    )
    return region if region.ndim == 2 else np.asarray(region.any(axis=-1))

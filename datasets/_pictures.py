"""What listing needs to know of pixels: sizes, marked regions, thumbnails that look alike."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture
from PIL import UnidentifiedImageError

ALIKE = 0.995  # correlation of two thumbnails above which their images count as near duplicates
SIDE = 16  # pixels of a thumbnail's side
_ROWS, _COLUMNS = 1024, 4096  # thumbnails compared at a time; a block of 16 MB in float32


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


def marked(contents: bytes | Path) -> NDArray[np.bool_]:
    """Where a mask file is above 0: bool (H, W). Palettes by index; alpha does not count."""
    with opened(contents) as picture:
        values = np.asarray(picture)
        if picture.mode in ("LA", "PA", "RGBA"):
            values = values[..., :-1]
    return values > 0 if values.ndim == 2 else (values > 0).any(axis=-1)


def thumbnail(picture: Picture.Image | NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Grey 16 x 16 version of a picture or of pixels (H, W, 3): uint8 (256,)."""
    if isinstance(picture, np.ndarray):
        picture = Picture.fromarray(picture)
    elif picture.mode not in ("L", "RGB"):
        picture = picture.convert("RGBA").convert("RGB")
    small = picture.convert("L").resize((SIDE, SIDE), Picture.Resampling.BICUBIC)
    return np.asarray(small).reshape(-1)


def unit(thumbnails: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Rows (N, 256) shifted and scaled so that a product of two is their correlation.

    A thumbnail of one single grey correlates with nothing: its row is 0.
    """
    centred = thumbnails - thumbnails.mean(axis=1, keepdims=True, dtype=np.float64)
    norm = np.linalg.norm(centred, axis=1, keepdims=True)
    return np.divide(centred, norm, out=np.zeros_like(centred), where=norm > 0)


def has_alike(
    rows: NDArray[np.floating], others: NDArray[np.floating], threshold: float = ALIKE
) -> NDArray[np.bool_]:
    """Whether each of N unit rows is alike to any of M others: bool (N,)."""
    found = np.zeros(len(rows), dtype=np.bool_)
    for i in range(0, len(rows), _ROWS):
        for j in range(0, len(others), _COLUMNS):
            alike = rows[i : i + _ROWS] @ others[j : j + _COLUMNS].T > threshold
            found[i : i + _ROWS] |= alike.any(axis=1)
    return found


def clusters(rows: NDArray[np.floating], threshold: float = ALIKE) -> NDArray[np.intp]:
    """Number unit rows so that two share a number if a chain of alike pairs joins them.

    Numbers count up in the order of first members. Each row is compared once with those that no
    cluster has yet, a block at a time: memory stays bounded however many pairs there are.

    Returns
    -------
    intp ndarray of shape (N,)
    """
    numbers = np.full(len(rows), -1, dtype=np.intp)
    free = np.arange(len(rows))  # ascending; always those without a number
    count = 0
    while free.size:
        frontier, free = free[:1], free[1:]
        numbers[frontier] = count
        while frontier.size and free.size:
            head, frontier = frontier[:_ROWS], frontier[_ROWS:]
            joined = has_alike(rows[free], rows[head], threshold)
            numbers[free[joined]] = count
            frontier, free = np.concatenate([frontier, free[joined]]), free[~joined]
        count += 1
    return numbers

"""Pictures to arrays: decoding, RGB, resizing, mask binarisation, by one rule each.

The rules
---------
* Colour is 8-bit RGB. Grey is repeated, palettes are looked up, alpha is dropped (never composited:
  the colours a file stores under its alpha are kept). 16 bits become 8 by their high byte, which
  is also what Pillow does to 16-bit colour files. Files of one bit give 0 and 255.
* EXIF orientation is not applied: masks and tile boxes refer to the raster as stored, and the
  public code of this field ignores it, so turning some images would part them from their masks.
* A mask is what is above 0, or above a dataset's ``threshold``, decided before any resizing:
  palette files by index, colour files where any colour channel is; alpha never counts.
* Images are resized bicubic with antialiasing, masks nearest, score maps bilinear; pixel centres
  are at half-integers in all three.
"""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture
from PIL import UnidentifiedImageError

from harness.interface import Pixels

T = TypeVar("T", bound=np.generic)

#: what Pillow's readers are known to raise on a damaged file
_UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    IndexError,
    KeyError,
    OverflowError,
    RuntimeError,
    struct.error,
    zlib.error,
    Picture.DecompressionBombError,
)


def decode(contents: bytes | NDArray[Any]) -> Pixels:
    """Pixels of an encoded picture, or of an array a dataset hands over.

    Parameters
    ----------
    contents : bytes, or ndarray of shape (H, W) or (H, W, C), uint8, uint16 or bool
        C is 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGB, alpha). The first frame of an animation.

    Returns
    -------
    uint8 ndarray of shape (H, W, 3), C-contiguous, read-only

    Raises
    ------
    ValueError
        One line saying what is wrong; the caller knows the file's name.
    """
    array = contents if isinstance(contents, np.ndarray) else _raster(_load(contents))
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * np.uint8(255)
    elif array.dtype == np.uint16:
        array = (array >> 8).astype(np.uint8)
    elif array.dtype != np.uint8:
        raise ValueError(f"expected pixels of 8 or 16 bits, got an array of {array.dtype}")
    colour = _colour(array)
    if colour.shape[2] == 1:
        colour = np.repeat(colour, 3, axis=2)
    pixels = np.ascontiguousarray(colour).view()  # a view: the owner's array stays writable
    pixels.setflags(write=False)
    return pixels


def rgb(pixels: Any, what: str) -> Pixels:
    """What a plug-in's call made, uint8 (H, W, 3); ValueError, naming the call, when it is not."""
    array = np.asarray(pixels)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        message = f"{what} returned {array.dtype} of shape {array.shape}, expected uint8 (H, W, 3)"
        raise ValueError(message)
    return array


def decode_mask(contents: bytes | NDArray[Any], threshold: int = 0) -> NDArray[np.bool_]:
    """Where a mask marks a defect: above 0, in any colour channel, at the mask's own size.

    Parameters
    ----------
    contents : bytes, or ndarray of shape (H, W) or (H, W, C) of numbers or booleans
    threshold : what is above it counts instead; a mask of booleans marks what is True

    Returns
    -------
    bool ndarray of shape (H, W)

    Raises
    ------
    ValueError
        One line saying what is wrong; the caller knows the file's name.
    """
    values = mask_values(contents)
    return values if values.dtype == np.bool_ else values > threshold


def mask_values(contents: bytes | NDArray[Any]) -> NDArray[Any]:
    """Values of a mask (H, W): of colours the highest channel. Contents as of ``decode_mask``."""
    if isinstance(contents, np.ndarray):
        array = contents
    else:
        picture = _load(contents)  # a palette picture's samples are its indices
        array = np.asarray(picture) if picture.mode in ("P", "PA") else _raster(picture)
    values: NDArray[Any] = _colour(array).max(axis=2)
    return values


def resize(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """Pixels at ``size`` (height, width), read-only: bicubic, antialiased, aspect not kept."""
    if pixels.shape[:2] == tuple(size):
        return pixels
    height, width = size
    picture = Picture.fromarray(pixels).resize((width, height), Picture.Resampling.BICUBIC)
    resized = np.asarray(picture)
    resized.setflags(write=False)
    return resized


def resize_mask(mask: NDArray[T], size: tuple[int, int]) -> NDArray[T]:
    """A mask (h, w) at ``size`` (height, width): each pixel takes the nearest pixel's value."""
    rows, columns = (
        (2 * np.arange(new) + 1) * old // (2 * new)  # the pixel under the centre, in integers
        for new, old in zip(size, mask.shape, strict=True)
    )
    resized: NDArray[T] = mask[rows[:, None], columns]
    return resized


def resize_maps(maps: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Maps stretched to ``size``: bilinear, edges repeated, no antialiasing.

    Each output is a sum of two inputs along one axis, then the other, and not a matrix product: the
    same bits for any number of maps or threads, and a value that is not finite stays where it is.

    Parameters
    ----------
    maps : float32 ndarray of shape (N, h, w)
    size : (H, W)

    Returns
    -------
    float32 ndarray of shape (N, H, W)
    """
    maps = np.asarray(maps, dtype=np.float32)
    for axis, new in zip((1, 2), size, strict=True):
        if maps.shape[axis] != new:
            maps = _stretch(maps, new, axis)
    return maps


def crop(pixels: Pixels, box: tuple[int, int, int, int]) -> Pixels:
    """The part of an image inside ``box`` (left, upper, right, lower), contiguous, read-only.

    Raises
    ------
    ValueError
        When the box is empty or reaches outside.
    """
    left, upper, right, lower = box
    height, width = pixels.shape[:2]
    if not (0 <= left < right <= width and 0 <= upper < lower <= height):
        raise ValueError(f"box {box} (left, upper, right, lower) is not inside {width} x {height}")
    part = np.ascontiguousarray(pixels[upper:lower, left:right]).view()
    part.setflags(write=False)
    return part


def _load(contents: bytes) -> Picture.Image:
    """The first frame of an encoded picture, fully read."""
    if not contents:
        raise ValueError("the file is empty")
    try:
        picture = Picture.open(io.BytesIO(contents))
        picture.load()
    except UnidentifiedImageError as error:
        raise ValueError(f"not a picture in a known format ({len(contents)} bytes)") from error
    except _UNREADABLE as error:
        raise ValueError(f"the picture cannot be read: {' '.join(str(error).split())}") from error
    return picture


def _raster(picture: Picture.Image) -> NDArray[Any]:
    """Samples of a picture: bool, uint8 or uint16, (H, W) or (H, W, C), C as in ``decode``."""
    if picture.mode in ("1", "L", "LA", "RGB", "RGBA"):
        return np.asarray(picture)
    if picture.mode.startswith("I"):
        array = np.asarray(picture)
        if array.min() < 0 or array.max() > 65535:
            raise ValueError(f"expected at most 16 bits, got values {array.min()}..{array.max()}")
        return array.astype(np.uint16)
    if picture.mode == "F":
        raise ValueError("expected pixels of 8 or 16 bits, got floating point")
    alpha = picture.mode in ("PA", "La", "RGBa") or "transparency" in picture.info
    # By way of RGBA: the same colours as straight to RGB, without Pillow's warning.
    return np.asarray(picture.convert("RGBA" if alpha else "RGB"))


def _colour(array: NDArray[Any]) -> NDArray[Any]:
    """(H, W, 1 or 3) of an (H, W) or (H, W, C) array: alpha dropped."""
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or not 1 <= array.shape[2] <= 4 or 0 in array.shape:
        raise ValueError(f"expected an image of shape (H, W) or (H, W, 1..4), got {array.shape}")
    return array[:, :, : array.shape[2] - 1] if array.shape[2] in (2, 4) else array


def _stretch(maps: NDArray[np.float32], new: int, axis: int) -> NDArray[np.float32]:
    """Linear interpolation along one axis of (N, h, w)."""
    old = maps.shape[axis]
    place = np.clip((np.arange(new) + 0.5) * (old / new) - 0.5, 0, old - 1)
    low = np.floor(place).astype(np.intp)
    high = np.minimum(low + 1, old - 1)
    share = (place - low).astype(np.float32)
    share = share[:, None] if axis == 1 else share
    stretched: NDArray[np.float32] = np.take(maps, low, axis=axis)
    stretched *= 1 - share
    rest = np.take(maps, high, axis=axis)
    rest *= share
    stretched += rest
    return stretched

"""Trivial statistics of images, and how well each of them alone tells anomalous from normal.

A number can be right and mean nothing: where the anomalous pictures of a set are darker, or larger
files, a method that notices that scores well. These statistics show it. They score nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image as Picture
from PIL import UnidentifiedImageError

from harness.interface import Dataset, Pixels, Sample

VERSION = 1  # raised when a statistic becomes another: workers keep what they computed
#: of pixels: mean and standard deviation of grey, variance of its Laplacian, size, width / height
PIXELS = ("mean", "std", "laplacian", "pixels", "aspect")
#: of files, which no method sees: bytes, and the picture's format
FILES = ("file_size", "format")
Values = Mapping[str, float | str | None]


def of_pixels(pixels: Pixels) -> dict[str, float]:
    """``PIXELS`` of an image (H, W, 3): grey is 0..255 by the weights of ITU-R 601."""
    grey = np.asarray(Picture.fromarray(pixels).convert("L"), np.int32)
    # The four neighbours of each inner pixel minus four times itself: how sharp an image is.
    inner = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
    inner -= 4 * grey[1:-1, 1:-1]
    height, width = grey.shape
    return {
        "mean": float(grey.mean()),
        "std": float(grey.std()),
        "laplacian": float(inner.var()) if inner.size else 0.0,
        "pixels": float(height * width),
        "aspect": width / height,
    }


def of_file(dataset: Dataset, sample: Sample) -> dict[str, float | str | None]:
    """``FILES`` of an image, None for a tile of a larger picture and for what is no file."""
    path = dataset.file(sample.image)
    if sample.box is not None or path is None or not path.is_file():
        return dict.fromkeys(FILES)
    return {"file_size": float(path.stat().st_size), "format": _format(path)}


def _format(path: Path) -> str | None:
    """The format of a picture by its first bytes, whatever it is called."""
    try:
        with Picture.open(path) as picture:
            return str(picture.format)
    except (UnidentifiedImageError, OSError):
        return None


def table(values: Iterable[Values]) -> dict[str, list[Any]]:
    """Values of N images by statistic."""
    rows = list(values)
    return {name: [row.get(name) for row in rows] for name in (*PIXELS, *FILES)}


def aurocs(labels: ArrayLike, columns: Mapping[str, Sequence[Any]]) -> dict[str, float]:
    """AUROC of each statistic alone, in the direction that suits it: 0.5..1, NaN where undefined.

    Parameters
    ----------
    labels : (N,) 0 normal, 1 anomalous
    columns : statistic -> N values
        Of words, such as formats, the one counts whose presence alone tells most. A statistic that
        an image lacks is undefined.
    """
    anomalous = np.asarray(labels) == 1
    by_name: dict[str, float] = {}
    for name, values in columns.items():
        if any(value is None for value in values) or anomalous.all() or not anomalous.any():
            by_name[name] = math.nan
        elif isinstance(values[0], str):
            words = np.asarray(values)
            by_name[name] = max(_auroc(anomalous, words == word) for word in np.unique(words))
        else:
            by_name[name] = _auroc(anomalous, np.asarray(values, np.float64))
    return by_name


def strongest(labels: ArrayLike, columns: Mapping[str, Sequence[Any]]) -> tuple[str, float | None]:
    """Name and AUROC of the statistic that tells most; "" and None where none is defined."""
    defined = {name: value for name, value in aurocs(labels, columns).items() if value == value}
    if not defined:
        return "", None
    best = max(defined, key=lambda name: defined[name])
    return best, defined[best]


def _auroc(anomalous: NDArray[np.bool_], values: NDArray[Any]) -> float:
    """Of Mann and Whitney's U, ties counted half; the better of both directions.

    By numpy alone: each worker evaluates, and scipy.stats takes a second to import.
    """
    normal, positive = np.sort(values[~anomalous]), values[anomalous]
    below = int(np.searchsorted(normal, positive, "left").sum())
    reach = int(np.searchsorted(normal, positive, "right").sum())
    share = (below + reach) / (2 * normal.size * positive.size)
    return max(share, 1 - share)

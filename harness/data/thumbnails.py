"""Small grey versions of images, and which of them look alike: near duplicates."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture

ALIKE = 0.995  # correlation of two thumbnails above which their images count as near duplicates
SIDE = 16  # pixels of a thumbnail's side
_ROWS, _COLUMNS = 1024, 4096  # thumbnails compared at a time: 16 MB of float32


def thumbnail(picture: Picture.Image | NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Grey 16 x 16 version of a picture or of pixels (H, W, 3): uint8 (256,)."""
    if isinstance(picture, np.ndarray):
        picture = Picture.fromarray(picture)
    elif picture.mode.startswith("I"):  # 16 bits, which Pillow would cut off at 255
        picture = Picture.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    elif picture.mode not in ("L", "RGB"):
        picture = picture.convert("RGBA").convert("RGB")
    # Large pictures are first averaged over whole blocks, down to three times the side.
    size = (SIDE, SIDE)
    small = picture.convert("L").resize(size, Picture.Resampling.BICUBIC, reducing_gap=3.0)
    return np.asarray(small).reshape(-1)


def unit(thumbnails: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Rows (N, 256) shifted and scaled so that a product of two is their correlation.

    A thumbnail of one single grey correlates with nothing: its row is 0.
    """
    centred = thumbnails - thumbnails.mean(axis=1, keepdims=True, dtype=np.float64)
    norm = np.linalg.norm(centred, axis=1, keepdims=True)
    rows: NDArray[np.float64] = np.divide(centred, norm, out=np.zeros_like(centred), where=norm > 0)
    return rows


def alike(
    rows: NDArray[np.floating], others: NDArray[np.floating] | None = None
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Pairs of unit rows whose correlation is above 0.995, a block of the matrix product at a time.

    Parameters
    ----------
    rows : ndarray of shape (N, 256)
    others : ndarray of shape (M, 256), optional
        Without it, rows are compared with one another, each pair once (first index below second).

    Yields
    ------
    Two equally long intp arrays: indices into ``rows`` and into ``others``.
    """
    against = rows if others is None else others
    for top in range(0, len(rows), _ROWS):
        start = top // _COLUMNS * _COLUMNS if others is None else 0
        for left in range(start, len(against), _COLUMNS):
            product = rows[top : top + _ROWS] @ against[left : left + _COLUMNS].T
            first, second = np.nonzero(product > ALIKE)
            first, second = first + top, second + left
            if others is None:
                once = first < second
                first, second = first[once], second[once]
            if first.size:
                yield first, second


def joined(
    labels: NDArray[np.intp], first: NDArray[np.intp], second: NDArray[np.intp]
) -> NDArray[np.intp]:
    """Join the clusters of every pair: the labels (N,) after, each a number below N."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    ends = labels[first], labels[second]
    apart = ends[0] != ends[1]
    if not apart.any():
        return labels
    edges = (np.ones(int(apart.sum()), np.int8), (ends[0][apart], ends[1][apart]))
    graph = coo_array(edges, shape=(len(labels), len(labels)))
    clusters: NDArray[np.intp] = connected_components(graph, directed=False)[1].astype(np.intp)
    return clusters[labels]

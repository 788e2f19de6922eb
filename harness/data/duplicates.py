"""Images that a dataset holds more than once, to the byte or nearly, and where that leaks."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.data import thumbnails
from harness.data.images import crop, decode
from harness.errors import DataError, one_line
from harness.interface import Dataset, Sample

Rows = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class Seen:
    """What a look at an image leaves."""

    contents: str  # sha256 of its source's contents
    identity: str  # equal for equal images: of the contents, or of a tile's pixels
    size: tuple[int, int]  # width, height of the image or tile, pixels
    thumbnail: NDArray[np.uint8]  # (256,) grey


def look(dataset: Dataset, samples: Sequence[Sample]) -> dict[str, Seen]:
    """Open and decode every source once, in as many threads as there are cores.

    Returns
    -------
    What was seen, by the name of the sample.

    Raises
    ------
    DataError
        A source is missing or damaged; the message names it.
    """
    by_source: dict[str, dict[str, Sample]] = defaultdict(dict)
    for sample in samples:
        by_source[sample.image][sample.name] = sample

    def see(item: tuple[str, dict[str, Sample]]) -> list[tuple[str, Seen]]:
        source, tiles = item
        found = []
        with naming(dataset, source):
            contents = dataset.open(source)
            pixels = decode(contents)
            hashed = digest(contents)
            for name, sample in tiles.items():
                part = pixels if sample.box is None else crop(pixels, sample.box)
                identity = hashed if sample.box is None else digest(part)
                size = (part.shape[1], part.shape[0])
                found.append((name, Seen(hashed, identity, size, thumbnails.thumbnail(part))))
        return found

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return {name: seen for found in pool.map(see, by_source.items()) for name, seen in found}


@contextmanager
def naming(dataset: Dataset, source: str) -> Iterator[None]:
    """Inside, an error about a source becomes a DataError that names it."""
    try:
        yield
    except (OSError, ValueError) as error:
        where = f"{source} in {dataset.root}" if dataset.root else source
        raise DataError(f"{where}: {one_line(error)}") from error


def digest(contents: bytes | NDArray[Any]) -> str:
    """sha256 of encoded contents, or of an array's type, shape and values."""
    hashed = hashlib.sha256()
    if isinstance(contents, np.ndarray):
        hashed.update(f"{contents.dtype.str} {contents.shape}\n".encode())
        contents = np.ascontiguousarray(contents).tobytes()
    hashed.update(contents)
    return hashed.hexdigest()


def units(images: Sequence[NDArray[np.uint8]]) -> Rows:
    """Thumbnails as rows (N, 256) in float32 whose products are correlations."""
    if not images:
        return np.zeros((0, thumbnails.SIDE**2), np.float32)
    rows: Rows = thumbnails.unit(np.stack(images)).astype(np.float32)
    return rows


def test_duplicates(dataset: Dataset, category: str, near: bool) -> set[str]:
    """Names of train images that duplicate a test image and must not be drawn as support.

    Parameters
    ----------
    dataset : Dataset
    category : str
    near : bool
        Also those that look like one: 16 x 16 grey thumbnails correlated above 0.995. Every image
        of the category is decoded. Without it only files whose stamp occurs on both sides are
        read, which costs next to nothing where files are unique.
    """
    train, test = dataset.train(category), dataset.test(category)
    identity = _identities(dataset, [*train, *test])
    tested = {identity(sample) for sample in test} - {None}
    names = {sample.name for sample in test}
    found = {s.name for s in train if s.name in names or identity(s) in tested}
    if near:
        seen = look(dataset, [*train, *test])
        sides = [units([seen[sample.name].thumbnail for sample in part]) for part in (train, test)]
        for first, _ in thumbnails.alike(*sides):
            found |= {train[index].name for index in set(first.tolist())}
    return found


def train_duplicates(dataset: Dataset, category: str, near: bool) -> dict[str, str]:
    """Name of each train image that is there more than once -> name of the first of its equals.

    Parameters are those of ``test_duplicates``; near duplicates are joined in chains.
    """
    train = dataset.train(category)
    identity = _identities(dataset, train)
    labels = np.arange(len(train))
    firsts: dict[object, int] = {}
    for index, sample in enumerate(train):
        what = identity(sample)
        labels[index] = index if what is None else firsts.setdefault(what, index)
    if near:
        seen = look(dataset, train)
        for first, second in thumbnails.alike(units([seen[s.name].thumbnail for s in train])):
            labels = thumbnails.joined(labels, first, second)
    _, start, where, count = np.unique(
        labels, return_index=True, return_inverse=True, return_counts=True
    )
    return {
        sample.name: train[start[cluster]].name
        for sample, cluster in zip(train, where, strict=True)
        if count[cluster] > 1
    }


def _identities(
    dataset: Dataset, samples: Sequence[Sample]
) -> Callable[[Sample], tuple[str, object] | None]:
    """What equal samples share, None for one that has no equal.

    Sources are only read when another one has the same stamp.
    """
    stamps = {sample.image: "" for sample in samples}
    counts: dict[str, int] = defaultdict(int)
    for source in stamps:
        with naming(dataset, source):
            stamps[source] = dataset.stamp(source)
        counts[stamps[source]] += 1
    hashed: dict[str, str] = {}

    def identity(sample: Sample) -> tuple[str, object] | None:
        source = sample.image
        if counts[stamps[source]] < 2:
            return None
        if source not in hashed:
            with naming(dataset, source):
                hashed[source] = digest(dataset.open(source))
        return hashed[source], sample.box

    return identity

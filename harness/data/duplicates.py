"""Images that a dataset holds more than once, to the byte or nearly, and where that leaks."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.data import shortcuts, thumbnails
from harness.data.contents import Stamps, naming
from harness.data.images import crop, decode
from harness.interface import Dataset, Sample, content_hash
from harness.keys import hashed

Rows = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class Seen:
    """What a look at an image leaves."""

    contents: str  # sha256 of its source's contents
    identity: str  # equal for equal images: of the contents, or of a tile's pixels
    size: tuple[int, int]  # width, height of the image or tile, pixels
    thumbnail: NDArray[np.uint8]  # (256,) grey
    statistics: shortcuts.Values  # trivial ones


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
        pictures = []
        with naming(dataset, source):
            contents = dataset.open(source)
            pixels = decode(contents)
            hashed = digest(contents)
            for name, sample in tiles.items():
                part = pixels if sample.box is None else crop(pixels, sample.box)
                identity = hashed if sample.box is None else digest(part)
                size = (part.shape[1], part.shape[0])
                trivial = shortcuts.of_pixels(part) | shortcuts.of_file(dataset, sample)
                small = thumbnails.thumbnail(part)
                pictures.append((name, Seen(hashed, identity, size, small, trivial)))
        return pictures

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return {
            name: seen for pictures in pool.map(see, by_source.items()) for name, seen in pictures
        }


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


def twins_in_test(
    dataset: Dataset, category: str, near: bool, stamps: Stamps | None = None
) -> set[str]:
    """Names of train images that duplicate a test image and must not be drawn as support.

    Parameters
    ----------
    dataset : Dataset
    category : str
    near : bool
        Also those that look like one: 16 x 16 grey thumbnails correlated above 0.995. Every image
        of the category is decoded. Without it images are compared by their contents, tiles by their
        pixels.
    stamps : those of the dataset, where they are known
    """
    train, test = dataset.train(category), dataset.test(category)
    identity = identities(stamps or Stamps(dataset), [*train, *test])
    tested = {identity[sample.name] for sample in test}
    twins = {sample.name for sample in train if identity[sample.name] in tested}
    if near:
        seen = look(dataset, [*train, *test])
        sides = [units([seen[sample.name].thumbnail for sample in part]) for part in (train, test)]
        for first, _ in thumbnails.alike(*sides):
            twins |= {train[index].name for index in set(first.tolist())}
    return twins


def twins_in_train(
    dataset: Dataset, category: str, near: bool, stamps: Stamps | None = None
) -> dict[str, str]:
    """Name of each train image that is there more than once -> name of the first of its equals.

    Parameters are those of ``twins_in_test``; near duplicates are joined in chains.
    """
    train = dataset.train(category)
    identity = identities(stamps or Stamps(dataset), train)
    firsts: dict[str, int] = {}
    labels = np.array(
        [firsts.setdefault(identity[s.name], index) for index, s in enumerate(train)], np.intp
    )
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


def identities(stamps: Stamps, samples: Sequence[Sample]) -> dict[str, str]:
    """What equal images share and others do not, by name: a hash of contents, of a tile's pixels.

    Raises
    ------
    DataError
        A source is missing or damaged.
    """
    dataset = stamps.dataset
    stamps.learn(sample.image for sample in samples)
    tiles: dict[str, dict[str, Sample]] = defaultdict(dict)
    for sample in samples:
        if sample.box is not None:
            tiles[sample.image][sample.name] = sample
    boxes = {source: [sample.box for sample in some.values()] for source, some in tiles.items()}

    def pixels(name: str) -> list[str]:
        source = sources[name]
        with naming(dataset, source):
            whole = decode(dataset.open(source))
            return [content_hash(crop(whole, box)) for box in boxes[source] if box is not None]

    # All tiles of a source at once: it is decoded once, and not at all when it was before.
    sources = {f"{source}@{hashed(boxes[source])}": source for source in tiles}
    listed = stamps.facts("tiles 1 ", sources, pixels)
    hashes = {sample.name: stamps[sample.image] for sample in samples if sample.box is None}
    for name, source in sources.items():
        hashes |= dict(zip(tiles[source], listed[name], strict=True))
    return hashes

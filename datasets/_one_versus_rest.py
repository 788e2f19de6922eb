"""Classification sets as anomaly detection: one class is normal, all others are anomalous."""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datasets._listed import Listed, Partition, child, folders, images
from harness.interface import Sample

Labelled = list[tuple[str, str]]  # (source, class), in the canonical order


class OneVersusRest(Listed):
    """Supports are the class's train images; the whole official test set is tested, for each class.

    Pictures lie in folders by class, or many in one file. Those have sources such as
    ``train-images-idx3-ubyte#7``: the file, and the index within. A file is read once and held
    for all classes and threads, read-only.
    """

    def __init__(self, root: str | Path) -> None:
        super().__init__(root)
        self._known: dict[str, Labelled] = {}
        self._stacks: dict[str, NDArray[np.uint8]] = {}
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_known": {}, "_stacks": {}, "_partitions": {}, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=threading.Lock())

    @abstractmethod
    def _labelled(self, part: str) -> Labelled:
        """Sources and classes of "train" or "test"."""

    @abstractmethod
    def _stack(self, file: str) -> NDArray[np.uint8]:
        """Read the pictures of a file: (N, H, W) or (N, H, W, 3)."""

    def _sources(self, part: str) -> Labelled:
        if part not in self._known:
            self._known[part] = self._labelled(part)
        return self._known[part]

    def categories(self) -> list[str]:
        """Classes that have train images."""
        present = {name for _, name in self._sources("train")}
        return sorted(present & set(self.counts))

    def _partition(self, category: str) -> Partition:
        train = [Sample(source) for source, name in self._sources("train") if name == category]
        test = [
            Sample(source) if name == category else Sample(source, 1, None, name)
            for source, name in self._sources("test")
        ]
        return train, test

    def file(self, source: str) -> Path | None:
        """A picture's own file; none where it is one of many in a file."""
        return None if "#" in source else super().file(source)

    def open(self, source: str) -> bytes | NDArray[np.uint8]:
        """Contents of a picture file, or the pixels at an index of a file of many."""
        file, _, index = source.rpartition("#")
        return self._held(file)[int(index)] if file else super().open(source)

    def _held(self, file: str) -> NDArray[np.uint8]:
        with self._lock:
            if file not in self._stacks:
                stack = self._stack(file)
                stack.setflags(write=False)
                self._stacks[file] = stack
            return self._stacks[file]


def by_class(base: Path, part: Path) -> Labelled:
    """Pictures of ``part/<class>``: classes and files by their bytes."""
    return [
        (f"{part.relative_to(base).as_posix()}/{name}/{file}", name)
        for name in folders(part)
        for file in images(part / name)
    ]


def parted(folder: Path, classes: Mapping[str, object], *names: str) -> Path | None:
    """The subfolder by one of these names that has folders of classes."""
    part = child(folder, *names)
    return part if part and set(folders(part)) & set(classes) else None

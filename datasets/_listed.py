"""What the adapters share: finding a tree, listing it once, in one order, and splitting normals."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, ClassVar, TypeVar

import numpy as np
from pydantic import Field

from harness.interface import Dataset, Sample

T = TypeVar("T")
Level = Annotated[int, Field(ge=0, le=65535, strict=True)]  # of a mask's values
Partition = tuple[list[Sample], list[Sample]]  # train normals, test
_LEFT_BEHIND = (".", "__")  # what operating systems and archivers leave in folders begins so
SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})


class Listed(Dataset):
    """A dataset under a root folder, listed category by category on first use.

    Parameters
    ----------
    root : str or Path
        The unpacked dataset, or a folder at most two levels above it.
    """

    objects: ClassVar[
        Mapping[str, str]
    ] = {}  # category -> words, where the name itself will not do
    levels: ClassVar[int] = 2  # how far below the root the tree may begin
    layout: str = ""  # what the tree looks like, for errors

    def __init__(self, root: str | Path) -> None:
        self.root: Path = Path(root)
        self._base: Path | None = None
        self._partitions: dict[str, Partition] = {}

    @abstractmethod
    def _recognises(self, folder: Path) -> bool:
        """Whether this folder is where the dataset's tree begins."""

    @abstractmethod
    def _partition(self, category: str) -> Partition:
        """Train normals and test images of a category, in the canonical order."""

    def categories(self) -> list[str]:
        """Names in ``counts``, once the tree was found."""
        return sorted(self.counts) if self.base else []

    def remarks(self, category: str) -> list[str]:
        """What to know about this copy of a category: how many files were left out, by reason."""
        sources = {s.image for part in self._listed(category) for s in part}
        sources |= {s.mask for s in self._listed(category)[1] if s.mask is not None}
        files = (source for source in sources if self.file(source) is not None)
        places = {Path(source).parent.as_posix() for source in files}
        return skipped(self.base, places)

    @property
    def base(self) -> Path:
        """Where the tree begins: ``root`` or a folder at most ``levels`` below it.

        Raises
        ------
        FileNotFoundError
            If there is no such folder.
        ValueError
            If what is there is not the dataset.
        """
        if self._base is None:
            self._base = self._locate()
        return self._base

    def _locate(self) -> Path:
        name = type(self).__name__
        if not self.root.is_dir():
            raise FileNotFoundError(f"{name}: no folder {self.root}; expected {self.layout}")
        for folder in _descend(self.root, self.levels):
            if self._recognises(folder):
                return folder
        raise ValueError(f"{name}: {self.root} is not the dataset; expected {self.layout}")

    def _listed(self, category: str) -> Partition:
        if category not in self._partitions:
            known = self.categories()
            if category not in known:
                raise ValueError(
                    f"{type(self).__name__}: no category {category!r} in {self.root}; "
                    f"there are {', '.join(known)}"
                )
            self._partitions[category] = self._partition(category)
        return self._partitions[category]

    def train(self, category: str) -> list[Sample]:
        """Train normals, in the canonical order: folders and files by their bytes, then tiles."""
        return list(self._listed(category)[0])

    def test(self, category: str) -> list[Sample]:
        """Test images, in the canonical order."""
        return list(self._listed(category)[1])

    def object_name(self, category: str) -> str:
        """Words for prompts: those of ``objects``, or the category's name."""
        return self.objects.get(category, super().object_name(category))

    def file(self, source: str) -> Path | None:
        """The file of a source, which is relative to ``base``."""
        return self.base / source


def _descend(folder: Path, levels: int) -> Iterator[Path]:
    """The folder, its subfolders, theirs: nearest first."""
    level = [folder]
    for _ in range(levels):
        yield from level
        level = [parent / name for parent in level for name in folders(parent)]
    yield from level


class Masked(Listed):
    """A listed dataset with masks.

    Parameters
    ----------
    root : str or Path
        See ``Listed``.
    threshold : int
        A mask marks what is above it, 0 to 65535: 127 for masks that were saved as JPEG or with
        soft edges.
    """

    def __init__(self, root: str | Path, threshold: Level = 0) -> None:
        super().__init__(root)
        self.threshold = threshold


def _sorted(folder: Path, chosen: Callable[[os.DirEntry[str]], bool]) -> list[str]:
    """Names in a folder, by their bytes, without what operating systems leave behind.

    Raises
    ------
    ValueError
        A name is not UTF-8: no table or key could hold it.
    """
    with os.scandir(folder) as entries:
        names = [e.name for e in entries if not e.name.startswith(_LEFT_BEHIND) and chosen(e)]
    names.sort(key=os.fsencode)
    for name in names:
        if not _utf8(name):
            shown = os.fsencode(Path(folder, name)).decode("utf-8", "backslashreplace")
            raise ValueError(f"{shown}: expected a name in UTF-8; rename it")
    return names


def _utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # bytes that the file system's encoding could not read
        return False
    return True


def skipped(base: Path, places: Iterable[str]) -> list[str]:
    """What lies in folders besides pictures, as one line; nothing where there is nothing else.

    Parameters
    ----------
    base : Path
    places : folders below it that were listed
    """
    places = set(places)
    around = {str(parent) for place in places for parent in (Path(place), *Path(place).parents)}
    counts: Counter[str] = Counter()
    examples: dict[str, str] = {}
    for place in sorted(places):
        with os.scandir(base / place) as entries:
            for entry in sorted(entries, key=lambda e: os.fsencode(e.name)):
                name = (Path(place) / entry.name).as_posix()
                reason = _reason(entry)
                if reason and name not in around:
                    counts[reason] += 1
                    shown = os.fsencode(name).decode("utf-8", "backslashreplace")
                    examples.setdefault(reason, shown)
    if not counts:
        return []
    counted = [
        f"{count:,} {reason} ({examples[reason]})" for reason, count in sorted(counts.items())
    ]
    return [f"not read: {', '.join(counted)}"]


def _reason(entry: os.DirEntry[str]) -> str:
    """Why an entry of a folder is no picture to list, "" where it is one."""
    if entry.name.startswith(_LEFT_BEHIND):
        return "named with a dot or __ in front"
    if entry.is_dir():
        return "sub-folders"
    if entry.is_symlink() and not os.path.exists(entry.path):
        return "broken links"
    if Path(entry.name).suffix.lower() not in SUFFIXES:
        return "with another extension"
    return "" if entry.is_file() else "no files"


def folders(folder: Path) -> list[str]:
    """Names of the subfolders, sorted by their bytes."""
    return _sorted(folder, lambda entry: entry.is_dir())


def images(folder: Path) -> list[str]:
    """Names of the picture files in a folder, sorted by their bytes; extensions in any case.

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}; expected pictures in it")
    return _sorted(folder, lambda e: Path(e.name).suffix.lower() in SUFFIXES and e.is_file())


def child(folder: Path, *names: str) -> Path | None:
    """The first subfolder that goes by one of these names, whatever its case and outer blanks."""
    if folder.is_dir():
        present = {name.strip().casefold(): name for name in reversed(folders(folder))}
        for name in names:
            if name.casefold() in present:
                return folder / present[name.casefold()]
    return None


def three_quarters(items: Sequence[T]) -> tuple[list[T], list[T]]:
    """Split normals 75/25 as DRA and InCTRL do, each part in the order of ``items``.

    It equals scikit-learn's ``train_test_split(items, test_size=0.25, random_state=42)``: a
    quarter, rounded up, is the head of a permutation by numpy's legacy generator.
    """
    quarter = -(-len(items) // 4)
    chosen = set(np.random.RandomState(42).permutation(len(items))[:quarter].tolist())
    train = [item for index, item in enumerate(items) if index not in chosen]
    test = [item for index, item in enumerate(items) if index in chosen]
    return train, test


def pictured(
    base: Path,
    part: tuple[str, ...],
    kind: tuple[str, ...],
    leaf: tuple[str, ...] = ("img", "image", "images"),
) -> Path | None:
    """Folder of the pictures of a part and kind, in any of the arrangements BMAD circulates in.

    ``<part>/<kind>/<leaf>``, ``<part>/<leaf>/<kind>``, or, for images, ``<part>/<kind>`` itself.
    """
    where = child(base, *part)
    if where is None:
        return None
    folder = child(where, *kind)
    inner = child(folder, *leaf) if folder else None
    outer = child(where, *leaf)
    swapped = child(outer, *kind) if outer else None
    return inner or swapped or (folder if folder and "img" in leaf else None)

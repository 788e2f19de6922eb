"""Stamps: what files hold, and that no file is taken for unchanged that is not."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from harness.data import contents
from harness.data.contents import Stamps
from harness.errors import DataError
from harness.interface import Dataset, Sample


class Files(Dataset):
    """Sources are files; which samples there are does not matter here."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def categories(self) -> list[str]:
        return ["all"]

    def train(self, category: str) -> list[Sample]:
        return []

    test = train


class Drawn(Files):
    """Sources are no files."""

    def open(self, source: str) -> NDArray[np.uint8]:
        return np.full((2, 3), int(source), np.uint8)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """The names of the files that were read to stamp these sources."""
    names: list[str] = []
    original = contents._read

    def spied(path: str) -> tuple[str, str]:
        names.append(os.path.basename(path))
        return original(path)

    monkeypatch.setattr(contents, "_read", spied)

    def go(root: Path, *sources: str) -> list[str]:
        names.clear()
        Stamps(Files(root)).learn(sources)
        return sorted(names)

    return go


def settled(path: Path, text: str) -> Path:
    """A file that was written long enough ago to be remembered."""
    path.write_text(text)
    time.sleep(contents.FRESH + 0.05)
    return path


def test_a_stamp_is_a_hash_of_what_a_file_holds(tmp_path: Path) -> None:
    for name, text in (("a", "one"), ("b", "two"), ("c", "one")):
        (tmp_path / name).write_text(text)
    stamps = Stamps(Files(tmp_path))
    assert stamps["a"] == hashlib.blake2b(b"one", digest_size=16).hexdigest()
    assert stamps["a"] == stamps["c"] == Files(tmp_path).stamp("a")
    assert stamps["a"] != stamps["b"]  # of equal size


def test_arrays_are_stamped_with_their_shape(tmp_path: Path) -> None:
    stamps = Stamps(Drawn(tmp_path))
    assert stamps["1"] == Drawn(tmp_path).stamp("1") != stamps["2"]
    flat = np.full(6, 1, np.uint8)
    assert contents.content_hash(flat) != contents.content_hash(flat.reshape(2, 3))


def test_a_file_that_did_not_change_is_not_read_again(
    tmp_path: Path, read: Callable[..., list[str]]
) -> None:
    (tmp_path / "a").write_text("one")
    settled(tmp_path / "b", "two")
    assert read(tmp_path, "a", "b") == ["a", "b"]
    assert read(tmp_path, "a", "b") == []
    settled(tmp_path / "c", "three")
    assert read(tmp_path, "a", "b", "c") == ["c"]


@pytest.mark.parametrize("how", ["in place", "replaced", "moved here"])
def test_a_change_is_seen_though_size_and_time_stay(
    tmp_path: Path, read: Callable[..., list[str]], how: str
) -> None:
    path = settled(tmp_path / "a", "one")
    before = path.stat()
    first = Stamps(Files(tmp_path))["a"]
    if how == "in place":
        path.write_text("two")
    elif how == "replaced":
        path.unlink()
        path.write_text("two")
    else:
        (tmp_path / "new").write_text("two")
        os.utime(tmp_path / "new", ns=(before.st_atime_ns, before.st_mtime_ns))
        (tmp_path / "new").rename(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert Stamps(Files(tmp_path))["a"] != first
    assert read(tmp_path, "a") == ["a"]


def test_a_file_that_has_just_changed_is_not_relied_on(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("one")
    state, _ = contents._read(str(path))
    assert state == ""  # the next change may come within the same tick of the clock
    time.sleep(contents.FRESH + 0.05)
    state, _ = contents._read(str(path))
    assert state != ""


@pytest.mark.parametrize("what", ["damaged", "a folder", "no folder"])
def test_without_a_memory_files_are_read(tmp_path: Path, cache: Path, what: str) -> None:
    (tmp_path / "a").write_text("one")
    if what == "no folder":
        cache.write_text("in its place")
    else:
        cache.mkdir()
        place = cache / "contents.sqlite"
        place.mkdir() if what == "a folder" else place.write_bytes(b"no database" * 100)
    for _ in range(2):
        assert Stamps(Files(tmp_path))["a"] == contents.content_hash(b"one")


def test_a_missing_source_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone.png in .*No such file"):
        Stamps(Files(tmp_path)).learn(["gone.png"])


def test_facts_are_of_contents_and_made_once(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("one")
    (tmp_path / "b").write_text("three")
    asked: list[str] = []

    def length(name: str) -> Any:
        asked.append(name)
        return len((tmp_path / name.partition("@")[0]).read_text())

    items = {"a": "a", "b": "b", "a@2": "a"}
    assert Stamps(Files(tmp_path)).facts("length", items, length) == {"a": 3, "b": 5, "a@2": 3}
    assert Stamps(Files(tmp_path)).facts("length", items, length) == {"a": 3, "b": 5, "a@2": 3}
    assert sorted(asked) == ["a", "a@2", "b"]
    (tmp_path / "a").write_text("four")
    assert Stamps(Files(tmp_path)).facts("length", {"a": "a"}, length) == {"a": 4}
    (tmp_path / "c").write_text("three")  # the same contents elsewhere
    assert Stamps(Files(tmp_path)).facts("length", {"c": "c"}, lambda name: 0) == {"c": 5}

"""What a store says of its folders: names, sizes, kinds, and what was left half-written."""

from __future__ import annotations

import os
import time
import uuid
from pathlib import Path

import pytest

from harness.storage.store import STALE, Store

KEY = "ab" * 16


def test_half_written_files_are_removed_when_they_are_old(tmp_path: Path) -> None:
    names = [".a.1.tmp", "x/y/.b.2.tmp", "x/.fresh.3.tmp", "x/.kept", "x/kept.tmp", "other/.c.tmp"]
    for name in names:
        path = tmp_path / "toy" / name if "other" not in name else tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        age = 0.5 * STALE if "fresh" in name else 2 * STALE
        os.utime(path, (time.time() - age,) * 2)
    (tmp_path / "toy" / "loop").symlink_to(tmp_path / "other")
    store = Store(str(tmp_path))
    assert store.tidy("toy") == 2
    left = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()}
    assert left == {"toy/x/.fresh.3.tmp", "toy/x/.kept", "toy/x/kept.tmp", "other/.c.tmp"}
    assert store.tidy("toy") == store.tidy("nowhere") == 0


def test_a_folder_that_goes_away_meanwhile_hides_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / "toy" / name).mkdir(parents=True)
        (tmp_path / "toy" / name / ".x.tmp").touch()
        os.utime(tmp_path / "toy" / name / ".x.tmp", (time.time() - 2 * STALE,) * 2)
    scan, asked = os.scandir, []

    def some(folder: str) -> object:
        asked.append(folder)
        if len(asked) == 2:  # the first of the three, in whatever order they come
            raise FileNotFoundError(folder)
        return scan(folder)

    monkeypatch.setattr(os, "scandir", some)
    assert Store(str(tmp_path)).tidy("toy") == 2


@pytest.mark.parametrize("far", [False, True])
def test_sizes_are_of_all_files_below_a_folder(far: bool, tmp_path: Path) -> None:
    store = Store(f"memory://{uuid.uuid4().hex}/runs" if far else str(tmp_path))
    store.write("toy/a.csv", b"123")
    store.write("toy/in/b.csv", b"")
    store.write("toy2/c.csv", b"1")
    assert store.sizes("toy") == {"a.csv": 3, "in/b.csv": 0}
    assert store.sizes("nowhere") == {}


def test_a_far_folder_is_listed_anew_each_time() -> None:
    """What others wrote meanwhile is seen: no listing is remembered."""
    assert not Store("s3://bucket/runs")._fs.dircache.use_listings_cache


def test_kinds_are_folders_of_artifacts(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    assert store.kinds() == []
    for kind in ("train", "evaluate"):
        store.put(kind, KEY, {})
    store.write(".artifacts/note", b"no folder")
    assert store.kinds() == ["evaluate", "train"]

"""Copies of far artifacts: fetched once per machine, bounded, and never trusted over the store."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from harness.storage.node_cache import NodeCache

NAME = ".artifacts/customize/ab/abc.safetensors"

#: Reads a name through the cache, at the same time as others; says so when it has to fetch it.
READER = """
import sys, tempfile, time
from pathlib import Path
from harness.storage.node_cache import NodeCache
tempfile.tempdir = sys.argv[1]
print("ready", flush=True)
sys.stdin.readline()
def fetch():
    with open(sys.argv[2], "a") as log:
        log.write("fetched\\n")
    time.sleep(0.3)
    return b"contents"
assert NodeCache("s3://x").read(sys.argv[3], fetch) == b"contents"
"""


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def never() -> bytes:
    raise AssertionError("fetched")


def test_processes_of_a_machine_fetch_a_thing_once(temporary: Path) -> None:
    log = temporary / "log.txt"
    readers = [
        subprocess.Popen(
            [sys.executable, "-c", READER, str(temporary), str(log), NAME],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for reader in readers:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "ready\n"
    for reader in readers:
        reader.communicate("go\n", timeout=300)
    assert [reader.returncode for reader in readers] == [0, 0, 0]
    assert log.read_text() == "fetched\n"


def test_what_was_written_here_is_not_fetched_and_what_was_dropped_is(temporary: Path) -> None:
    cache = NodeCache("s3://x")
    cache.put(NAME, b"a")
    assert cache.read(NAME, never) == b"a"
    assert NodeCache("s3://y").read(NAME, lambda: b"other") == b"other", "another store's"
    assert cache.drop(NAME)
    assert not cache.drop(NAME)
    assert cache.read(NAME, lambda: b"b") == b"b"
    assert not list(temporary.rglob("*.tmp"))


def test_the_longest_unread_goes_first(temporary: Path) -> None:
    cache = NodeCache("s3://x", limit=100)
    for i, name in enumerate("abc"):
        cache.put(f"{name}.safetensors", bytes(30))
        (path,) = temporary.rglob(f"{name}.safetensors")
        os.utime(path, (time.time() - 100 + i,) * 2)
    cache.read("a.safetensors", never)
    cache.put("d.safetensors", bytes(30))
    assert {p.stem for p in temporary.rglob("*.safetensors")} == {"a", "c", "d"}
    cache.put("e.safetensors", bytes(101))
    assert not list(temporary.rglob("e.safetensors")), "larger than all that may be kept"


def test_where_no_copy_can_be_kept_things_are_fetched_each_time(temporary: Path) -> None:
    (temporary / f"harness-{os.getuid()}").write_text("a file is in the way")
    cache, fetched = NodeCache("s3://x"), []
    for _ in range(2):
        assert cache.read(NAME, lambda: fetched.append(1) or b"a") == b"a"  # type: ignore[func-returns-value]
    assert len(fetched) == 2

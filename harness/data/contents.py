"""What sources hold, by hash: every file is read once and then known by its path, size and times.

What was read stands in the user's cache, ``$HARNESS_CACHE`` or a folder below ``$XDG_CACHE_HOME``.
A file that keeps its path, size, inode, modification and change time is not read again. Facts about
contents (the size of a picture, the pixels of a tile) are remembered beside them, by the hash.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.data.waiting import counted
from harness.errors import DataError, one_line
from harness.interface import Dataset, content_hash

#: Seconds for which a file that has just changed is not remembered: another change may leave the
#: same times. The longer one is for file systems that count whole seconds.
FRESH, COARSE = 0.1, 2.5
EMPTY = content_hash(b"")  # of a file that holds nothing
READERS = min(16, 4 * (os.cpu_count() or 1))  # threads; most of their time is the disk's
_TABLES = """
create table if not exists files (folder blob, name blob, state text, hash text,
    primary key (folder, name)) without rowid;
create table if not exists facts (hash text, kind text, value text,
    primary key (hash, kind)) without rowid;
"""


class Stamps:
    """Stamps of a dataset's sources: equal for equal contents, and for no others.

    Parameters
    ----------
    dataset : Dataset
        A source that is a file is known by its contents, whatever ``dataset.stamp`` says; where the
        dataset has an ``open`` or a ``stamp`` of its own, that counts besides.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self._known: dict[str, str] = {}
        kind = type(dataset)
        #: whether every stamp is a hash of contents and nothing else
        self.hashes = _owner(kind, "stamp") is Dataset
        self._files = self.hashes and issubclass(_owner(kind, "file"), _owner(kind, "open"))

    def learn(self, sources: Iterable[str]) -> None:
        """Find out the stamps of sources, many files at a time.

        Raises
        ------
        DataError
            A source is missing or cannot be read; the message names it.
        """
        asked = [source for source in dict.fromkeys(sources) if source not in self._known]
        for source in asked:
            if not source.isascii() and not _utf8(source):
                shown = os.fsencode(source).decode("utf-8", "backslashreplace")
                raise DataError(f"{shown}: expected a name in UTF-8; rename it")
        files = {source: path for source in asked if (path := self._file(source)) is not None}
        hashes = file_hashes(files.values())
        for source in asked:
            stamp = hashes[files[source]] if source in files else ""
            if not stamp or not self._files:
                with naming(self.dataset, source):
                    stamp = "+".join(filter(None, [stamp, self.dataset.stamp(source)]))
            self._known[source] = stamp

    def __getitem__(self, source: str) -> str:
        """The stamp of a source."""
        if source not in self._known:
            self.learn([source])
        return self._known[source]

    def facts(
        self, kind: str, items: Mapping[str, str], compute: Callable[[str], Any]
    ) -> dict[str, Any]:
        """Something about sources that follows from their contents alone.

        Parameters
        ----------
        kind : str
            What it is, and the version of what computes it.
        items : name -> source
            A name that is not its source says what of the source is meant: ``strip.png@0,0,8,8``.
        compute : a function of the name; its values can be written as JSON

        Returns
        -------
        name -> value, remembered for the same contents where stamps are hashes
        """
        self.learn(items.values())
        keys = {
            name: f"{kind}{name.removeprefix(source)}" if name != source else kind
            for name, source in items.items()
        }
        hashes = {name: self._known[source] for name, source in items.items()}
        known = _facts(hashes, keys) if self.hashes else {}
        missing = [name for name in items if name not in known]
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            answers = counted(pool.map(compute, missing), len(missing), "looking at pictures once")
            new = dict(zip(missing, answers, strict=True))
        if self.hashes and new:
            _remember(
                "insert or replace into facts values (?, ?, ?)",
                [(hashes[name], keys[name], json.dumps(value)) for name, value in new.items()],
            )
        return known | new

    def _file(self, source: str) -> str | None:
        path = self.dataset.file(source)
        return None if path is None or not os.path.isfile(path) else os.path.abspath(path)


@contextmanager
def naming(dataset: Dataset, source: str) -> Iterator[None]:
    """Inside, an error about a source becomes a DataError that names it."""
    try:
        yield
    except (OSError, ValueError) as error:
        where = f"{source} in {dataset.root}" if dataset.root else source
        raise DataError(f"{where}: {one_line(error)}") from error


def file_hashes(paths: Iterable[str]) -> dict[str, str]:
    """Hash of what each file holds, by its absolute path; most without reading them again.

    Raises
    ------
    DataError
        A file cannot be read.
    """
    folders: dict[str, set[str]] = defaultdict(set)
    for path in paths:
        folder, name = os.path.split(path)
        folders[folder].add(name)
    known: dict[str, str] = {}
    unread: list[str] = []
    with _memory() as memory:
        for folder, names in folders.items():
            query = "select name, state, hash from files where folder = ?"
            states = {row[0]: row[1:] for row in _rows(memory, query, os.fsencode(folder))}
            for name in names:
                path = os.path.join(folder, name)
                state, hashed = states.get(os.fsencode(name), ("", ""))
                if hashed and state == _state(path):
                    known[path] = hashed
                else:
                    unread.append(path)
    with ThreadPoolExecutor(READERS) as pool:
        answers = counted(pool.map(_read, unread), len(unread), "reading the data once")
        read = dict(zip(unread, answers, strict=True))
    lasting: list[tuple[str | bytes, ...]] = [
        (*map(os.fsencode, os.path.split(path)), state, hashed)
        for path, (state, hashed) in read.items()
        if state
    ]
    _remember("insert or replace into files values (?, ?, ?, ?)", lasting)
    return known | {path: hashed for path, (_, hashed) in read.items()}


def _read(path: str) -> tuple[str, str]:
    """State and hash of a file; the state is "" where it must not be relied on later."""
    try:
        with open(path, "rb") as file:
            before = os.fstat(file.fileno())
            hashed = content_hash(file.read())
            after = os.fstat(file.fileno())
    except OSError as error:
        raise DataError(f"{path}: {one_line(error)}") from error
    changed = max(after.st_mtime_ns, after.st_ctime_ns)
    wait = FRESH if changed % 1_000_000_000 else COARSE
    steady = _text(before) == _text(after) and time.time() - changed / 1e9 > wait
    return _text(after) if steady else "", hashed


def _state(path: str) -> str:
    try:
        return _text(os.stat(path))
    except OSError as error:
        raise DataError(f"{path}: {one_line(error)}") from error


def _text(stat: os.stat_result) -> str:
    """What a change of a file changes. Its change time cannot be set back, as the other can."""
    parts = (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, stat.st_dev)
    return " ".join(map(str, parts))


def _utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # bytes that are no UTF-8 come as surrogates
        return False
    return True


def _owner(kind: type, name: str) -> type:
    """The class that defines an attribute of a class."""
    return next(each for each in kind.__mro__ if name in vars(each))


def _facts(hashes: Mapping[str, str], keys: Mapping[str, str]) -> dict[str, Any]:
    """Remembered facts by name."""
    with _memory() as memory:
        rows: dict[tuple[str, str], str] = {}
        several = list(set(hashes.values()))
        for start in range(0, len(several), 500):  # SQLite takes so many values at a time
            some = several[start : start + 500]
            marks = ",".join("?" * len(some))
            query = f"select hash, kind, value from facts where hash in ({marks})"
            rows |= {(hashed, kind): value for hashed, kind, value in _rows(memory, query, *some)}
    identities = {name: (hashes[name], keys[name]) for name in hashes}
    return {name: json.loads(rows[key]) for name, key in identities.items() if key in rows}


@contextmanager
def _memory() -> Iterator[sqlite3.Connection | None]:
    """The database of what was read; None where there can be none: then all is read anew."""
    path = _place()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        memory = sqlite3.connect(path, timeout=10)
    except (OSError, sqlite3.Error):
        yield None
        return
    with contextlib.closing(memory):
        try:
            memory.executescript(_TABLES)
        except sqlite3.OperationalError:  # locked, read-only, a full disk
            yield None
            return
        except sqlite3.DatabaseError:  # no database, or a damaged one
            with contextlib.suppress(OSError):
                path.unlink()
            yield None
            return
        yield memory


def _place() -> Path:
    folder = os.environ.get("HARNESS_CACHE")
    if folder:
        return Path(folder) / "contents.sqlite"
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "one-to-normal-harness" / "contents.sqlite"


def _rows(memory: sqlite3.Connection | None, query: str, *values: str | bytes) -> list[Any]:
    if memory is None:
        return []
    try:
        return memory.execute(query, values).fetchall()
    except sqlite3.Error:
        return []


def _remember(statement: str, rows: list[tuple[str | bytes, ...]]) -> None:
    if not rows:
        return
    with _memory() as memory:
        if memory is not None:
            with contextlib.suppress(sqlite3.Error), memory:
                memory.executemany(statement, rows)

"""Whether the files of a sweep's folder are what was written, so that damage is told, not shown.

Rows of tables carry digests of their own (``seal``). A cell's table of predictions and its gallery
have theirs in the cell's row of ``timings.csv``. Whatever else the folder holds is listed, when a
run ends, in a file that ``sha256sum -c`` can read; while a run works there is none.
"""

from __future__ import annotations

import csv
import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from harness.results.aggregate import CELL
from harness.results.folder.seal import DIGEST, opened, values_of
from harness.storage.store import Store

MANIFEST = "manifest.sha256"
#: Files that are made once for a cell: the folder they lie in -> how they end.
PUBLISHED = {"predictions": ".csv", "gallery": ".npz"}
#: What a report reads besides.
TABLES = ("results.csv", "timings.csv", "failures.csv")
READ: tuple[str, ...] = ("summary.csv", "costs.csv", "tasks.csv", "sweep.yaml", "support.json")
READ += ("environment.json", "notes.json", "audit.json")
AGAIN = "run the sweep again: it makes anew what is damaged"
OTHERS = (MANIFEST, "mlflow.json")  # not listed: itself, and what is written by a thread
SHOWN = 3  # files that are named
READERS = 8  # threads
PAUSE = 1.0  # seconds after which what seems damaged is looked at again


def digest(contents: bytes) -> str:
    """Size and hash of a file, as a row holds them."""
    return f"{len(contents)}-{hashlib.blake2b(contents, digest_size=8).hexdigest()}"


def column(kind: str) -> str:
    """Column of ``timings.csv`` that has the digests of a kind of published file."""
    return f"{kind}_digest"


def list_files(store: Store, sweep: str) -> None:
    """Write the list of a sweep's folder: of its own files, not of those in folders below it."""
    lines = []
    for name in store.files(sweep):
        if not name.startswith(".") and name not in OTHERS:
            lines.append(f"{hashlib.sha256(store.read(f'{sweep}/{name}')).hexdigest()}  {name}\n")
    store.write_text(f"{sweep}/{MANIFEST}", "".join(lines))


def altered(read: Callable[[str], bytes], names: Iterable[str] = ()) -> list[str]:
    """Files that are not as the list says; none where there is no list.

    Parameters
    ----------
    read : contents of a file of the folder; FileNotFoundError where there is none
    names : the files to look at, all that are listed where none is named; an absent one is not
        altered
    """
    try:
        lines = read(MANIFEST).decode("utf-8", "replace").splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return []
    wrong = []
    chosen = set(names)
    for line in lines:
        right, _, name = line.partition("  ")
        if not name or (chosen and name not in chosen):
            continue
        try:
            if hashlib.sha256(read(name)).hexdigest() != right:
                wrong.append(name)
        except FileNotFoundError:
            continue
        except OSError:  # a folder in its place
            wrong.append(name)
    return wrong


def published(folder: Path, timings: Iterable[Mapping[str, Any]]) -> list[tuple[str, int]]:
    """Published files that are gone or not what was written, each with the place of its row.

    A kind of file whose folder is gone as a whole was removed by somebody who needs the room.

    Parameters
    ----------
    timings : rows of ``timings.csv``; without digests, as those of before there were any, they
        promise nothing
    """
    with ThreadPoolExecutor(READERS) as pool:
        promises = list(_promised(timings, lambda kind: (folder / kind).is_dir()))
        whole = pool.map(lambda promise: _whole(folder / promise[0], promise[1]), promises)
        return [(name, i) for (name, _, i), right in zip(promises, whole, strict=True) if not right]


def published_far(
    store: Store, sweep: str, timings: Iterable[Mapping[str, Any]]
) -> list[tuple[str, int]]:
    """As ``published``, by the sizes of the files alone: to read all of a far store takes long."""
    sizes = {
        f"{kind}/{name}": size
        for kind in PUBLISHED
        for name, size in store.sizes(f"{sweep}/{kind}").items()
    }
    kinds = {name.partition("/")[0] for name in sizes}
    promises = _promised(timings, lambda kind: kind in kinds)
    return [(n, i) for n, right, i in promises if str(sizes.get(n)) != right.partition("-")[0]]


def _promised(
    timings: Iterable[Mapping[str, Any]], kept: Callable[[str], bool]
) -> Iterator[tuple[str, str, int]]:
    """File, digest and place of its row, of the kinds that are kept."""
    kinds = [kind for kind in PUBLISHED if kept(kind)]
    for i, row in enumerate(timings):
        cell = f"{row['method']}/{row['dataset']}/{row['category']}/k{row['shots']}_s{row['seed']}"
        for kind in kinds:
            right = row.get(column(kind))
            if isinstance(right, str) and right:
                yield f"{kind}/{cell}{PUBLISHED[kind]}", right, i


def _whole(path: Path, right: str) -> bool:
    try:
        return digest(path.read_bytes()) == right
    except OSError:
        return False


def check(folder: Path) -> None:
    """Look at what a report reads of a folder.

    Raises
    ------
    ValueError
        Something is not what was written; in one line, with what to do.
    """
    if _damaged(folder):
        time.sleep(PAUSE)  # a run may be at work there, which writes one file after another
        names = _damaged(folder)
        if names:
            raise ValueError(told(str(folder), names, AGAIN))


def _damaged(folder: Path) -> list[str]:
    """Names of what is damaged; rows by the table they stand in."""
    names = []
    texts = {name: _text(folder / name) for name in TABLES}
    if DIGEST in texts["timings.csv"].partition("\n")[0].split(","):
        try:
            values = values_of(texts["results.csv"], CELL)
        except csv.Error:
            values = {}
        timings, damaged = opened(texts["timings.csv"], CELL, values)
        names += ["results.csv, timings.csv"] * bool(damaged)
        names += [name for name, _ in published(folder, timings)]
    if DIGEST in texts["failures.csv"].partition("\n")[0].split(","):
        names += ["failures.csv"] * bool(opened(texts["failures.csv"], CELL, {})[1])
    if not any(name in words for name in TABLES for words in names):
        names += altered(lambda name: (folder / name).read_bytes(), (*TABLES, *READ))
    return names


def _text(path: Path) -> str:
    return path.read_text("utf-8", "replace") if path.is_file() else ""


def told(folder: str, names: Iterable[str], what: str, most: int = SHOWN) -> str:
    """A line on damaged files: the first ones by name."""
    every = sorted(dict.fromkeys(names))
    more = f" and {len(every) - most:,} more" if len(every) > most else ""
    return f"{folder}/{', '.join(every[:most])}{more}: damaged, not what was written; {what}"

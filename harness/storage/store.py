"""Where artifacts and results lie: a local folder or a URI (s3://, gs://, ...). Whole-file writes.

Layout below the storage root::

    .artifacts/<kind>/<first two digits>/<key>.safetensors     shared by all sweeps
    <sweep name>/results.csv, summary.csv, ...                 one folder per sweep
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
import uuid
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
from fsspec.implementations.local import LocalFileSystem
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from harness.errors import InputError, Problem, one_line, redacted
from harness.interface import Arrays
from harness.storage.node_cache import NodeCache
from harness.storage.room import exhausted, unwritten

SCHEMES = ("file", "memory", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "hdfs")
PURGED = ".artifacts/purged"  # names the last purge
HEAD, MANY = 16_384, 500  # bytes of an artifact read to know its maker, artifacts at a time
STALE = 3600.0  # seconds after which a file that was not written to its end is nobody's


class Damaged(ValueError):
    """An artifact is not what was written: truncated or altered. The message names the file."""


class Store:
    """Files below one root. Several processes may use the same root at the same time.

    Parameters
    ----------
    root : local path or fsspec URI
    copied : kinds of artifacts that many tasks read: of a far store, a machine keeps copies of them
    """

    def __init__(self, root: str, copied: Collection[str] = ()) -> None:
        where = f"storage {root}"
        scheme, separator, rest = root.partition("://")
        if (separator and scheme not in SCHEMES) or "::" in root or not root.strip():
            known = ", ".join(f"{name}://" for name in SCHEMES)
            raise InputError(Problem(where, f"expected a folder, or a URI of {known}"))
        if separator and not rest.strip("/"):
            raise InputError(Problem(where, f"expected {scheme}://, a name, and a folder"))
        try:
            # Others write too: what a folder held a moment ago says nothing.
            self._fs, base = fsspec.core.url_to_fs(root, use_listings_cache=False)
        except Exception as error:  # a package that is missing, a client that finds no login: any
            raise InputError(Problem(where, one_line(error))) from None
        self.local = isinstance(self._fs, LocalFileSystem)
        self._base = str(Path(base).absolute()) if self.local else base.rstrip("/")
        self.root = self._base if self.local else root  # the same from any working folder
        far = not self.local and not root.startswith("memory:")
        self._copies: NodeCache | None = None
        self._copied = frozenset(copied if far else ())
        #: who makes what is put: recorded in each artifact, beside its contents
        self.author: Callable[[], Mapping[str, Any]] | None = None

    def path(self, name: str) -> str:
        """Full path of a file below the root, for messages."""
        return f"{self._base}/{name}"

    @contextmanager
    def _plain_errors(self) -> Iterator[None]:
        """Errors of a protocol's client as OSError: some have types of their own, as botocore's."""
        try:
            yield
        except OSError as error:
            if error.filename is not None or error.errno is not None:
                raise
            raise type(error)(f"storage {redacted(self.root)}: {one_line(error)}") from error
        except Exception as error:
            raise OSError(f"storage {redacted(self.root)}: {one_line(error)}") from error

    def exists(self, name: str) -> bool:
        """Whether there is a file or folder of this name."""
        with self._plain_errors():
            return bool(self._fs.exists(self.path(name)))

    def read(self, name: str) -> bytes:
        """Contents of a file; FileNotFoundError when there is none."""
        with self._plain_errors():
            return bytes(self._fs.cat_file(self.path(name)))

    def write(self, name: str, contents: bytes) -> None:
        """Write a file whole: readers see the old one or the new one, never half of it.

        Raises
        ------
        Full
            There is no room for it.
        """
        try:
            self._write(name, contents)
        except OSError as error:
            if not exhausted(error):
                raise
            root = redacted(self.root)
            raise unwritten(root, name, len(contents), error, self.local) from error

    def _write(self, name: str, contents: bytes) -> None:
        path = self.path(name)
        if not self.local:  # object stores show an object when its upload is complete
            with self._plain_errors():
                self._fs.pipe_file(path, contents)
            return
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
        try:
            with temporary.open("wb") as f:
                f.write(contents)
                f.flush()
                os.fsync(f.fileno())
            temporary.replace(target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def write_text(self, name: str, text: str) -> None:
        """Write a text whole, as UTF-8; what that lacks, as in some names of files, is escaped."""
        self.write(name, text.encode(errors="backslashreplace"))

    def read_text(self, name: str) -> str | None:
        """Text of a file, None when there is none."""
        try:
            return self.read(name).decode()
        except FileNotFoundError:
            return None

    @contextmanager
    def folder(self, name: str) -> Iterator[Path]:
        """A folder as a local one: itself, or a copy whose new files are written back."""
        if self.local:
            yield Path(self.path(name))
            return
        with tempfile.TemporaryDirectory() as temporary:
            local = Path(temporary) / "copy"
            with self._plain_errors():
                self._fs.get(self.path(name), str(local), recursive=True)
            old = {p for p in local.rglob("*") if p.is_file()}
            yield local
            for p in sorted(p for p in local.rglob("*") if p.is_file() and p not in old):
                self.write(f"{name}/{p.relative_to(local).as_posix()}", p.read_bytes())

    def folders(self, name: str) -> list[str]:
        """Folders of the root, sorted, that hold a file of this name: such as all sweeps."""
        return sorted(self.written(name))

    def written(self, name: str) -> list[str]:
        """The same folders by when their file was written, the newest last."""
        with self._plain_errors():
            files = self._fs.glob(self.path(f"*/{name}"), detail=True)
        times = {str(path).split("/")[-2]: _modified(info) for path, info in files.items()}
        return sorted(times, key=lambda folder: (times[folder], folder))

    def files(self, folder: str) -> list[str]:
        """Names of the files in a folder, sorted; not of those in folders below it."""
        base = self.path(folder)
        with self._plain_errors():
            entries = self._fs.ls(base, detail=True) if self._fs.exists(base) else ()
        files = (str(entry["name"]) for entry in entries if entry["type"] == "file")
        return sorted(name.rpartition("/")[2] for name in files)

    def sizes(self, folder: str) -> dict[str, int]:
        """Size in bytes of every file below a folder, by its name from there on."""
        base = self.path(folder)
        with self._plain_errors():
            if not self._fs.exists(base):
                return {}
            entries = self._fs.find(base, detail=True)
        start = len(str(self._fs._strip_protocol(base)).rstrip("/")) + 1
        return {str(path)[start:]: int(details["size"]) for path, details in entries.items()}

    def delete(self, name: str) -> None:
        """Remove a file if it is there."""
        with self._plain_errors():
            if self._fs.exists(self.path(name)):
                self._fs.rm_file(self.path(name))

    def _cache(self) -> NodeCache:
        """Copies on this machine; what was copied before a purge is none of them."""
        if self._copies is None:
            self._copies = NodeCache(self.root + (self.read_text(PURGED) or ""))
        return self._copies

    def kinds(self) -> list[str]:
        """Kinds of which there are artifacts, sorted."""
        folder = self.path(".artifacts")
        with self._plain_errors():
            entries = self._fs.ls(folder, detail=True) if self._fs.exists(folder) else ()
        names = [str(entry["name"]) for entry in entries if entry["type"] == "directory"]
        return sorted(name.rstrip("/").rpartition("/")[2] for name in names)

    def keys(self, kind: str) -> set[str]:
        """Keys of all artifacts of a kind."""
        folder = self.path(f".artifacts/{kind}")
        with self._plain_errors():
            paths = self._fs.find(folder) if self._fs.exists(folder) else ()
        names = (str(p).rpartition("/")[2] for p in paths)
        return {n.removesuffix(".safetensors") for n in names if n.endswith(".safetensors")}

    def makers(self, kind: str, keys: Sequence[str]) -> list[dict[str, Any]]:
        """Who made artifacts of a kind, see ``author``; empty where one does not say, or is gone.

        Only the beginnings of the files are read, many at a time.
        """
        makers: list[dict[str, Any]] = []
        for start in range(0, len(keys), MANY):
            paths = [self.path(artifact(kind, key)) for key in keys[start : start + MANY]]
            with self._plain_errors():
                heads = self._fs.cat_ranges(paths, 0, HEAD, on_error="return")
                for path, head in zip(paths, heads, strict=True):
                    size = int.from_bytes(head[:8], "little") if isinstance(head, bytes) else 0
                    if size + 8 > HEAD and len(head) == HEAD:
                        head = self._fs.cat_file(path, 0, size + 8)
                    try:
                        header = json.loads(head[8 : 8 + size])["__metadata__"]
                        makers.append(_maker(header) or {})
                    except (ValueError, KeyError, TypeError):  # damaged, or gone meanwhile
                        makers.append({})
        return makers

    def tidy(self, folder: str) -> int:
        """Remove what killed processes left half-written below a folder; how many files."""
        if not self.local:  # there an object is whole, or not there
            return 0
        gone, front, old = 0, [self.path(folder)], time.time() - STALE
        while front:
            try:
                entries = list(os.scandir(front.pop()))
            except OSError:
                continue
            for entry in entries:
                if entry.name.startswith(".") and entry.name.endswith(".tmp"):
                    with contextlib.suppress(FileNotFoundError):
                        if entry.stat().st_mtime < old:
                            os.unlink(entry)
                            gone += 1
                elif entry.is_dir(follow_symlinks=False):
                    front.append(entry.path)
        return gone

    def has(self, kind: str, key: str) -> bool:
        """Whether the artifact is there."""
        return self.exists(artifact(kind, key))

    def put(self, kind: str, key: str, arrays: Mapping[str, np.ndarray], meta: Any = None) -> int:
        """Write an artifact, with a checksum of its contents; its size in bytes."""
        ordered = {n: _native(arrays[n]) for n in sorted(arrays)}
        text = json.dumps(meta, sort_keys=True)
        header = {"meta": text, "crc32": str(_checksum(ordered, text))}
        if self.author is not None:
            author = json.dumps(self.author(), sort_keys=True)
            header |= {"made": author, "made_crc32": str(zlib.crc32(author.encode()))}
        contents = save_tensors(ordered, metadata=header)
        self.write(artifact(kind, key), contents)
        if kind in self._copied:
            self._cache().put(artifact(kind, key), contents)
        return len(contents)

    def get(self, kind: str, key: str) -> tuple[Arrays, Any]:
        """Arrays, read-only, and meta of an artifact.

        Raises
        ------
        FileNotFoundError
            It is not there.
        Damaged
            It is truncated or altered; the file has been removed, so that it is made anew.
        """
        name = artifact(kind, key)
        if kind in self._copied:
            contents = self._cache().read(name, lambda: self.read(name))
            try:
                return _unpacked(contents)
            except (SafetensorError, ValueError, KeyError):
                self._cache().drop(name)  # the copy may be damaged, and not what it is of
        try:
            return _unpacked(self.read(name))
        except (SafetensorError, ValueError, KeyError) as error:
            self.delete(name)
            message = f"{self.path(name)}: damaged artifact, removed: {error}"
            raise Damaged(message) from error


def relative(root: str) -> str:
    """The root as it is, where it depends on the working folder; empty where it does not."""
    local = "://" not in root and "::" not in root
    return root if local and not Path(root).is_absolute() else ""


def _unpacked(contents: bytes) -> tuple[Arrays, Any]:
    """Arrays and meta of an artifact's bytes; an error when they are not what was written."""
    # safetensors gives them in another order each time, and plug-ins may go through them in order
    arrays = dict(sorted(load_tensors(contents).items()))
    size = int.from_bytes(contents[:8], "little")
    header = json.loads(contents[8 : 8 + size])["__metadata__"]
    if str(_checksum(arrays, header["meta"])) != header["crc32"] or _maker(header) is None:
        raise ValueError("its contents do not match their checksum")
    for array in arrays.values():
        array.flags.writeable = False  # it may be kept and handed out again
    return arrays, json.loads(header["meta"])


def _maker(header: Mapping[str, str]) -> dict[str, Any] | None:
    """Who made an artifact, by its metadata; empty where it does not say, None when altered."""
    author = header.get("made", "{}")
    if str(zlib.crc32(author.encode())) != header.get("made_crc32", str(zlib.crc32(b"{}"))):
        return None
    return dict(json.loads(author))


def artifact(kind: str, key: str) -> str:
    """File of an artifact, below the storage root."""
    return f".artifacts/{kind}/{key[:2]}/{key}.safetensors"


def _native(array: Any) -> np.ndarray:
    """An array as it is stored: contiguous, in the machine's byte order."""
    stored = np.asarray(array, order="C")
    return stored.astype(stored.dtype.newbyteorder("="), copy=False)


def _checksum(arrays: Mapping[str, np.ndarray], meta: str) -> int:
    """Checksum of names, types, shapes, contents and meta: of all that a reader is given."""
    check = zlib.crc32(meta.encode())
    for name, value in arrays.items():  # sorted by whoever calls
        array = np.asarray(value, order="C")
        check = zlib.crc32(f"{name} {array.dtype.str} {array.shape}".encode(), check)
        check = zlib.crc32(array.data, check)
    return check


def _modified(info: Mapping[str, Any]) -> float:
    """When a file was written, in seconds since 1970; 0 where its file system does not say."""
    time = next((info[name] for name in ("mtime", "LastModified", "created") if name in info), 0.0)
    return float(time.timestamp() if hasattr(time, "timestamp") else time)

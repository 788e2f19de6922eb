"""Copies of a far store's artifacts on this machine's disk, shared by all workers of the machine.

What many tasks read (a customized model, trained weights) then travels once per node, not once per
worker and task. A copy is of a key, whose artifact never changes; it is taken whole or not at all.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

GIGABYTE = 1 << 30


class NodeCache:
    """A folder for the copies of one store; those longest unread go when there are too many.

    Parameters
    ----------
    root : the store's
    limit : bytes of copies kept, and no more than half of what the disk has left
    """

    def __init__(self, root: str, limit: int = 20 * GIGABYTE) -> None:
        name = hashlib.sha256(root.encode()).hexdigest()[:16]
        self._folder = Path(tempfile.gettempdir()) / f"harness-{os.getuid()}" / name
        self._limit = limit

    def read(self, name: str, fetch: Callable[[], bytes]) -> bytes:
        """Contents from the copy, or from ``fetch``, by one process of the machine at a time."""
        contents = self._copy(name)
        if contents is not None:
            return contents
        with self._turn(name):
            contents = self._copy(name)  # whoever had the turn before may have fetched it
            if contents is None:
                contents = fetch()
                self.put(name, contents)
            return contents

    def put(self, name: str, contents: bytes) -> None:
        """Keep a copy, if there is room."""
        path = self._folder / name
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
        with contextlib.suppress(OSError):  # no copy is as good as one, only slower
            self._folder.parent.mkdir(exist_ok=True, mode=0o700)
            path.parent.mkdir(parents=True, exist_ok=True)
            if not self._own() or not self._room(len(contents)):
                return
            try:
                temporary.write_bytes(contents)
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)

    def drop(self, name: str) -> bool:
        """Forget a copy; whether there was one."""
        try:
            (self._folder / name).unlink()
        except OSError:
            return False
        return True

    def _copy(self, name: str) -> bytes | None:
        path = self._folder / name
        try:
            if not self._own():
                return None
            contents = path.read_bytes()
            os.utime(path)
        except OSError:
            return None
        return contents

    def _own(self) -> bool:
        """Whether the folder is this user's: others may write to where it is."""
        return self._folder.parent.stat().st_uid == os.getuid()

    @contextmanager
    def _turn(self, name: str) -> Iterator[None]:
        """Wait for other processes that fetch the same; the kernel ends the turn of a dead one."""
        try:
            path = self._folder / "turns" / hashlib.sha256(name.encode()).hexdigest()[:2]
            self._folder.parent.mkdir(exist_ok=True, mode=0o700)
            path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            yield
            return
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
        finally:
            os.close(file)

    def _room(self, size: int) -> bool:
        """Whether so much may be added; what was read longest ago is removed for it."""
        copies = []
        for path in self._folder.rglob("*.safetensors"):
            with contextlib.suppress(FileNotFoundError):  # removed by another process just now
                status = path.stat()
                copies.append((status.st_mtime, status.st_size, path))
        held = sum(size for _, size, _ in copies)
        most = min(self._limit, (held + shutil.disk_usage(self._folder).free) // 2)
        for _, freed, path in sorted(copies):
            if held + size <= most:
                break
            path.unlink(missing_ok=True)
            held -= freed
        return held + size <= most

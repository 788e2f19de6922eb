"""One driver at a time in a sweep's folder, whatever became of the one before.

A folder of this machine, or one that is shared with locks, is locked by the kernel, which lets go
when the process ends, however it ends. Object stores and shares without locks have a note instead,
which the driver renews. A driver on the same machine is dead when its process is gone, one on
another when its note stands still.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import Any

from harness.errors import InputError, Problem, one_line
from harness.storage.store import Store

BEAT = 10.0  # seconds between two renewals of a note
SILENCE = 30.0  # seconds after which a note that stands still is that of a dead driver
MOMENT = 0.5  # seconds in which two drivers may take a note at the same time


class Lock:
    """Held while a driver writes into a sweep's folder; a context manager.

    Parameters
    ----------
    store, sweep : where and which

    Raises
    ------
    InputError
        On entering: another driver works there, or nothing can be written there.
    """

    def __init__(self, store: Store, sweep: str) -> None:
        self._store = store
        self._sweep = sweep
        self._name = f".locks/{sweep}"  # not in its folder, which is for results
        self._file = -1
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._me: dict[str, Any] = {
            "id": uuid.uuid4().hex,
            "host": socket.gethostname(),
            "machine": _machine(),
            "pid": os.getpid(),
            "born": _born(os.getpid()),
            "beat": 0,
        }

    def __enter__(self) -> Lock:
        try:
            if not (self._store.local and self._lock()):
                self._claim()
        except OSError as error:
            path = self._store.path(self._sweep)
            raise InputError(Problem(path, one_line(error))) from None
        return self

    def __exit__(self, *_: object) -> None:
        if self._file >= 0:
            os.close(self._file)  # the file stays: to remove it would race with who waits for it
        if self._thread is not None:
            self._over.set()
            self._thread.join()
            with contextlib.suppress(OSError):
                if (self._read() or self._me)["id"] == self._me["id"]:
                    self._store.delete(self._name)

    def _lock(self) -> bool:
        """Have the kernel lock a file; False where it cannot, as on some network shares."""
        path = Path(self._store.path(self._name))
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            text = os.read(file, 10_000)
            os.close(file)
            raise self._taken(_parsed(text) or {}) from None
        except OSError:
            os.close(file)
            return False
        with contextlib.suppress(OSError):  # a full disk: the name in the message is all it costs
            os.ftruncate(file, 0)
            os.write(file, json.dumps(self._me).encode())
        self._file = file
        return True

    def _claim(self) -> None:
        """Leave a note, unless there is one of a driver that lives; then renew it."""
        note = self._read()
        if note is not None and not self._dead(note):
            raise self._taken(note)
        self._write()
        time.sleep(MOMENT)
        last = self._read()
        if last is None or last["id"] != self._me["id"]:
            raise self._taken(last or {})
        self._thread = threading.Thread(target=self._renew, name="lock", daemon=True)
        self._thread.start()

    def _renew(self) -> None:
        while not self._over.wait(BEAT):
            self._me["beat"] += 1
            with contextlib.suppress(OSError):  # the next one will do; three missed ones will not
                self._write()

    def _dead(self, note: dict[str, Any]) -> bool:
        """Whether the driver that left a note is gone."""
        if note["machine"] == self._me["machine"]:
            return bool(_born(int(note["pid"])) != note["born"])
        where = self._store.path(self._sweep)
        who = f"a run of it was left on {note['host']}"
        print(f"{where}: {who}; waiting {SILENCE:g} s for a sign of life", file=sys.stderr)
        end = time.monotonic() + SILENCE
        while time.monotonic() < end:
            time.sleep(MOMENT)
            now = self._read()
            if now is None:
                return True
            if (now["id"], now["beat"]) != (note["id"], note["beat"]):
                return False
        return True

    def _read(self) -> dict[str, Any] | None:
        """The note; None where there is none, or one that says nothing."""
        try:
            return _parsed(self._store.read(self._name))
        except FileNotFoundError:
            return None

    def _write(self) -> None:
        self._store.write(self._name, json.dumps(self._me).encode())

    def _taken(self, note: dict[str, Any]) -> InputError:
        who = f" (process {note['pid']} on {note['host']})" if note else ""
        message = f"another run{who} works on this sweep; wait for its end, or stop it"
        return InputError(Problem(self._store.path(self._sweep), message))


def _parsed(text: bytes) -> dict[str, Any] | None:
    try:
        note = json.loads(text)
        return note if note.keys() >= {"id", "host", "machine", "pid", "born", "beat"} else None
    except (ValueError, AttributeError):
        return None


def _machine() -> str:
    """What processes share that can see one another by number: a boot, a space of numbers."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux
        return socket.gethostname()


def _born(pid: int) -> str:
    """When a process of this machine began, in the kernel's ticks; empty where there is none."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if words[0] == "Z" else words[19]
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return ""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        return "there"
    return "there"

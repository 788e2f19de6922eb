"""How hostile methods do harm: what takes more than a line in the table of ``harms``."""

from __future__ import annotations

import os
import pickle
import resource
import signal
import struct
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

ENTERED: list[Any] = []


def zero(array: Any) -> None:
    """Write over numpy's flag, as a careless ``torch.from_numpy(...).mul_()`` does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.from_numpy(array).mul_(0)


def die(number: signal.Signals) -> None:
    """Of a signal, without leaving a core as large as torch."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if number != signal.SIGKILL:
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    time.sleep(100)


def answer_twice() -> None:
    """A child answers for a task that nobody asked it to do."""
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    answer = pickle.dumps({"mine": 1})
    for descriptor in range(3, 64):
        write(descriptor, struct.pack("!i", len(answer)) + answer)
    os._exit(0)


def write(descriptor: int, data: bytes = b"\x00\x00\x00\x05rubbish") -> None:
    """To a file that may not be open."""
    try:
        os.write(descriptor, data)
    except OSError:
        return


def leave_open(count: int) -> None:
    """So many files."""
    for _ in range(count):
        os.open(os.devnull, os.O_RDONLY)


def move_to_nowhere(folder: str) -> None:
    """Work in a folder that is gone."""
    os.chdir(folder)
    os.rmdir(folder)


def enter(context: Any) -> None:
    """Enter something and never leave it."""
    context.__enter__()
    ENTERED.append(context)


def wait_for_itself() -> None:
    """Never ends: a lock that is held by who asks for it."""
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


def call_itself() -> None:
    """Never ends either, but for Python's limit."""
    call_itself()


def chained(length: int) -> Exception:
    """An exception because of one because of one ..."""
    error: Exception | None = None
    for i in range(length):
        following = ValueError(i)
        following.__cause__ = error
        error = following
    assert error is not None
    return error


def without_end() -> Iterator[float]:
    """Numbers that never end."""
    while True:
        time.sleep(0.01)
        yield 0.5


class Odd(Exception):
    """An exception that cannot even be shown."""

    def __str__(self) -> str:
        raise ValueError("no words")

    __repr__ = __str__


class Liar(Exception):
    """One whose every attribute is an error, and that ends the process when it is pickled."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(name)

    def __reduce__(self) -> Any:
        os._exit(9)


class Lazy:
    """An array that is none until somebody looks, and then ends the process."""

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise SystemExit("looked at")


class Finder:
    """Finds no module, and takes its time."""

    def find_spec(self, *_: Any) -> None:
        time.sleep(0.001)


class Spiteful:
    """Spoils numpy when it is collected as garbage, in whosever task that may be."""

    def __init__(self) -> None:
        self.itself = self

    def __del__(self) -> None:
        np.argsort = lambda a, *_, **__: np.zeros(len(a), int)


def module(name: str) -> Any:
    """One that is loaded."""
    return sys.modules[name]

"""Ends a command within seconds of an interrupt, whatever it waits for."""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

GRACE = 2.5  # seconds that a command has to end by itself
LAST = 1.0  # seconds after that within which the process is gone even if Python stands still
SIGNALS = (signal.SIGINT, signal.SIGTERM)
STATUS = 130


class _Countdown:
    """Ends this process some seconds after it was begun. Whole files only are ever written, so
    nothing is lost but what a report would have said.
    """

    def __init__(self, stderr: int = 2) -> None:
        self._begun = threading.Event()
        self._stderr = stderr

    @property
    def begun(self) -> bool:
        """Whether an interrupt has come."""
        return self._begun.is_set()

    def begin(self) -> None:
        """Begin, if it has not begun."""
        with contextlib.suppress(OSError):  # a thread that keeps C++ quiet may have led it away
            os.dup2(self._stderr, 2)
        if self._begun.is_set():
            return
        self._begun.set()
        signal.alarm(0)  # Ray's own handler of SIGTERM has the process aborted after 3 seconds
        nowhere = open(os.devnull, "w")  # noqa: SIM115 - until the end of the process
        faulthandler.dump_traceback_later(GRACE + LAST, exit=True, file=nowhere)
        threading.Thread(target=self._end, name="countdown", daemon=True).start()

    def _end(self) -> None:
        time.sleep(GRACE)
        with contextlib.suppress(OSError):
            os.write(self._stderr, b"interrupted: run the same command to go on\n")
        os._exit(STATUS)


_running: list[_Countdown] = []  # of ``ended_soon`` that is entered: the inner ones share it


@contextmanager
def ended_soon() -> Iterator[_Countdown]:
    """While in here, SIGINT and SIGTERM raise KeyboardInterrupt, and end the process if that does
    not: it may be lost in a library's callback, or never be raised where a library waits in C.
    """
    if _running or threading.current_thread() is not threading.main_thread():
        yield _running[0] if _running else _Countdown()
        return
    stderr = _kept(2)
    countdown = _Countdown(stderr)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    def interrupt(number: int, frame: FrameType | None) -> None:
        countdown.begin()
        raise KeyboardInterrupt

    def listen() -> None:  # C's handler writes here at once; Python's waits for the main thread
        while (numbers := os.read(reader, 100)) and not set(numbers) & set(SIGNALS):
            continue
        if numbers:
            countdown.begin()
        os.close(reader)

    before = [signal.signal(number, interrupt) for number in SIGNALS]
    wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    listener = threading.Thread(target=listen, name="interrupts", daemon=True)
    listener.start()
    _running.append(countdown)
    try:
        yield countdown
    finally:
        _running.clear()
        signal.set_wakeup_fd(wakeup)
        for number, handler in zip(SIGNALS, before, strict=True):
            signal.signal(number, handler)
        os.close(writer)
        if stderr != 2 and not countdown.begun:
            os.close(stderr)


def _kept(stream: int) -> int:
    """A second descriptor of a stream, which stays where it is while the first leads elsewhere for
    a moment, to keep what C++ prints to itself; the stream itself where it is closed.
    """
    try:
        return os.dup(stream)
    except OSError:
        return stream


def leave(status: int) -> NoReturn:
    """End the process: what libraries want done at the end is done, unless it was interrupted.

    Python's own way would go on to take apart millions of objects and to wait for the threads of
    libraries, deaf to interrupts.
    """
    with contextlib.suppress(BaseException):
        if status != STATUS:
            atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(status)

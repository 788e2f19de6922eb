"""What a task says of itself while it is at work, on its way from a worker to the driver."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import SupportsFloat

from harness import interface

EVERY = 2.0  # seconds between two messages of a worker, and before a task's first


class Channel:
    """Makes a line of what a plug-in reports, and sends on at most one every ``EVERY`` seconds.

    Parameters
    ----------
    send : what takes a line; what it raises is of no concern to the plug-in
    clock : seconds, for tests
    """

    def __init__(
        self, send: Callable[[str], object], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._send, self._clock = send, clock
        self._spoke = clock()
        self._begun = (0, 0, 0.0)  # of the steps under way: their number, the first seen, and when
        self._last = 0
        self._owner = _here()

    def open(self) -> None:
        """Listen to what plug-ins of this process report."""
        interface.listen(self.hear)

    def begin(self) -> None:
        """A task begins, in this thread: others' reports would cross with its outcome."""
        self._owner = _here()
        self._spoke, self._last, self._begun = self._clock(), 0, (0, 0, 0.0)

    def hear(self, step: int, steps: int, figures: Mapping[str, SupportsFloat]) -> None:
        """See ``interface.progress``."""
        if _here() != self._owner:
            return
        now = self._clock()
        if steps != self._begun[0] or step < self._last:
            self._begun = steps, step, now
        self._last = step
        if now - self._spoke < EVERY:
            return
        self._spoke = now
        _, first, since = self._begun
        parts = [f"step {step:,} of {steps:,}"]
        parts += [f"{name} {float(value):.4g}" for name, value in figures.items()]
        if step > first and now > since:
            rate = (step - first) / (now - since)
            parts.append(f"{rate:.3g} steps/s" if rate >= 1 else f"{1 / rate:.3g} s/step")
        try:
            self._send(", ".join(parts))
        except Exception:  # a driver that is gone ends the worker by other ways
            return


def _here() -> tuple[int, int]:
    """The process and thread; one that was forked has the channel of its parent."""
    return os.getpid(), threading.get_ident()

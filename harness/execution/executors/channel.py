"""What a task says of itself while it is at work, on its way from a worker to the driver."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, SupportsFloat

from harness import interface

EVERY = 2.0  # seconds between two messages of a worker, and before a task's first
MB = 1e6
_STEPS = re.compile(r"step ([\d,]+) of ([\d,]+)")
_PACE = re.compile(r", ([\d.e+-]+) (steps/s|s/step)$")


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
        # Of the steps under way: their number and file, the first seen, and when.
        self._begun = (0, "", 0, 0.0)
        self._last = 0
        self._owner = _here()

    def open(self) -> None:
        """Listen to what plug-ins of this process report."""
        interface.listen(self.hear)

    def begin(self) -> None:
        """A task begins, in this thread: others' reports would cross with its outcome."""
        self._owner = _here()
        self._spoke, self._last, self._begun = self._clock(), 0, (0, "", 0, 0.0)

    def hear(
        self, step: int, steps: int, figures: Mapping[str, SupportsFloat], file: str = ""
    ) -> None:
        """See ``interface.progress``."""
        if _here() != self._owner:
            return
        now = self._clock()
        if (steps, file) != self._begun[:2] or step < self._last:
            self._begun = steps, file, step, now
        self._last = step
        if now - self._spoke < EVERY:
            return
        self._spoke = now
        *_, first, since = self._begun
        rate = (step - first) / (now - since) if step > first and now > since else 0.0
        if file:
            parts = [f"downloading {file}: {step / MB:,.1f} of {steps / MB:,.1f} MB"]
        else:
            parts = [f"step {step:,} of {steps:,}"]
        parts += [f"{name} {_number(value):.4g}" for name, value in figures.items()]
        if rate and file:
            parts.append(f"{rate / MB:.3g} MB/s")
        elif rate:
            parts.append(f"{rate:.3g} steps/s" if rate >= 1 else f"{1 / rate:.3g} s/step")
        try:
            self._send(", ".join(parts))
        except Exception:  # a driver that is gone ends the worker by other ways
            return


def remaining(line: str) -> float | None:
    """Seconds that the steps of which a line tells still take; None where it tells no pace."""
    steps, pace = _STEPS.match(line), _PACE.search(line)
    if steps is None or pace is None:
        return None
    step, of = (int(number.replace(",", "")) for number in steps.groups())
    each, unit = float(pace[1]), pace[2]
    return (of - step) * (each if unit == "s/step" else 1 / each)


def _number(value: Any) -> float:
    # torch warns of a tensor with a gradient that becomes a number; this file knows no torch.
    return float(value.detach() if hasattr(value, "detach") else value)


def _here() -> tuple[int, int]:
    """The process and thread; one that was forked has the channel of its parent."""
    return os.getpid(), threading.get_ident()

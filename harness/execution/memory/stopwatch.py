"""Seconds by stage without overlap, and what else a task costs: processor time and memory."""

from __future__ import annotations

import contextlib
import resource
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from harness.results.folder.accounting import STAGES

REST = STAGES[-1]  # the stage of all that no other one covers
ENCODE = "encode "  # and the name of a space of features
#: What ``Meter`` says of a task in which nothing was done.
UNMEASURED = {"cpu_s": 0.0, "peak_mb": 0.0, "gpu_mb": 0.0}
_MB = 1 << 20


class Stopwatch:
    """Seconds by stage. A stage that begins inside another stops the clock of that one.

    Whatever a thread other than the one that started it does is not counted: seconds are those of
    one clock, so that the stages of a task add up to the seconds it took.
    """

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._open: list[str] = [REST]
        self._since = time.perf_counter()
        self._thread = threading.get_ident()

    def start(self) -> None:
        """Forget everything: a task begins."""
        self._seconds, self._open = {}, [REST]
        self._thread = threading.get_ident()
        self._since = time.perf_counter()

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Seconds until the end are this stage's."""
        if threading.get_ident() != self._thread:
            yield
            return
        self._book()
        depth = len(self._open)
        self._open.append(name)
        try:
            yield
        finally:
            self._book()
            del self._open[depth:]

    def stop(self) -> dict[str, float]:
        """Seconds by stage since ``start``; they add up to the seconds since then."""
        self._book()
        return dict(self._seconds)

    def _book(self) -> None:
        now = time.perf_counter()
        name = self._open[-1]
        self._seconds[name] = self._seconds.get(name, 0.0) + now - self._since
        self._since = now


def by_stage(seconds: Mapping[str, float]) -> dict[str, float]:
    """``<stage>_s`` for each of ``STAGES``, and ``task_s``, what they add up to."""
    stages = dict.fromkeys(STAGES, 0.0)
    for name, value in seconds.items():
        stages["encode" if name.startswith(ENCODE) else name] += value
    return {f"{name}_s": value for name, value in stages.items()} | {"task_s": sum(stages.values())}


def by_pool(seconds: Mapping[str, float], asked: Mapping[str, int]) -> dict[str, tuple[int, float]]:
    """What tasks share in a worker: pictures ("decode") and spaces of features, by their name.

    Parameters
    ----------
    seconds : by stage, of a task
    asked : how many it asked for, made for it or there already, by the names of ``sharing.csv``

    Returns
    -------
    name -> how many were asked for, and the seconds it took to make those that were not there
    """
    pictures = asked.get("decode", 0) + asked.get("mask", 0)
    pools = {"decode": (pictures, seconds.get("decode", 0.0))} if pictures else {}
    spaces = {n.removeprefix(ENCODE) for n in seconds if n.startswith(ENCODE)}
    spaces |= {n for n in asked if n not in ("decode", "mask") and not n.startswith("read ")}
    return pools | {n: (asked.get(n, 0), seconds.get(ENCODE + n, 0.0)) for n in sorted(spaces)}


class Meter:
    """Processor seconds and peak memory of this process, task by task."""

    def __init__(self) -> None:
        self._cpu = _cpu_seconds()

    def start(self) -> None:
        """A task begins."""
        self._cpu = _cpu_seconds()
        # The kernel's high-water mark is of the whole life of a process unless it is set back.
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
        cuda = _cuda()
        if cuda is not None:
            cuda.reset_peak_memory_stats()

    def stop(self) -> dict[str, float]:
        """``cpu_s`` of all threads and ended children; ``peak_mb`` and ``gpu_mb``, megabytes."""
        cuda = _cuda()
        peak = 0.0 if cuda is None else float(cuda.max_memory_allocated()) / _MB
        return {"cpu_s": _cpu_seconds() - self._cpu, "peak_mb": _peak_mb(), "gpu_mb": peak}


def _cpu_seconds() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def _peak_mb() -> float:
    """The largest resident size since the mark was set back, or since the process began."""
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(x for x in lines if x.startswith("VmHWM")).split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _cuda() -> Any:
    """``torch.cuda`` where a plug-in has used it; else None: nothing is loaded to be measured."""
    torch = sys.modules.get("torch")
    cuda = getattr(torch, "cuda", None)
    return cuda if cuda is not None and cuda.is_initialized() else None

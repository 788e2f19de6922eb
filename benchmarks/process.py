"""A command watched from outside: its seconds, processor seconds, and the peak of each process."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

_EVERY = 0.1  # seconds between two looks at the processes
_TICK = os.sysconf("SC_CLK_TCK")


@dataclass
class Run:
    """What a command took."""

    wall: float = 0.0  # seconds from its start to its end
    cpu: float = 0.0  # processor seconds of all its processes, those of less than a look left out
    host_mb: float = 0.0  # peak of the process that was started
    worker_mb: float = 0.0  # peak of the largest of its descendants
    output: str = ""
    returncode: int = 0
    _seen: dict[int, tuple[float, float]] = field(default_factory=dict)  # pid: peak, seconds


def watched(
    command: Sequence[str], environment: Mapping[str, str] | None = None, limit: float = 3600.0
) -> Run:
    """Run a command to its end, watching it and all that it starts.

    Raises
    ------
    RuntimeError
        When it fails or takes longer than ``limit`` seconds; its last lines are told.
    """
    run = Run()
    began = time.perf_counter()
    child = subprocess.Popen(
        list(command),
        env=None if environment is None else dict(environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    over = threading.Event()
    watcher = threading.Thread(target=_watch, args=(child.pid, run, over), daemon=True)
    watcher.start()
    try:
        run.output = child.communicate(timeout=limit)[0]
    except subprocess.TimeoutExpired:
        child.kill()
        run.output = child.communicate()[0] + f"\nended after {limit:.0f} s"
    run.wall = time.perf_counter() - began
    over.set()
    watcher.join()
    run.returncode = child.returncode
    if child.returncode:
        tail = "\n".join(run.output.strip().splitlines()[-15:])
        raise RuntimeError(f"{' '.join(command)} ended with status {child.returncode}:\n{tail}")
    others = [peak for pid, (peak, _) in run._seen.items() if pid != child.pid]
    run.host_mb = run._seen.get(child.pid, (0.0, 0.0))[0]
    run.worker_mb = max(others, default=0.0)
    run.cpu = sum(seconds for _, seconds in run._seen.values())
    return run


def _watch(pid: int, run: Run, over: threading.Event) -> None:
    try:
        root = psutil.Process(pid)
    except psutil.NoSuchProcess:
        return
    while not over.wait(_EVERY):
        try:
            alive = [pid, *(child.pid for child in root.children(recursive=True))]
        except psutil.NoSuchProcess:
            return
        for one in alive:
            try:
                status = Path(f"/proc/{one}/status").read_text()
                times = Path(f"/proc/{one}/stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            peak = next((line for line in status.splitlines() if line.startswith("VmHWM")), "")
            if peak:
                seconds = (int(times[11]) + int(times[12])) / _TICK
                run._seen[one] = (int(peak.split()[1]) / 1024, seconds)

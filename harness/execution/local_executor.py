"""Workers as child processes of this machine, without Ray: quick to start, easy to debug.

One of them is the serial runner. What a worker survives here, Ray's survive too.
"""

from __future__ import annotations

import itertools
import os
import time
from dataclasses import dataclass
from multiprocessing.connection import wait

from harness.execution.executor import Attempts, Listener, Settings, Write
from harness.execution.forkserver import ForkServer, WorkerProcess
from harness.execution.schedule import Schedule
from harness.planning.task import Task


@dataclass
class _Slot:
    """A worker slot: the process that has it, and what it does."""

    name: str
    process: WorkerProcess
    ready: bool = False
    task: Task | None = None
    began: float = 0.0


class Executor:
    """Processes that do a schedule's tasks; they start, and load libraries, when this is made.

    Parameters
    ----------
    settings : how many workers and how they are treated
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._names = (f"worker-{i}" for i in itertools.count())
        self._deaths = 0  # of workers before their first task
        arguments = {"storage": settings.storage, "data_root": settings.data_root}
        self._fork_server = ForkServer(settings.environment(), settings.preload, arguments)
        count = settings.workers or max(1, (os.cpu_count() or 1) // settings.threads)
        self._slots = [self._slot() for _ in range(count)]

    def run(self, schedule: Schedule, write: Write, listener: Listener) -> None:
        """Do everything the schedule holds; see ``ray_executor.Executor.run``."""
        attempts = Attempts(schedule, listener, self._settings.attempts)
        while schedule.todo:
            wait([slot.process.pipe for slot in self._slots], 0.2)
            for i, slot in enumerate(self._slots):
                if not self._hear(slot, attempts):
                    self._slots[i] = self._slot()
            for slot in self._slots:
                if slot.ready and slot.task is None and (task := schedule.next(slot.name)):
                    listener.started(task, slot.name)
                    slot.task, slot.began = task, time.monotonic()
                    slot.process.start(write(task))
            if schedule.todo and all(s.ready and s.task is None for s in self._slots):
                raise RuntimeError(f"{len(schedule.todo)} tasks left and none ready")
            listener.tick()

    def close(self) -> None:
        """End the workers."""
        for slot in self._slots:
            slot.process.end()
        self._fork_server.close()

    def _hear(self, slot: _Slot, attempts: Attempts) -> bool:
        """Take what a slot has to say; False when its process is lost."""
        task, limit = slot.task, self._settings.time_limit
        try:
            if not slot.ready:
                slot.ready = slot.process.ready(0)
            elif task is not None and (outcome := slot.process.wait(0)) is not None:
                slot.task = None
                self._deaths = 0
                if not attempts.done(task, outcome):
                    slot.process.end()
                    return False
            elif task is not None and time.monotonic() - slot.began > limit:
                slot.process.end()
                attempts.died(task, f"exceeded the time limit of {limit:g} s")
                return False
        except (EOFError, ConnectionError):
            reason = slot.process.end(patience=2.0)  # its pipe closes a moment before it is gone
            if task is not None:
                attempts.died(task, f"its worker {reason}")
            else:
                self._deaths += 1
                if self._deaths > 3 * len(self._slots):
                    raise RuntimeError(f"workers do not start: one {reason}") from None
            return False
        return True

    def _slot(self) -> _Slot:
        return _Slot(next(self._names), self._fork_server.fork())

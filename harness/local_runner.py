"""Workers as child processes of this machine, without Ray: quick to start, easy to debug.

One of them is the serial runner. What a worker survives here, Ray's survive too.
"""

from __future__ import annotations

import itertools
import os
import time
from dataclasses import dataclass
from multiprocessing.connection import wait

from harness.plan import Task
from harness.process import Template, WorkerProcess
from harness.runner import Attempts, Listener, Order, Settings
from harness.schedule import Schedule


@dataclass
class _Seat:
    """A place for a worker: the process that has it, and what it does."""

    name: str
    process: WorkerProcess
    ready: bool = False
    task: Task | None = None
    began: float = 0.0


class Runner:
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
        self._template = Template(settings.environment(), settings.preload, arguments)
        count = settings.workers or max(1, (os.cpu_count() or 1) // settings.threads)
        self._seats = [self._seat() for _ in range(count)]

    def run(self, schedule: Schedule, write: Order, listener: Listener) -> None:
        """Do everything the schedule holds; see ``ray_runner.Runner.run``."""
        attempts = Attempts(schedule, listener, self._settings.attempts)
        while schedule.todo:
            wait([seat.process.pipe for seat in self._seats], 0.2)
            for i, seat in enumerate(self._seats):
                if not self._hear(seat, attempts):
                    self._seats[i] = self._seat()
            for seat in self._seats:
                if seat.ready and seat.task is None and (task := schedule.next(seat.name)):
                    listener.started(task, seat.name)
                    seat.task, seat.began = task, time.monotonic()
                    seat.process.start(write(task))
            if schedule.todo and all(s.ready and s.task is None for s in self._seats):
                raise RuntimeError(f"{len(schedule.todo)} tasks left and none ready")
            listener.tick()

    def close(self) -> None:
        """End the workers."""
        for seat in self._seats:
            seat.process.end()
        self._template.close()

    def _hear(self, seat: _Seat, attempts: Attempts) -> bool:
        """Take what a seat has to say; False when its process is lost."""
        task, limit = seat.task, self._settings.time_limit
        try:
            if not seat.ready:
                seat.ready = seat.process.ready(0)
            elif task is not None and (outcome := seat.process.wait(0)) is not None:
                seat.task = None
                self._deaths = 0
                attempts.done(task, outcome)
            elif task is not None and time.monotonic() - seat.began > limit:
                seat.process.end()
                attempts.died(task, f"exceeded the time limit of {limit:g} s")
                return False
        except (EOFError, ConnectionError):
            reason = seat.process.end(patience=2.0)  # its pipe closes a moment before it is gone
            if task is not None:
                attempts.died(task, f"its worker {reason}")
            else:
                self._deaths += 1
                if self._deaths > 3 * len(self._seats):
                    raise RuntimeError(f"workers do not start: one {reason}") from None
            return False
        return True

    def _seat(self) -> _Seat:
        return _Seat(next(self._names), self._template.fork())

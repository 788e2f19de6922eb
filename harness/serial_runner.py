"""One worker, one task at a time, in a child process: what it survives, Ray's workers do too."""

from __future__ import annotations

import time

from harness.process import WorkerProcess
from harness.runner import Attempts, Listener, Order, Settings
from harness.schedule import Schedule

NAME = "worker-0"


class Runner:
    """A child process that does a schedule's tasks; it starts when this is made.

    Parameters
    ----------
    settings : how the worker is treated; how many there should be is not asked
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._worker: WorkerProcess | None = self._start()

    def run(self, schedule: Schedule, write: Order, listener: Listener) -> None:
        """Do everything the schedule holds; see ``ray_runner.Runner.run``."""
        attempts = Attempts(schedule, listener, self._settings.attempts)
        limit = self._settings.time_limit
        while schedule.todo:
            task = schedule.next(NAME)
            if task is None:
                raise RuntimeError(f"{len(schedule.todo)} tasks left and none ready")
            self._worker = self._worker or self._start()
            listener.started(task, NAME)
            try:
                while not self._worker.ready(0.2):
                    listener.tick()
                began = time.monotonic()
                self._worker.start(write(task))
                while (outcome := self._worker.wait(0.2)) is None:
                    listener.tick()
                    if time.monotonic() - began > limit:
                        raise TimeoutError
                attempts.done(task, outcome)
            except TimeoutError:
                self.close()
                attempts.died(task, f"exceeded the time limit of {limit:g} s")
            except (EOFError, ConnectionError):
                attempts.died(task, f"its worker {self.close()}")

    def close(self) -> str:
        """End the worker; how it ended, in words."""
        worker, self._worker = self._worker, None
        return worker.end() if worker is not None else ""

    def _start(self) -> WorkerProcess:
        settings = self._settings
        arguments = {"storage": settings.storage, "data_root": settings.data_root}
        return WorkerProcess(settings.environment(), settings.preload, arguments)

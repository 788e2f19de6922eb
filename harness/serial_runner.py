"""One worker, one task at a time, in a child process: what it survives, Ray's workers do too."""

from __future__ import annotations

import time

from harness.process import WorkerProcess
from harness.runner import Attempts, Listener, Order, Settings
from harness.schedule import Schedule

NAME = "worker-0"


def run(schedule: Schedule, write: Order, settings: Settings, listener: Listener) -> None:
    """Do everything the schedule holds.

    Parameters
    ----------
    schedule : tasks to do; empty afterwards
    write : order of a task
    settings : how
    listener : told of every task begun, finished and lost
    """
    attempts = Attempts(schedule, listener, settings.attempts)
    arguments = {"storage": settings.storage, "data_root": settings.data_root}
    worker: WorkerProcess | None = None
    try:
        while schedule.todo:
            task = schedule.next(NAME)
            if task is None:
                raise RuntimeError(f"{len(schedule.todo)} tasks left and none ready")
            if worker is None:
                worker = WorkerProcess(settings.environment(), settings.preload, arguments)
            listener.started(task, NAME)
            began = time.monotonic()
            try:
                worker.start(write(task))
                while (outcome := worker.wait(0.2)) is None:
                    listener.tick()
                    if time.monotonic() - began > settings.time_limit:
                        raise TimeoutError
                attempts.done(task, outcome)
            except TimeoutError:
                worker.end()
                worker = None
                attempts.died(task, f"exceeded the time limit of {settings.time_limit:g} s")
            except (EOFError, ConnectionError):
                reason = worker.end()
                worker = None
                attempts.died(task, f"its worker {reason}")
    finally:
        if worker is not None:
            worker.end()

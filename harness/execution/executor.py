"""What both executors share: one signature, and the bookkeeping of attempts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from harness.execution.outcome import Outcome
from harness.execution.schedule import Schedule
from harness.planning.task import Payload, Task

#: Set before python starts in every worker. glibc returns memory and takes it again on each large
#: tensor, which makes the same task take twice as long on one day as on another; these stop it.
MALLOC = {
    "MALLOC_TRIM_THRESHOLD_": "100000000000",
    "MALLOC_MMAP_THRESHOLD_": "100000000000",
    "MALLOC_TOP_PAD_": "100000000",
}


@dataclass(frozen=True)
class Settings:
    """How a sweep is executed; none of it changes results."""

    storage: str
    data_root: str | None
    workers: int | None  # None: one per GPU, or one per core
    threads: int
    time_limit: float  # seconds, of one task
    attempts: int  # of a task whose worker dies
    gpus: float  # share of a GPU that the plan's tasks ask for at most
    address: str | None = None  # of a Ray cluster
    preload: tuple[str, ...] = ()  # libraries a worker imports while it starts

    def environment(self) -> dict[str, str]:
        """Environment of worker processes."""
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(self.threads))
        return MALLOC | threads


class Listener(Protocol):
    """Told what happens, in the driver, in the order it happens."""

    def started(self, task: Task, worker: str) -> None:
        """A worker begins a task."""

    def finished(self, task: Task, outcome: Outcome) -> None:
        """A task is done."""

    def failed(self, task: Task, outcome: Outcome, dropped: list[str]) -> None:
        """A task failed for good; dropped are its key and those of all that depends on it."""

    def lost(self, task: Task, reason: str) -> None:
        """A worker was lost with its task, which will be tried again."""

    def replaced(self, task: Task, reason: str) -> None:
        """A worker is replaced after a task that was done."""

    def tick(self) -> None:
        """Nothing happened for a moment."""


Write = Callable[[Task], Payload]  # what a worker is told of a task


@dataclass
class Attempts:
    """Counts what was tried, and says what becomes of a task whose worker was lost."""

    schedule: Schedule
    listener: Listener
    most: int
    tried: dict[str, int] = field(default_factory=dict)

    def done(self, task: Task, outcome: Outcome) -> bool:
        """A worker answered; whether it may be given another task.

        A damaged artifact has been removed by it: make that one again.
        """
        if outcome.key != task.key:  # as of a process that a plug-in forked
            self.died(task, "its worker answered for another task")
            return False
        if outcome.replace and not outcome.error:
            self.listener.replaced(task, outcome.replace)
        self._done(task, outcome)
        return not outcome.replace

    def _done(self, task: Task, outcome: Outcome) -> None:
        missing = [n for n in outcome.missing if n in task.needs]
        if missing and all(self._again(f"{task.key} lacks {n}", 2) for n in missing):
            self.schedule.redo(task.key, missing)
            self.listener.lost(task, outcome.error)
            return
        if outcome.again and self._again(task.key):
            self.schedule.release(task.key)
            self.listener.lost(task, outcome.error)
            return
        if outcome.error:
            self.listener.failed(task, outcome, self.schedule.fail(task.key))
        else:
            self.schedule.finish(task.key, outcome.stages.get("task_s", 0.0))
            self.listener.finished(task, outcome)

    def died(self, task: Task, reason: str) -> None:
        """The worker of a task died or was ended for exceeding the time limit."""
        if self._again(task.key):
            self.schedule.release(task.key)
            self.listener.lost(task, reason)
            return
        tried = self.tried[task.key]
        times = "once" if tried == 1 else f"{tried} times"
        outcome = Outcome(task.key, f"{reason} (tried {times})")
        self.listener.failed(task, outcome, self.schedule.fail(task.key))

    def _again(self, what: str, least: int = 1) -> bool:
        self.tried[what] = self.tried.get(what, 0) + 1
        return self.tried[what] < max(self.most, least)

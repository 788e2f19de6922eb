"""What an executor is, how it is set, and whom it tells."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from harness.execution.outcome import Outcome
from harness.tasks.task import Payload, Task

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
    relative: str = ""  # the storage as it was named, where that depends on the working folder
    preload: tuple[str, ...] = ()  # libraries a worker imports while it starts
    commit: str = ""  # of the checkout
    log_level: str | None = None  # of what plug-ins log
    memory: float | None = None  # gigabytes of a worker's caches; None: a share of the machine's

    def environment(self) -> dict[str, str]:
        """Environment of worker processes."""
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(self.threads))
        return MALLOC | threads

    def arguments(self) -> dict[str, Any]:
        """Of a ``Worker``, by name."""
        return {
            "storage": self.storage,
            "data_root": self.data_root,
            "commit": self.commit,
            "memory_gb": self.memory,
            "beside": self.workers,
            "threads": self.threads,
            "log_level": self.log_level,
        }


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

    def waits(self, worker: str, reason: str) -> None:
        """A worker without a task was lost; another is started later."""

    def told(self, task: Task, worker: str, text: str) -> None:
        """A task that is at work says how far it is."""

    def tick(self) -> None:
        """Nothing happened for a moment."""


Write = Callable[[Task], Payload]  # what a worker is told of a task


class Shares(NamedTuple):
    """Which tasks a worker takes: by the share of a GPU that they ask for."""

    most: float = math.inf
    least: float = 0.0


@dataclass(frozen=True)
class Event:
    """What a worker tells: that it is ready, or what became of its task; or that it was lost."""

    slot: int
    outcome: Outcome | None = None
    lost: str = ""  # how, in words that go on after "its worker"
    #: ended for want of memory on its node: its share, 0..1, of what was in use there
    memory: float | None = None
    text: str = ""  # how far its task is, which goes on


class Executor(Protocol):
    """Workers somewhere: started, given tasks, listened to, replaced, ended.

    Its workers are known by the number of their slot. Another kind of cluster is a class with these
    five functions, and an entry in ``EXECUTORS``; ``loop`` does the rest.
    """

    def start(self) -> Sequence[Shares]:
        """Start the workers, and say which tasks each takes; they are ready later."""

    def submit(self, slot: int, payload: Payload) -> None:
        """Hand a task to a worker that is ready and has none; ``poll`` tells if it is gone."""

    def poll(self, seconds: float) -> Sequence[Event]:
        """What happened since; waits so long at most if nothing did."""

    def restart(self, slot: int, after: float = 0.0) -> None:
        """End a worker, if it still runs, with its task, and start another in its place.

        ``after`` so many seconds: sooner its node would not bear it.
        """

    def close(self) -> None:
        """End the workers."""


#: Runner on the command line -> module and class.
EXECUTORS = {
    "serial": ("harness.execution.executors.local_executor", "LocalExecutor"),
    "local": ("harness.execution.executors.local_executor", "LocalExecutor"),
    "ray": ("harness.execution.executors.ray_executor", "RayExecutor"),
}


def load(runner: str, settings: Settings) -> Executor:
    """The executor of a runner, not yet started; its libraries are imported here."""
    module, name = EXECUTORS[runner]
    executor: Executor = getattr(importlib.import_module(module), name)(settings)
    return executor

"""Workers as Ray actors, on this machine or a cluster. The only file that imports ray.

The driver hands each actor one task at a time and keeps none of their data: orders are small,
artifacts go through the store. A lost actor is replaced and its task tried again.
"""

from __future__ import annotations

import importlib
import itertools
import os
import time
from dataclasses import dataclass
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError

from harness.plan import Task
from harness.runner import Attempts, Listener, Order, Settings
from harness.schedule import Schedule
from harness.worker import Outcome, Worker


class _Actor:
    """A worker, as an actor sees it."""

    def __init__(self, preload: tuple[str, ...], arguments: dict[str, Any]) -> None:
        for name in preload:
            try:
                importlib.import_module(name)
            except ImportError:
                continue  # whoever needs it will say so
        self._worker = Worker(**arguments)

    def ready(self) -> str:
        """Answer, once the constructor is through; the name of the node."""
        return str(ray.get_runtime_context().get_node_id())

    def run(self, order: dict[str, Any]) -> Outcome:
        """Do one task."""
        return self._worker.run(order)


@dataclass
class _Seat:
    """A place for a worker: the actor that has it, and what it does."""

    name: str
    actor: ActorHandle
    pending: Any  # what ray.wait waits for: being ready, or the outcome of the task
    task: Task | None = None
    began: float = 0.0


def connect(settings: Settings) -> None:
    """Join the cluster, or start one on this machine with as many cores as workers asked for."""
    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    address = settings.address or os.environ.get("RAY_ADDRESS")
    if address:
        ray.init(address=address, **quiet)
    else:
        # Processes started from here inherit the environment: no need to start them twice for it.
        os.environ.update(settings.environment())
        ray.init(num_cpus=settings.workers, include_dashboard=False, **quiet)


class Runner:
    """Actors that do a schedule's tasks; they start, and load libraries, when this is made.

    Parameters
    ----------
    settings : how many workers, where, and how they are treated
    """

    def __init__(self, settings: Settings) -> None:
        connect(settings)
        inherited = all(os.environ.get(k) == v for k, v in settings.environment().items())
        self._settings = settings
        self._variables = {} if inherited else settings.environment()
        self._share = _gpu_share(settings)
        self._names = (f"worker-{i}" for i in itertools.count())
        self._deaths = 0  # of workers before their first task: the cluster cannot run them
        self._seats = [self._seat() for _ in range(_count(settings, self._share))]

    def run(self, schedule: Schedule, write: Order, listener: Listener) -> None:
        """Do everything the schedule holds.

        Parameters
        ----------
        schedule : tasks to do; empty afterwards
        write : order of a task
        listener : told of every task begun, finished, failed and lost
        """
        attempts = Attempts(schedule, listener, self._settings.attempts)
        while schedule.todo:
            pending = [s.pending for s in self._seats if s.pending is not None]
            done, _ = ray.wait(pending, num_returns=1, timeout=0.2)
            for i, seat in enumerate(self._seats):
                if not self._hear(seat, seat.pending in done, attempts):
                    self._seats[i] = self._seat()
            for seat in self._seats:
                if seat.pending is None and (task := schedule.next(seat.name)):
                    seat.task, seat.began = task, time.monotonic()
                    seat.pending = seat.actor.run.remote(write(task))
                    listener.started(task, seat.name)
            if schedule.todo and all(s.pending is None for s in self._seats):
                raise RuntimeError(f"{len(schedule.todo)} tasks left and none ready")
            listener.tick()

    def close(self) -> None:
        """End the workers."""
        for seat in self._seats:
            ray.kill(seat.actor)

    def _hear(self, seat: _Seat, answered: bool, attempts: Attempts) -> bool:
        """Take what a seat has to say; False when its actor is lost."""
        task, limit = seat.task, self._settings.time_limit
        try:
            if answered:
                answer = ray.get(seat.pending)
                seat.pending = seat.task = None
                self._deaths = 0
                if task is not None:
                    attempts.done(task, answer)
            elif task is not None and time.monotonic() - seat.began > limit:
                ray.kill(seat.actor)
                attempts.died(task, f"exceeded the time limit of {limit:g} s")
                return False
        except RayError as error:
            ray.kill(seat.actor)
            if task is not None:
                attempts.died(task, f"its worker was lost: {_reason(error)}")
            else:
                self._deaths += 1
                if self._deaths > 3 * len(self._seats):
                    raise RuntimeError(f"workers do not start: {_reason(error)}") from error
            return False
        return True

    def _seat(self) -> _Seat:
        """A fresh actor; its environment is set before its python starts."""
        settings, share = self._settings, self._share
        options: dict[str, Any] = {"num_cpus": 0 if share else 1, "num_gpus": share}
        if self._variables:
            options["runtime_env"] = {"env_vars": self._variables}
        arguments = {"storage": settings.storage, "data_root": settings.data_root, "gpus": share}
        actor = ray.remote(_Actor).options(**options).remote(settings.preload, arguments)
        return _Seat(next(self._names), actor, actor.ready.remote())


def _gpu_share(settings: Settings) -> float:
    """Share of a GPU each worker gets: what the plan asks for, where the cluster has GPUs."""
    return min(settings.gpus, 1.0) if ray.cluster_resources().get("GPU", 0) else 0.0


def _count(settings: Settings, share: float) -> int:
    if settings.workers is not None:
        return settings.workers
    resources = ray.cluster_resources()
    if share:
        return max(1, int(resources["GPU"] / share))
    return max(1, int(resources.get("CPU", 1)) // settings.threads)


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__

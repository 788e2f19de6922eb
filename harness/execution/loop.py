"""Hands a schedule's tasks to an executor's workers until none is left: what all executors share.

Which task is next, what becomes of one whose worker was lost, how long one may take, and when to
give up because workers do not even start.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass

from harness.execution import shortage
from harness.execution.attempts import Attempts
from harness.execution.executors.executor import Event, Executor, Listener, Settings, Shares, Write
from harness.execution.schedule import Schedule
from harness.tasks.task import Task

WAIT = 0.2  # seconds after which the driver looks around though nothing happened
DEATHS = 3  # of each worker, before their first task, that are no accident


@dataclass
class _Slot:
    """A place for a worker: the one that has it now, and what that does."""

    shares: Shares
    worker: str  # its name; whoever replaces it has another
    ready: bool = False
    used: bool = False  # it has had a task
    task: Task | None = None
    began: float = 0.0
    starved: int = 0  # times in a row that those in its place were ended for want of memory


class Loop:
    """Runs schedules on the workers of an executor.

    Parameters
    ----------
    executor : whose workers were started
    shares : what its ``start`` returned
    settings : attempts and time limit
    """

    def __init__(self, executor: Executor, shares: Sequence[Shares], settings: Settings) -> None:
        self.executor, self._settings = executor, settings
        self._names = (f"worker-{i}" for i in itertools.count())
        self._slots = [_Slot(each, next(self._names)) for each in shares]
        self._deaths = 0  # of workers since one of them last did a task

    def run(self, schedule: Schedule, write: Write, listener: Listener) -> None:
        """Do everything the schedule holds.

        Parameters
        ----------
        schedule : tasks to do; empty afterwards
        write : payload of a task
        listener : told of every task begun, finished, failed and lost

        Raises
        ------
        Full
            A disk has no room; what is finished is in the store.
        RuntimeError
            Workers die again and again before they have done a task.
        """
        attempts = Attempts(schedule, listener, self._settings.attempts)
        while schedule.todo:
            for event in self.executor.poll(WAIT):
                if not event.text:
                    self._hear(event, attempts, listener)
                elif (slot := self._slots[event.slot]).task is not None:
                    listener.told(slot.task, slot.worker, event.text)
            self._end_late(attempts)
            attempts.wake(time.monotonic())
            self._hand_out(schedule, write, listener)
            idle = all(s.ready and s.task is None for s in self._slots)
            if schedule.todo and idle and not attempts.held:
                raise RuntimeError(f"{len(schedule.todo)} tasks left and none ready")
            listener.tick()

    def renew(self) -> None:
        """Have a fresh worker in the place of each that has had a task."""
        for i, slot in enumerate(self._slots):
            if slot.used:
                self._restart(i)

    def _hear(self, event: Event, attempts: Attempts, listener: Listener) -> None:
        slot = self._slots[event.slot]
        task = slot.task
        if event.memory is not None:
            self._restart_later(event, event.memory, attempts, listener)
        elif event.lost:
            if task is not None:
                attempts.died(task, f"its worker {event.lost}")
            else:
                self._count_death(event.lost)
            self._restart(event.slot)
        elif event.outcome is None:
            slot.ready = True
        elif task is not None:
            slot.task, slot.starved = None, 0
            self._deaths = 0
            if not attempts.done(task, event.outcome):
                self._restart(event.slot)

    def _restart_later(
        self, event: Event, share: float, attempts: Attempts, listener: Listener
    ) -> None:
        """Replace a worker that its node had no memory for, once others may have left some."""
        slot = self._slots[event.slot]
        times = slot.starved + 1
        if slot.task is not None:
            reason = f"its worker {event.lost}"
            wait = attempts.starved(slot.task, reason, share, times, time.monotonic())
        elif times > shortage.TRIES:
            raise RuntimeError(f"workers do not start: one {event.lost}")
        else:
            wait = shortage.pause(times)
            listener.waits(slot.worker, f"{event.lost}; the next starts in {wait:.0f} s")
        self._restart(event.slot, wait)
        self._slots[event.slot].starved = times

    def _count_death(self, how: str) -> None:
        # One may be unlucky. Where all die as often, whatever they load or lie on is to blame, and
        # to start others would go on forever.
        self._deaths += 1
        if self._deaths > DEATHS * len(self._slots):
            raise RuntimeError(f"workers do not start: one {how}")

    def _end_late(self, attempts: Attempts) -> None:
        """End workers whose task takes too long."""
        limit, now = self._settings.time_limit, time.monotonic()
        for i, slot in enumerate(self._slots):
            if slot.task is not None and now - slot.began > limit:
                task = slot.task
                self._restart(i)  # first: the task must not be done twice at once
                attempts.died(task, f"exceeded the time limit of {limit:g} s")

    def _hand_out(self, schedule: Schedule, write: Write, listener: Listener) -> None:
        for i, slot in enumerate(self._slots):
            if not slot.ready or slot.task is not None:
                continue
            task = schedule.next(slot.worker, *slot.shares)
            if task is not None:
                listener.started(task, slot.worker)
                slot.task, slot.began, slot.used = task, time.monotonic(), True
                self.executor.submit(i, write(task))

    def _restart(self, i: int, after: float = 0.0) -> None:
        # A new name, for the schedule remembers what the old worker had decoded and encoded.
        self._slots[i] = _Slot(self._slots[i].shares, next(self._names))
        self.executor.restart(i, after)

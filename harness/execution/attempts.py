"""What becomes of a task that was tried: done, tried again, or given up."""

from __future__ import annotations

from dataclasses import dataclass, field

from harness.execution import shortage
from harness.execution.executors.executor import Listener
from harness.execution.outcome import Outcome
from harness.execution.schedule import Schedule
from harness.storage.room import Full
from harness.tasks.task import Task


@dataclass
class Attempts:
    """Counts what was tried, and says what becomes of a task whose worker was lost.

    ``held`` has the tasks that are tried again later, and when.
    """

    schedule: Schedule
    listener: Listener
    most: int
    tried: dict[str, int] = field(default_factory=dict)
    held: dict[str, float] = field(default_factory=dict)

    def done(self, task: Task, outcome: Outcome) -> bool:
        """A worker answered; whether it may be given another task.

        A damaged artifact has been removed by it: make that one again.

        Raises
        ------
        Full
            A disk has no room: the next task would fare no better.
        """
        if outcome.key != task.key:  # as of a process that a plug-in forked
            self.died(task, "its worker answered for another task")
            return False
        if outcome.full:
            raise Full(outcome.full)
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
        if outcome.again and self._again(f"{task.key} again", 3):  # others may spoil it again
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

    def starved(self, task: Task, reason: str, share: float, times: int, now: float) -> float:
        """The worker of a task was ended, for its node ran short of memory; seconds to wait.

        Parameters
        ----------
        share : of the memory in use that the worker had, 0..1
        times : that workers in its place were ended so in a row, this one included
        now : seconds, by the clock of ``wake``
        """
        blamed = share >= shortage.BLAME
        starved = f"{task.key} starved"
        again = self._again(task.key) if blamed else self._again(starved, shortage.TRIES)
        tried = self.tried.get(task.key, 0), self.tried.get(starved, 0)
        wait = shortage.pause(max(sum(tried), times))
        if again:
            self.held[task.key] = now + wait
            self.listener.lost(task, f"{reason}; it waits {wait:.0f} s")
        else:
            outcome = Outcome(task.key, f"{reason} (tried {sum(tried)} times)")
            self.listener.failed(task, outcome, self.schedule.fail(task.key))
        return wait

    def wake(self, now: float) -> None:
        """Have tasks tried again that have waited."""
        for key in [key for key, due in self.held.items() if now >= due]:
            del self.held[key]
            self.schedule.release(key)

    def _again(self, what: str, least: int = 1) -> bool:
        self.tried[what] = self.tried.get(what, 0) + 1
        return self.tried[what] < max(self.most, least)

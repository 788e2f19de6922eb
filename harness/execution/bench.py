"""One cell in this process, for its author to look into: exceptions come through, streams work."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from harness.execution import seeding
from harness.execution.executor import Write
from harness.execution.outcome import Outcome
from harness.execution.worker import Worker
from harness.planning.task import Payload, Task
from harness.storage.store import Store


class Bench(Worker):
    """A worker that lets exceptions through, with the process they happened in."""

    def perform(self, payload: Payload) -> Outcome:
        """Do one task; whatever its plug-in raises is raised."""
        outcome = Outcome(payload.task.key)
        self.begin(payload)
        seeding.prepare(payload.imports, payload.threads)
        if payload.publishes or not self.store.has(payload.task.kind, payload.task.key):
            self._do(payload, outcome)
        else:
            outcome.reused = True
        self.watch.stop()
        return outcome


def perform(
    tasks: Iterable[Task], write: Write, bench: Bench, tell: Callable[[str], None]
) -> Outcome:
    """Do the tasks of a cell, in an order in which each comes after its needs; the last outcome."""
    outcome = Outcome("")
    for task in tasks:
        began = time.perf_counter()
        outcome = bench.perform(write(task))
        state = "was there" if outcome.reused else f"{time.perf_counter() - began:.2f} s"
        tell(f"{task.kind} {task.affinity}: {state}")
    return outcome


def lend(tasks: Iterable[Task], source: Store, target: Store) -> int:
    """Copy what earlier runs made before the cell's own predictions, such as customized models.

    What the cell itself computes (predictions and their evaluation) is never taken: that is what
    its author wants to see happen. Returns how many artifacts were copied.
    """
    copied = 0
    for task in tasks:
        own = task.final or not task.shared
        if not own and source.has(task.kind, task.key):
            arrays, meta = source.get(task.kind, task.key)
            target.put(task.kind, task.key, arrays, meta)
            copied += 1
    return copied

"""One cell in this process, for its author to look into: exceptions come through, streams work."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from harness.execution.executors.executor import Write
from harness.execution.outcome import Outcome
from harness.execution.process.work import do
from harness.execution.process.workshop import Workshop
from harness.storage.store import Store
from harness.tasks.task import Task


def perform(
    tasks: Iterable[Task], write: Write, shop: Workshop, tell: Callable[[str], None]
) -> Outcome:
    """Do the tasks of a cell, in an order in which each comes after its needs; the last outcome.

    Whatever a plug-in raises is raised, with the process it happened in.
    """
    outcome = Outcome("")
    for task in tasks:
        began = time.perf_counter()
        payload, outcome = write(task), Outcome(task.key)
        shop.begin(payload)
        outcome.reused = shop.has(payload)
        if not outcome.reused:
            # Not noted, as a worker does, is what changes: a debugger sets traces and handlers.
            shop.prepare(payload)
            do(payload, shop, outcome)
        shop.watch.stop()
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

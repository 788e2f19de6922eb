"""Repeats a random share of finished tasks, each in a fresh worker, and compares what they make.

Whatever a worker kept from other tasks, in memory or in its libraries, is not there in a fresh one:
a result that depended on it comes out different.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from harness import config
from harness.execution.executors.executor import Listener
from harness.execution.outcome import Outcome
from harness.execution.schedule import Schedule
from harness.execution.workers import Workers
from harness.keys import hashed
from harness.planning.payload import Payloads
from harness.results.folder.accounting import now
from harness.results.folder.repetition import Audit, Doubt
from harness.storage.store import Store
from harness.tasks.kinds import KINDS
from harness.tasks.references import PluginUse
from harness.tasks.task import Payload, Task


def audit(
    tasks: Mapping[str, Task],
    payloads: Payloads,
    store: Store,
    workers: Workers,
    share: float,
    seed: int,
) -> Audit:
    """Repeat some of the tasks whose artifact is in the store, and all they need.

    Parameters
    ----------
    tasks, payloads : of the plan
    share : of the finished tasks to repeat, 0..1; one at least
    seed : another one draws others
    """
    stored = {key for kind in KINDS for key in store.keys(kind)}
    finished = [key for key, task in tasks.items() if stored.issuperset({key, *task.needs})]
    chosen = draw(finished, share, seed)
    saw = Audit(share, seed, now(), len(finished))
    if chosen:
        listener = _Auditor(saw, payloads)
        schedule = Schedule(tasks, chosen, stored.difference(chosen))
        workers.renew()
        workers.run(schedule, listener.write, listener)
    return saw


def draw(keys: list[str], share: float, seed: int) -> list[str]:
    """A random share of the keys, rounded up: the same for one seed, whatever else there is."""
    count = math.ceil(share * len(keys) - 1e-9)
    return sorted(keys, key=lambda key: hashed("audit", seed, key))[:count]


class _Auditor(Listener):
    """Takes down what came of the repeated tasks."""

    def __init__(self, saw: Audit, payloads: Payloads) -> None:
        self._saw, self._payloads = saw, payloads
        self._deterministic: dict[str, bool] = {"": True}

    def write(self, task: Task) -> Payload:
        """The task's payload, to be done and compared."""
        return replace(self._payloads.write(task), repeat=True)

    def finished(self, task: Task, outcome: Outcome) -> None:
        self._saw.repeated += 1
        if outcome.differs:
            doubt = Doubt(task.key, self._words(task), "; ".join(outcome.differs))
            promised = self._promised(self._payloads.write(task).plugin)
            (self._saw.different if promised else self._saw.excused).append(doubt)

    def failed(self, task: Task, outcome: Outcome, dropped: list[str]) -> None:
        self._saw.repeated += 1
        doubt = Doubt(task.key, self._words(task), f"failed this time: {outcome.error}")
        self._saw.failed.append(doubt)

    def started(self, task: Task, worker: str) -> None:
        """Nothing to take down."""

    def lost(self, task: Task, reason: str) -> None:
        """It is tried again."""

    def replaced(self, task: Task, reason: str) -> None:
        """As each worker is."""

    def waits(self, worker: str, reason: str) -> None:
        """It has a successor."""

    def told(self, task: Task, worker: str, text: str) -> None:
        """Nothing to take down."""

    def tick(self) -> None:
        """Nothing to take down."""

    def _words(self, task: Task) -> str:
        names = self._payloads.names(task)
        whose = names.get("method") or names.get("generator") or ""
        words = [f"{task.kind} of {whose}" if whose else task.kind]
        if "category" in names:
            words.append(f"{names['dataset']}/{names['category']}")
        words += [f"{n} {names[n]}" for n in ("shots", "seed", "shard") if n in names]
        return ", ".join(words)

    def _promised(self, use: PluginUse | None) -> bool:
        """Whether the plug-in of a task promises to make the same each time."""
        if use is None:
            return True
        if use.id not in self._deterministic:
            plugin = config.build(use.role, use.use, dict(use.params))
            self._deterministic[use.id] = bool(getattr(plugin, "deterministic", True))
        return self._deterministic[use.id]

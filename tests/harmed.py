"""Sweeps of hostile methods and their victims, done by the engine's loop without any report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.errors import MESSAGE
from harness.execution.executors.executor import Settings, load
from harness.execution.loop import Loop
from harness.execution.outcome import Outcome
from harness.execution.schedule import Schedule
from harness.planning.payload import Payloads
from harness.run import prepare
from harness.running.options import Options
from harness.storage.store import Store
from harness.tasks.kinds import Predict
from harness.tasks.task import Task
from tests.sweeps import SQUARES, sweep, written

ANT = [{"use": SQUARES, "params": {"names": ["ant"]}}]


class Ends:
    """How the prediction of each method ended, by its label. Listens to the loop."""

    def __init__(self, labels: Mapping[str, str]) -> None:
        self._labels = labels  # of tasks
        self.errors: dict[str, str] = {}
        self.replaced_for: dict[str, str] = {}  # why its worker was replaced
        self.repeated: dict[str, str] = {}  # why it was tried again
        self.arrays: dict[str, dict[str, bytes]] = {}  # what it left

    def started(self, task: Task, worker: str) -> None:
        """Nothing to note."""

    def finished(self, task: Task, outcome: Outcome) -> None:
        self.errors[self._labels[task.key]] = ""

    def failed(self, task: Task, outcome: Outcome, dropped: list[str]) -> None:
        self.errors[self._labels[task.key]] = outcome.error

    def lost(self, task: Task, reason: str) -> None:
        self.repeated[self._labels[task.key]] = reason

    def replaced(self, task: Task, reason: str) -> None:
        self.replaced_for[self._labels[task.key]] = reason

    def told(self, task: Task, worker: str, text: str) -> None:
        """Nothing to note."""

    def tick(self) -> None:
        """Nothing to note."""


def predicted(
    folder: Path, methods: Sequence[Mapping[str, Any]], workers: int, seconds: float
) -> Ends:
    """Have each method predict one cell, each task tried once within so many seconds."""
    conf = written(folder / "conf.yaml", sweep(datasets=ANT, methods=list(methods)))
    ready = prepare(Options(conf=conf))
    tasks = ready.graph.tasks
    payloads = Payloads(ready.sweep, ready.inputs, ready.graph)
    labels = {k: payloads.names(t)["method"] for k, t in tasks.items() if isinstance(t, Predict)}
    storage = str(folder / "runs")
    settings = Settings(storage, None, workers, 1, seconds, 1, 0.0, preload=("torch",))
    executor = load("local", settings)
    ends = Ends(labels)
    try:
        Loop(executor, executor.start(), settings).run(
            Schedule(tasks, labels), payloads.write, ends
        )
    finally:
        executor.close()
    store = Store(storage)
    for key, label in labels.items():
        if not ends.errors[label]:
            arrays, _ = store.get(Predict.kind, key)
            ends.arrays[label] = {name: array.tobytes() for name, array in arrays.items()}
    return ends


def victims(count: int) -> list[dict[str, Any]]:
    """Methods whose figures depend on what a process shares; each its own, for none is reused."""
    return [
        {"use": "toys.hostile:Sensitive", "label": f"v{i}", "params": {"power": 1 + i / 100}}
        for i in range(count)
    ]


def faults(
    folder: Path, harms: Mapping[str, Any], workers: int = 1, seconds: float = 60.0
) -> tuple[dict[str, str], Ends]:
    """What is not right, by the name of a harm, in a sweep in which each is followed by a victim.

    Parameters
    ----------
    harms : name -> a harm of ``toys.harms``
    workers : 1: the victim is done by the worker that was harmed, or the one in its place
    seconds : that a task may take
    """
    innocent = victims(len(harms))
    methods: list[dict[str, Any]] = []
    for i, (name, victim) in enumerate(zip(harms, innocent, strict=True)):
        hostile = {"use": "toys.hostile:Harms", "label": f"h{i}", "params": {"how": name}}
        methods += [hostile, victim]
    calm = predicted(folder / "calm", innocent, 2, 60.0)
    rough = predicted(folder / "rough", methods, workers, seconds)
    wrong = {}
    for i, (name, harm) in enumerate(harms.items()):
        error = rough.errors[f"h{i}"]
        if harm.error not in error or bool(error) != bool(harm.error):
            wrong[name] = f"it ended with {error!r}, not {harm.error!r}"
        elif len(error) > MESSAGE + 100 or not error.isprintable():
            wrong[name] = f"not a line to show: {error!r}"
        elif rough.errors[f"v{i}"]:
            wrong[name] = f"its victim failed: {rough.errors[f'v{i}']}"
        elif rough.arrays[f"v{i}"] != calm.arrays[f"v{i}"]:
            wrong[name] = "the figures of its victim changed"
        elif harm.noticed and f"h{i}" not in rough.replaced_for:
            wrong[name] = "nobody noticed"
    return wrong, rough

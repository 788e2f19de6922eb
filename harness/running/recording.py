"""Records a sweep while it runs: results, costs and failures, to files, MLflow and terminal."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from harness.errors import described
from harness.execution.executors.channel import remaining
from harness.execution.keeping import Keeping
from harness.execution.memory.reuse import Sharing
from harness.execution.outcome import Outcome
from harness.planning.graph import Plan
from harness.planning.inputs import SweepInputs
from harness.planning.payload import Payloads
from harness.reporting.live.progress import Display
from harness.reporting.mlflow.tracking import Tracker
from harness.results.folder.accounting import PER_QUERY, WORK_S, ended, moment
from harness.results.folder.writer import ResultsWriter, written
from harness.storage.room import Full
from harness.tasks.kinds import Evaluate
from harness.tasks.task import Task


class Recorder:
    """What is written and shown of each task as it starts, ends or fails."""

    def __init__(
        self,
        inputs: SweepInputs,
        graph: Plan,
        payloads: Payloads,
        writer: ResultsWriter,
        tracker: Tracker,
        display: Display,
        keeping: Keeping,
    ) -> None:
        self._graph = graph
        self._inputs = inputs
        self._payloads = payloads
        self._writer = writer
        self._tracker = tracker
        self._display = display
        self._keeping = keeping
        self._who: dict[str, tuple[str, float]] = {}  # task that runs -> its worker, since when
        self._lost: dict[str, list[float]] = {}  # task -> seconds of tries in vain
        self.sharing = Sharing()
        self.problems: set[str] = set()  # met while recording

    def started(self, task: Task, worker: str) -> None:
        """A worker has begun with a task."""
        self._who[task.key] = worker, time.monotonic()
        self._display.started(task.key, f"{task.kind} {task.affinity}", worker)

    def finished(self, task: Task, outcome: Outcome) -> None:
        """Write down a task that is done and, where it is a result, the cells that have it."""
        with self._alone():
            self._record(task, outcome)
        if isinstance(task, Evaluate):
            timing: dict[str, Any] = {}
            with self._alone():
                timing = self._timing(task)
            for cell in self._payloads.cells_of(task.key):
                with self._alone():
                    row = {**outcome.row, "support_leaks": self._inputs.support_leaks(cell)}
                    self._writer.finish(cell, task.key, row, timing | outcome.files)
                    self._tracker.cell(written(cell), task.key, row, timing)
                    self._display.finished(cell, row)
        with self._alone():
            self._keeping.done(task)
        self.tick()

    def failed(self, task: Task, outcome: Outcome, dropped: list[str]) -> None:
        """Write down a task that failed, and the cells that have no result for that."""
        with self._alone():
            self._record(task, outcome)
            self._display.dropped(dropped)
        what = f"{task.kind} {task.affinity}"
        failure = {
            "task": what,
            "bad_data": outcome.bad_data,
            "error": outcome.error,
            "traceback": outcome.traceback,
        }
        for key in dropped:
            for cell in self._payloads.cells_of(key):
                with self._alone():
                    self._writer.fail(cell, key, failure)
                    self._tracker.failed(written(cell), key, failure)
                    self._display.failed(cell, f"{what}: {outcome.error}")
        self.tick()

    def lost(self, task: Task, reason: str) -> None:
        """A try led nowhere."""
        worker, since = self._who.pop(task.key, ("", time.monotonic()))
        self._display.lost(task.key, worker)
        self._lost.setdefault(task.key, []).append(time.monotonic() - since)
        self._display.note(f"{task.kind} {task.affinity}: {reason}; trying again")

    def replaced(self, task: Task, reason: str) -> None:
        """A worker is not what it was after a task."""
        self._display.note(f"{task.kind} {task.affinity}: {reason}; its worker is replaced")

    def waits(self, worker: str, reason: str) -> None:
        """A worker cannot start for now."""
        self._display.note(f"{worker} {reason}")

    def told(self, task: Task, worker: str, text: str) -> None:
        """A worker tells how far its task is."""
        self._display.told(worker, text, remaining(text))

    def tick(self) -> None:
        """Time has passed: write and show what is due."""
        with self._alone():
            self._writer.flush()
            self._display.tick()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """What goes wrong while one result is recorded or shown does not stop the others, unless
        nothing more can be written.
        """
        try:
            yield
        except Full:
            raise
        except Exception as error:
            self.problems.add(described(error))

    def _record(self, task: Task, outcome: Outcome) -> None:
        """Write down what a task cost that is over, one way or the other."""
        worker, since = self._who.pop(task.key, ("", time.monotonic()))
        lost = self._lost.pop(task.key, [])
        if not outcome.stages:  # its worker did not come back
            lost.append(time.monotonic() - since)
        tries = len(lost) + bool(outcome.stages)
        status = "failed" if outcome.error else "reused" if outcome.reused else "done"
        names = self._payloads.names(task) | {"worker": worker}
        self._writer.tasks.add(names, status, outcome.stages, outcome.pools, sum(lost), tries)
        self.sharing.add(worker, outcome.shared)
        self._display.worked(task.key, worker)

    def _timing(self, task: Task) -> dict[str, Any]:
        """Seconds by stage of a cell's own predictions and evaluation, in whichever run they were;
        what an unknown run has made is not in them.
        """
        records, tasks = self._writer.tasks.records, self._graph.tasks
        predicted = [records[key] for key in task.needs if key in records]
        before = {key for needed in task.needs for key in tasks[needed].needs}
        sooner = [records[k] for k in before if k in records and tasks[k].per_query]
        every = [*sooner, *predicted, records[task.key]]
        names = ("fit_s", "encode_s", "decode_s", "queries", "encoded", "decoded")
        total = {name: sum(r[name] for r in predicted) for name in names}
        total |= dict.fromkeys(WORK_S, 0.0)
        for record in (*sooner, *predicted):
            total[f"{record['kind']}_s"] += record["work_s"]
        total[f"{task.kind}_s"] = records[task.key]["seconds"]
        total |= {"cpu_s": sum(r["cpu_s"] for r in every)}
        total |= {name: max(r[name] for r in every) for name in ("peak_mb", "gpu_mb")}
        spent = sum(total[f"{part}_s"] for part in PER_QUERY)
        if spent:
            total["images_per_s"] = total["queries"] / spent
        times = {"started": min(r["started"] for r in every)}
        times["ended"] = moment(max(map(ended, every)))
        return {n: round(value, 4) for n, value in total.items()} | times

"""Results to MLflow. Only this file imports mlflow.

One run per sweep; below it one per group (method, dataset, shots), whose metrics have the shots for
steps; below that one per cell. A group of 8 shots has the points for 2 and 4 as well, so that to
compare groups shows lines. ``docs/mlflow.md`` says what to ask of it.

Only the driver logs, through a client with explicit run ids, in a thread of its own: parallel
writers race, and a server that is away must not hold up the sweep. What could not be logged is
logged by the next run of the sweep; results themselves are in files in any case.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import math
import os
import queue
import re
import tempfile
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import one_line, redacted
from harness.keys import Cell, hashed
from harness.reporting.lineage import Group, GroupKey, Lineage, curves, is_note
from harness.results.metrics import METRICS
from harness.storage.store import Store

EXPERIMENT = "few-shot anomaly detection"
#: Else the experiment opens on pages about language models, not on its runs and their charts.
KIND = {"mlflow.experimentKind": "custom_model_development"}
#: What MLflow refuses in names of metrics; labels may have + and =.
FORBIDDEN = re.compile(r"[^A-Za-z0-9_./ -]")
PATIENCE = 20.0  # seconds to try again while the server does not answer
RETRY = 60.0  # seconds after which it is tried again, as long as the sweep goes on
FAILED = "failed "  # before the key of a cell that has no result


@dataclass(frozen=True)
class _Cell:
    """A cell to log, with its result or, where there is none, why."""

    cell: Cell
    key: str
    row: Mapping[str, Any]
    timing: Mapping[str, Any]
    failure: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class _Close:
    """The end: means, costs, and the files to keep beside them."""

    summary: Sequence[Mapping[Any, Any]]
    costs: Sequence[Mapping[str, Any]]
    finished: bool
    files: Mapping[str, bytes]


class Tracker:
    """Logs a sweep to MLflow in the background.

    Parameters
    ----------
    store : where the sweep's folder is; run ids are kept in it, so that nothing is logged twice
    sweep : name of the sweep
    lineage : parameters and tags of its runs
    uri : tracking server; default sqlite in the storage folder, or MLFLOW_TRACKING_URI
    """

    def __init__(self, store: Store, sweep: str, lineage: Lineage, uri: str | None = None) -> None:
        local = f"sqlite:///{store.path('mlflow.db')}" if store.local else "sqlite:///mlflow.db"
        self.uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or local
        self.problem = ""  # why not everything is logged
        self._store, self._sweep, self._lineage = store, sweep, lineage
        own = store.local and not self.uri.startswith("http")
        self._artifacts = store.path("mlartifacts") if own else None  # a server decides itself
        self._file = f"{sweep}/mlflow.json"
        self._known: dict[str, Any] = {"uri": redacted(self.uri)}
        with contextlib.suppress(ValueError, OSError, RecursionError):  # damaged: log anew
            known = json.loads(store.read_text(self._file) or "{}")
            self._known = known if is_note(known, redacted(self.uri)) else self._known
        self._begun: dict[str, str] = {}  # cell -> run that was created and is not complete
        self._span: dict[GroupKey, list[int]] = {}  # when a group's cells began and ended, ms
        self._todo: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._todo.put(None)  # to connect takes seconds: while the workers start, too
        self._refused = ""  # what the server will not take, however often it is asked
        self._thread = threading.Thread(target=self._serve, name="mlflow", daemon=True)
        self._thread.start()

    def cell(self, cell: Cell, key: str, row: Mapping[str, Any], timing: Mapping[str, Any]) -> None:
        """Log a finished cell, once per key."""
        if self._logged(cell) != key:
            self._todo.put(_Cell(cell, key, dict(row), dict(timing)))

    def failed(self, cell: Cell, key: str, failure: Mapping[str, Any]) -> None:
        """Log a cell that has no result, and why; forgotten when it gets one."""
        if self._logged(cell) != FAILED + key:
            self._todo.put(_Cell(cell, FAILED + key, {}, {}, dict(failure)))

    def close(
        self,
        summary: Sequence[Mapping[Any, Any]],
        costs: Sequence[Mapping[str, Any]],
        finished: bool,
        files: Mapping[str, bytes],
    ) -> None:
        """Log means and costs to the groups, files to the sweep, and wait until all is logged.

        Parameters
        ----------
        summary, costs : rows of ``summary.csv`` and ``costs.csv``
        finished : whether every cell has a result
        files : path among the sweep's artifacts -> contents
        """
        self._todo.put(_Close(summary, costs, finished, files))
        self._thread.join()

    def _logged(self, cell: Cell) -> str:
        """Key of a cell's newest run."""
        return str(self._known.get("cells", {}).get(_name(cell), ["", ""])[1])

    def _serve(self) -> None:
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # two lines a run
        client, again = None, 0.0  # again: when a server that was away is tried next
        waiting: deque[Any] = deque()
        closing = False
        while not closing:
            with contextlib.suppress(queue.Empty):
                left = max(0.0, again - time.monotonic()) if waiting else None
                waiting.append(self._todo.get(timeout=left))
                closing = isinstance(waiting[-1], _Close)
            while waiting and (closing or time.monotonic() >= again):
                try:
                    client = client or self._persist(self._connect)
                    self._persist(lambda c=client: self._log(c, waiting[0]))
                    waiting.popleft()
                    self.problem = self._refused
                except Exception as error:  # whatever the server says: results are in files
                    self.problem = redacted(f"MLflow at {self.uri}: {one_line(error)}")
                    again = time.monotonic() + RETRY
                    if client is not None and refused(error):  # this one thing, for good
                        self._refused, again = self.problem, 0.0
                        waiting.popleft()
                    elif closing:
                        break
        try:
            self._note()
        except OSError as error:
            self.problem = self.problem or f"{self._store.path(self._file)}: {one_line(error)}"

    def _note(self) -> None:
        self._store.write(self._file, json.dumps(self._known, indent=1).encode())

    def _persist(self, action: Any) -> Any:
        """Do it, again and again while the server does not answer, for a while."""
        end = time.monotonic() + PATIENCE
        while True:
            try:
                return action()
            except Exception as error:
                if refused(error) or time.monotonic() > end:
                    raise
                time.sleep(1.0)

    def _connect(self) -> Any:
        import logging

        from mlflow import MlflowClient

        for name in ("alembic", "mlflow"):  # afterwards: the import sets levels of its own
            logging.getLogger(name).setLevel(logging.WARNING)
        client = MlflowClient(tracking_uri=self.uri)
        if "parent" in self._known:
            try:
                client.get_run(self._known["parent"])
                self._find(client)
                return client
            except Exception:  # the database was removed: log anew
                self._known = {"uri": redacted(self.uri)}
        experiment = client.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            self._known["experiment"] = client.create_experiment(EXPERIMENT, self._artifacts, KIND)
        else:
            self._known["experiment"] = experiment.experiment_id
            if experiment.lifecycle_stage == "deleted":
                client.restore_experiment(experiment.experiment_id)
        tags = {"harness.kind": "sweep", **self._tags()}
        run = client.create_run(self._known["experiment"], run_name=self._sweep, tags=tags)
        self._known |= {"parent": run.info.run_id, "groups": {}, "cells": {}}
        client.log_batch(run.info.run_id, params=_params(self._lineage.params))
        self._log_data(client, run.info.run_id, list(self._lineage.data))
        self._note()  # whoever is killed from here on finds the parent again
        return client

    def _find(self, client: Any) -> None:
        """Learn from the server which cells are logged, for the last run may have been killed."""
        tag, token = f"tags.`harness.sweep_run` = '{self._known['parent']}'", None
        cells: dict[str, list[str]] = {}  # the newest come first
        groups: dict[str, list[str]] = {}
        while True:
            page = client.search_runs(
                [self._known["experiment"]], tag, max_results=1000, page_token=token
            )
            for run in page:
                tags, run_id = run.data.tags, run.info.run_id
                if tags.get("harness.kind") == "group":
                    name = "|".join(tags.get(k, "") for k in GroupKey._fields)
                    groups.setdefault(name, [run_id, tags.get("harness.key", "")])
                elif run.info.status == "RUNNING" or run_id in self._known.get("purged", ()):
                    client.delete_run(run_id)
                else:
                    name = "|".join(tags.get(k, "") for k in Cell._fields)
                    cells.setdefault(name, [run_id, tags.get("harness.key", "")])
            token = page.token
            if not token:
                self._known["cells"] = self._known.get("cells", {}) | cells
                self._known["groups"] = self._known.get("groups", {}) | groups
                return

    def _log(self, client: Any, what: _Cell | _Close | None) -> None:
        if isinstance(what, _Cell):
            self._log_cell(client, what)
        elif what is not None:
            self._log_end(client, what)

    def _log_cell(self, client: Any, what: _Cell) -> None:
        cell, name, cells = what.cell, _name(what.cell), self._known["cells"]
        if cells.get(name, ["", ""])[1] == what.key:
            return
        key = GroupKey(cell.method, cell.dataset, cell.shots)
        began, ended = (_ms(what.timing.get(n)) for n in ("started", "ended"))
        group = self._group(client, key, began)
        if name not in self._begun:  # else the server was away in the middle of it
            tags = {
                "harness.kind": "cell",
                "harness.key": what.key,
                "mlflow.parentRunId": group,
                "status": str(what.row.get("status", "failed" if what.failure else "")),
                **{k: str(v) for k, v in cell._asdict().items()},
                **self._tags(),
            }
            title = f"{cell.method} {cell.dataset}/{cell.category} k{cell.shots} s{cell.seed}"
            self._begun[name] = self._create(client, title, tags, began)
        run_id = self._begun[name]
        params = {k: str(v) for k, v in cell._asdict().items()}
        params |= self._lineage.groups[key].params if key in self._lineage.groups else {}
        shown = {k: v for k, v in {**what.row, **what.timing}.items() if k not in cell._fields}
        client.log_batch(run_id, _metrics(shown, ended, cell.shots), _params(params))
        if what.failure is not None:
            self._log_failure(client, run_id, what.failure)
        client.set_terminated(run_id, "FAILED" if what.failure else "FINISHED", ended)
        old = cells.get(name)
        if old is not None and old[1].startswith(FAILED):
            client.delete_run(old[0])
        cells[name] = [self._begun.pop(name), what.key]
        span = self._span.setdefault(key, [began, ended])
        span[:] = min(span[0], began), max(span[1], ended)

    def _log_failure(self, client: Any, run_id: str, failure: Mapping[str, Any]) -> None:
        for name in ("error", "task", "bad_data"):
            client.set_tag(run_id, name, str(failure.get(name, ""))[:5000])
        if failure.get("traceback"):
            client.log_text(run_id, str(failure["traceback"]), "traceback.txt")

    def _group(self, client: Any, key: GroupKey, began: int) -> str:
        """Id of a group's run; a new one where its code, parameters or data have changed."""
        name, groups = "|".join(map(str, key)), self._known["groups"]
        group = self._lineage.groups.get(key, Group("", {}))
        if groups.get(name, ["", None])[1] != group.digest:
            tags = {
                "harness.kind": "group",
                "harness.key": group.digest,
                "mlflow.parentRunId": self._known["parent"],
                **{k: str(v) for k, v in key._asdict().items()},
                **self._tags(),
            }
            run_id = self._create(client, str(key), tags, began)
            client.log_batch(run_id, params=_params(group.params))
            self._log_data(client, run_id, [key.dataset])
            groups[name] = [run_id, group.digest]
        return str(groups[name][0])

    def _create(self, client: Any, title: str, tags: dict[str, str], began: int) -> str:
        tags["harness.sweep_run"] = self._known["parent"]
        run = client.create_run(self._known["experiment"], began, tags, title)
        return str(run.info.run_id)

    def _tags(self) -> dict[str, str]:
        """Of every run: whatever it is found by."""
        tags = {"harness.sweep": self._sweep, **self._lineage.tags}
        if tags.get("commit"):
            tags["mlflow.source.git.commit"] = tags["commit"]
        return tags

    def _log_data(self, client: Any, run_id: str, labels: Sequence[str]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        context = [InputTag("mlflow.data.context", "test")]
        data = self._lineage.data
        inputs = [
            DatasetInput(
                Dataset(
                    label,
                    each.digest,
                    "harness",
                    json.dumps({"homepage": each.source}),
                    profile=json.dumps(dict(each.profile)),
                ),
                context,
            )
            for label in labels
            if (each := data.get(label)) is not None
        ]
        if inputs:
            client.log_inputs(run_id, inputs)

    def _log_end(self, client: Any, what: _Close) -> None:
        parent = self._known["parent"]
        state = hashed(list(map(dict, what.summary)), what.finished, sorted(self._known["groups"]))
        if self._known.get("closed") != state:
            complete = {
                (r["method"], r["dataset"], r["shots"]): r["complete"] for r in what.summary
            }
            for key, points in curves(what.summary, what.costs).items():
                self._log_group(client, key, points, bool(complete[key]))
            now = int(time.time() * 1000)
            means: list[Any] = []
            for row in what.summary:
                stem = FORBIDDEN.sub("_", f"{row['method']}/{row['dataset']}")
                named = {f"{m}/{stem}": row[f"{m}_mean"] for m in METRICS if f"{m}_mean" in row}
                means += _metrics(named, now, int(row["shots"]))
            for start in range(0, len(means), 500):
                client.log_batch(parent, means[start : start + 500])
            self._log_files(client, what.files)
        client.set_terminated(parent, "FINISHED" if what.finished else "FAILED")
        self._known["closed"] = state

    def _log_group(
        self,
        client: Any,
        key: GroupKey,
        points: Mapping[int, Mapping[str, float]],
        complete: bool,
    ) -> None:
        """Means, spread and costs of a group, and of those with fewer shots before it."""
        known = self._known["groups"].get("|".join(map(str, key)))
        if known is None:
            return
        ended = self._span.get(key, [0, int(time.time() * 1000)])[1]
        for shots in sorted(points):
            client.log_batch(known[0], _metrics(points[shots], ended, shots))
        client.set_terminated(known[0], "FINISHED" if complete else "FAILED", ended)

    def _log_files(self, client: Any, files: Mapping[str, bytes]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            for name, contents in files.items():
                path = Path(folder) / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(contents)
            client.log_artifacts(self._known["parent"], folder)


def _name(cell: Cell) -> str:
    return "|".join(map(str, cell))


def _ms(moment: Any) -> int:
    """A time as the tables have it in MLflow's milliseconds; now where there is none."""
    if not moment:
        return int(time.time() * 1000)
    return int(datetime.datetime.fromisoformat(str(moment)).timestamp() * 1000)


def _metrics(values: Mapping[str, Any], moment: int, step: int) -> list[Any]:
    """Those of the values that are finite numbers, as MLflow's metrics."""
    from mlflow.entities import Metric

    pairs = ((n, v) for n, v in values.items() if isinstance(v, (int, float)))
    return [Metric(n, float(v), moment, step) for n, v in pairs if math.isfinite(v)]


def _params(values: Mapping[str, str]) -> list[Any]:
    from mlflow.entities import Param

    return [Param(FORBIDDEN.sub("_", name), value) for name, value in values.items()]


def refused(error: Exception) -> bool:
    """Whether the server answered, and that it will never take this."""
    return getattr(error, "error_code", "") == "INVALID_PARAMETER_VALUE"

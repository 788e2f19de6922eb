"""The runs of a sweep on an MLflow server. Only this file imports mlflow.

One run per sweep; below it one per group (method, dataset, shots), whose metrics have the shots for
steps; below that one per cell. A group of 8 shots has the points for 2 and 4 as well, so that to
compare groups shows lines. ``docs/mlflow.md`` says what to ask of it.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import math
import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import redacted
from harness.keys import Cell, hashed
from harness.reporting.mlflow.lineage import Group, GroupKey, Lineage, curves, is_note
from harness.results.metrics import METRICS
from harness.storage.store import Store

EXPERIMENT = "few-shot anomaly detection"
#: Else the experiment opens on pages about language models, not on its runs and their charts.
KIND = {"mlflow.experimentKind": "custom_model_development"}
#: What MLflow refuses in names of metrics; labels may have + and =.
FORBIDDEN = re.compile(r"[^A-Za-z0-9_./ -]")
FILES = "mlartifacts"  # folder of what is logged that is no number
#: Schemes of databases that MLflow's client opens by itself.
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
FAILED = "failed "  # before the key of a cell that has no result


@dataclass(frozen=True)
class CellRecord:
    """A cell to log, with its result or, where there is none, why."""

    cell: Cell
    key: str
    row: Mapping[str, Any]
    timing: Mapping[str, Any]
    failure: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Closing:
    """The end: means, costs, and the files to keep beside them."""

    summary: Sequence[Mapping[Any, Any]]
    costs: Sequence[Mapping[str, Any]]
    finished: bool
    files: Mapping[str, bytes]


class SweepRuns:
    """Makes and ends a sweep's runs, through a client with explicit ids.

    Every call may be repeated after it failed: what was logged is not logged again.

    Parameters
    ----------
    store : where the sweep's folder is; run ids are kept in it
    sweep : name of the sweep
    lineage : parameters and tags of its runs
    uri : of the server, or of a database
    """

    def __init__(self, store: Store, sweep: str, lineage: Lineage, uri: str) -> None:
        self.uri = uri
        self._store, self._sweep, self._lineage = store, sweep, lineage
        self._client: Any = None
        self._file = f"{sweep}/mlflow.json"
        self.path = store.path(self._file)  # of the ids that it keeps
        self._known: dict[str, Any] = {"uri": redacted(uri)}
        with contextlib.suppress(ValueError, OSError, RecursionError):  # damaged: log anew
            known = json.loads(store.read_text(self._file) or "{}")
            self._known = known if is_note(known, redacted(uri)) else self._known
        self._begun: dict[str, str] = {}  # cell -> run that was created and is not complete
        self._span: dict[GroupKey, list[int]] = {}  # when a group's cells began and ended, ms

    def logged(self, cell: Cell) -> str:
        """Key of a cell's newest run; empty where there is none."""
        return str(self._known.get("cells", {}).get(_name(cell), ["", ""])[1])

    def note(self) -> None:
        """Keep the ids of what is logged in the sweep's folder."""
        self._store.write(self._file, json.dumps(self._known, indent=1).encode())

    def connect(self) -> None:
        """Find the sweep's run on the server, or begin one. Nothing else may come before it."""
        import logging

        from mlflow import MlflowClient

        for name in ("alembic", "mlflow"):  # afterwards: the import sets levels of its own
            logging.getLogger(name).setLevel(logging.WARNING)
        client = self._client = MlflowClient(tracking_uri=self.uri)
        if "parent" in self._known:
            try:
                client.get_run(self._known["parent"])
                self._find()
                return
            except Exception as error:
                if not (refused(error) or _unknown(error)):
                    raise  # it does not answer, and may yet have the run
                self._known = {"uri": redacted(self.uri)}
        experiment = client.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            place = _artifacts(self.uri, self._store)
            self._known["experiment"] = client.create_experiment(EXPERIMENT, place, KIND)
        else:
            self._known["experiment"] = experiment.experiment_id
            if experiment.lifecycle_stage == "deleted":
                client.restore_experiment(experiment.experiment_id)
        tags = {"harness.kind": "sweep", **self._tags()}
        run = client.create_run(self._known["experiment"], run_name=self._sweep, tags=tags)
        self._known |= {"parent": run.info.run_id, "groups": {}, "cells": {}}
        client.log_batch(run.info.run_id, params=_params(self._lineage.params))
        self._log_data(run.info.run_id, list(self._lineage.data))
        self.note()  # whoever is killed from here on finds the parent again

    def _find(self) -> None:
        """Learn from the server which cells are logged, for the last run may have been killed."""
        tag, token = f"tags.`harness.sweep_run` = '{self._known['parent']}'", None
        cells: dict[str, list[str]] = {}  # the newest come first
        groups: dict[str, list[str]] = {}
        while True:
            page = self._client.search_runs(
                [self._known["experiment"]], tag, max_results=1000, page_token=token
            )
            for run in page:
                tags, run_id = run.data.tags, run.info.run_id
                if tags.get("harness.kind") == "group":
                    name = "|".join(tags.get(k, "") for k in GroupKey._fields)
                    groups.setdefault(name, [run_id, tags.get("harness.key", "")])
                elif run.info.status == "RUNNING" or run_id in self._known.get("purged", ()):
                    self._client.delete_run(run_id)
                else:
                    name = "|".join(tags.get(k, "") for k in Cell._fields)
                    cells.setdefault(name, [run_id, tags.get("harness.key", "")])
            token = page.token
            if not token:
                self._known["cells"] = self._known.get("cells", {}) | cells
                self._known["groups"] = self._known.get("groups", {}) | groups
                return

    def cell(self, what: CellRecord) -> None:
        """Log a cell: its result, or why it has none."""
        cell, name, cells = what.cell, _name(what.cell), self._known["cells"]
        if cells.get(name, ["", ""])[1] == what.key:
            return
        key = GroupKey(cell.method, cell.dataset, cell.shots)
        began, ended = (_ms(what.timing.get(n)) for n in ("started", "ended"))
        group = self._group(key, began)
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
            self._begun[name] = self._create(title, tags, began)
        run_id = self._begun[name]
        params = {k: str(v) for k, v in cell._asdict().items()}
        params |= self._lineage.groups[key].params if key in self._lineage.groups else {}
        shown = {k: v for k, v in {**what.row, **what.timing}.items() if k not in cell._fields}
        self._client.log_batch(run_id, _metrics(shown, ended, cell.shots), _params(params))
        if what.failure is not None:
            self._log_failure(run_id, what.failure)
        self._client.set_terminated(run_id, "FAILED" if what.failure else "FINISHED", ended)
        old = cells.get(name)
        if old is not None and old[1].startswith(FAILED):
            self._client.delete_run(old[0])
        cells[name] = [self._begun.pop(name), what.key]
        span = self._span.setdefault(key, [began, ended])
        span[:] = min(span[0], began), max(span[1], ended)

    def _log_failure(self, run_id: str, failure: Mapping[str, Any]) -> None:
        for name in ("error", "task", "bad_data"):
            self._client.set_tag(run_id, name, str(failure.get(name, ""))[:5000])
        if failure.get("traceback"):
            self._client.log_text(run_id, str(failure["traceback"]), "traceback.txt")

    def _group(self, key: GroupKey, began: int) -> str:
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
            run_id = self._create(str(key), tags, began)
            self._client.log_batch(run_id, params=_params(group.params))
            self._log_data(run_id, [key.dataset])
            groups[name] = [run_id, group.digest]
        return str(groups[name][0])

    def _create(self, title: str, tags: dict[str, str], began: int) -> str:
        tags["harness.sweep_run"] = self._known["parent"]
        run = self._client.create_run(self._known["experiment"], began, tags, title)
        return str(run.info.run_id)

    def _tags(self) -> dict[str, str]:
        """Of every run: whatever it is found by."""
        tags = {"harness.sweep": self._sweep, **self._lineage.tags}
        if tags.get("commit"):
            tags["mlflow.source.git.commit"] = tags["commit"]
        return tags

    def _log_data(self, run_id: str, labels: Sequence[str]) -> None:
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
            self._client.log_inputs(run_id, inputs)

    def close(self, what: Closing) -> None:
        """Log means and costs to the groups, means and files to the sweep, and end its run."""
        parent = self._known["parent"]
        state = hashed(list(map(dict, what.summary)), what.finished, sorted(self._known["groups"]))
        if self._known.get("closed") != state:
            complete = {
                (r["method"], r["dataset"], r["shots"]): r["complete"] for r in what.summary
            }
            for key, points in curves(what.summary, what.costs).items():
                self._log_group(key, points, bool(complete[key]))
            now = int(time.time() * 1000)
            means: list[Any] = []
            for row in what.summary:
                stem = FORBIDDEN.sub("_", f"{row['method']}/{row['dataset']}")
                named = {f"{m}/{stem}": row[f"{m}_mean"] for m in METRICS if f"{m}_mean" in row}
                means += _metrics(named, now, int(row["shots"]))
            for start in range(0, len(means), 500):
                self._client.log_batch(parent, means[start : start + 500])
            self._log_files(what.files)
        self._client.set_terminated(parent, "FINISHED" if what.finished else "FAILED")
        self._known["closed"] = state

    def _log_group(
        self,
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
            self._client.log_batch(known[0], _metrics(points[shots], ended, shots))
        self._client.set_terminated(known[0], "FINISHED" if complete else "FAILED", ended)

    def _log_files(self, files: Mapping[str, bytes]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            for name, contents in files.items():
                path = Path(folder) / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(contents)
            self._client.log_artifacts(self._known["parent"], folder)


def _artifacts(uri: str, store: Store) -> str | None:
    """Where a database's files go: beside it, or in the storage where it is a server's.

    None where MLflow knows by itself; of a database it would take the working folder.
    """
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        url = make_url(uri)
    except ArgumentError:  # a folder
        return None
    dialect = url.drivername.partition("+")[0]
    if dialect not in DATABASES:
        return None
    if dialect == "sqlite" and url.database and url.database != ":memory:":
        return str(Path(url.database).absolute().with_name(FILES))
    return store.path(FILES) if store.local else f"{store.root.rstrip('/')}/{FILES}"


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


def _unknown(error: Exception) -> bool:
    """Whether the server answered that it has no such run: the database is another."""
    return getattr(error, "error_code", "") == "RESOURCE_DOES_NOT_EXIST"


def refused(error: Exception) -> bool:
    """Whether the server answered, and that it will never take this."""
    return getattr(error, "error_code", "") == "INVALID_PARAMETER_VALUE"

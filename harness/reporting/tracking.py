"""Results to MLflow: one parent run per sweep, one child per cell. Only this file imports mlflow.

Only the driver logs, through a client with explicit run ids, in a thread of its own: parallel
writers race, and a server that is away must not hold up the sweep. What could not be logged is
logged by the next run of the sweep; results themselves are in files in any case.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import queue
import re
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from harness.errors import one_line
from harness.keys import Cell
from harness.storage.store import Store

EXPERIMENT = "few-shot anomaly detection"
#: What MLflow refuses in names of metrics; labels may have + and =.
FORBIDDEN = re.compile(r"[^A-Za-z0-9_./ -]")
PATIENCE = 20.0  # seconds to try again while the server does not answer
RETRY = 60.0  # seconds after which it is tried again, as long as the sweep goes on


class Tracker:
    """Logs a sweep to MLflow in the background.

    Parameters
    ----------
    store : where the sweep's folder is; run ids are kept in it, so that nothing is logged twice
    sweep : name of the sweep
    about : parameters of the parent run
    uri : tracking server; default sqlite in the storage folder, or MLFLOW_TRACKING_URI
    """

    def __init__(
        self, store: Store, sweep: str, about: Mapping[str, Any], uri: str | None = None
    ) -> None:
        local = f"sqlite:///{store.path('mlflow.db')}" if store.local else "sqlite:///mlflow.db"
        self.uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or local
        self.problem = ""  # why not everything is logged
        self._store, self._sweep, self._about = store, sweep, dict(about)
        self._artifacts = store.path("mlartifacts") if store.local else None
        self._file = f"{sweep}/mlflow.json"
        self._known: dict[str, Any] = {"uri": self.uri}
        with contextlib.suppress(ValueError):  # a damaged note of what is logged: log anew
            known = json.loads(store.read_text(self._file) or "{}")
            self._known = known if known.get("uri") == self.uri else self._known
        self._begun: dict[str, str] = {}  # cell -> run that was created and is not complete
        self._todo: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._todo.put(("connect",))  # takes seconds: while the workers start, too
        self._refused = ""  # what the server will not take, however often it is asked
        self._thread = threading.Thread(target=self._serve, name="mlflow", daemon=True)
        self._thread.start()

    def cell(self, cell: Cell, key: str, row: Mapping[str, Any], timing: Mapping[str, Any]) -> None:
        """Log a finished cell, once per key."""
        if self._known.get("cells", {}).get("|".join(map(str, cell)), ["", ""])[1] != key:
            self._todo.put(("cell", cell, key, dict(row), dict(timing)))

    def close(self, summary: Sequence[Mapping[Any, Any]], finished: bool) -> None:
        """Log the means to the parent run and wait until all is logged."""
        self._todo.put(("close", summary, finished))
        self._thread.join()

    def _serve(self) -> None:
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        client, again = None, 0.0  # again: when a server that was away is tried next
        waiting: deque[Any] = deque()
        closing = False
        while not closing:
            with contextlib.suppress(queue.Empty):
                left = max(0.0, again - time.monotonic()) if waiting else None
                waiting.append(self._todo.get(timeout=left))
                closing = waiting[-1][0] == "close"
            while waiting and (closing or time.monotonic() >= again):
                try:
                    client = client or self._persist(self._connect)
                    self._persist(lambda c=client: self._log(c, waiting[0]))
                    waiting.popleft()
                    self.problem = self._refused
                except Exception as error:  # whatever the server says: results are in files
                    self.problem = f"MLflow at {self.uri}: {one_line(error)}"
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
                self._known = {"uri": self.uri}
        found = client.get_experiment_by_name(EXPERIMENT)
        where = self._artifacts
        self._known["experiment"] = (
            found.experiment_id if found else client.create_experiment(EXPERIMENT, where)
        )
        tags = {"harness.kind": "sweep", "harness.sweep": self._sweep}
        run = client.create_run(self._known["experiment"], run_name=self._sweep, tags=tags)
        self._known["parent"] = run.info.run_id
        self._known["cells"] = {}
        for name, value in self._about.items():
            client.log_param(run.info.run_id, name, str(value)[:500])
        self._note()  # at once: whoever is killed from here on finds the parent again
        return client

    def _find(self, client: Any) -> None:
        """Learn from the server which cells are logged, for the last run may have been killed."""
        tag, token = f"tags.mlflow.parentRunId = '{self._known['parent']}'", None
        found: dict[str, list[str]] = {}  # the newest come first
        while True:
            page = client.search_runs(
                [self._known["experiment"]], tag, max_results=1000, page_token=token
            )
            for run in page:
                name = "|".join(str(run.data.tags.get(k, "")) for k in Cell._fields)
                key = run.data.tags.get("harness.key", "")
                if run.info.status != "FINISHED":
                    client.delete_run(run.info.run_id)
                else:
                    found.setdefault(name, [run.info.run_id, key])
            token = page.token
            if not token:
                self._known["cells"] |= found
                return

    def _log(self, client: Any, what: Any) -> None:
        from mlflow.entities import Metric, Param

        now = int(time.time() * 1000)

        def numbers(values: Mapping[str, Any]) -> list[Any]:
            pairs = ((n, v) for n, v in values.items() if isinstance(v, (int, float)))
            return [Metric(n, float(v), now, 0) for n, v in pairs if math.isfinite(v)]

        parent, cells = self._known["parent"], self._known["cells"]
        if what[0] == "connect":
            return
        if what[0] == "cell":
            _, cell, key, row, timing = what
            name = "|".join(map(str, cell))
            if cells.get(name, ["", ""])[1] == key:
                return
            tags = {
                "mlflow.parentRunId": parent,
                "harness.kind": "cell",
                "harness.sweep": self._sweep,
                "harness.key": key,
                "status": str(row.get("status", "")),
                **{k: str(v) for k, v in cell._asdict().items()},
            }
            title = f"{cell.method} {cell.dataset}/{cell.category} k{cell.shots} s{cell.seed}"
            if name not in self._begun:  # else the server was away in the middle of it
                run = client.create_run(self._known["experiment"], run_name=title, tags=tags)
                self._begun[name] = run.info.run_id
            run_id = self._begun[name]
            params = [Param(k, str(v)) for k, v in cell._asdict().items()]
            shown = {k: v for k, v in {**row, **timing}.items() if k not in cell._fields}
            client.log_batch(run_id, numbers(shown), params)
            client.set_terminated(run_id)
            cells[name] = [self._begun.pop(name), key]
            return
        _, summary, finished = what
        means = {}
        for row in summary:
            stem = FORBIDDEN.sub("_", f"{row['method']}/{row['dataset']}/k{row['shots']}")
            for metric in ("image_auroc", "image_auprc", "pixel_auroc", "pixel_aupro"):
                means[f"{stem}/{metric}"] = row[f"{metric}_mean"]
                means[f"{stem}/{metric}_std"] = row[f"{metric}_std"]
        logged = numbers(means)
        for start in range(0, len(logged), 500):
            client.log_batch(parent, logged[start : start + 500])
        client.set_terminated(parent, "FINISHED" if finished else "FAILED")


def refused(error: Exception) -> bool:
    """Whether the server answered, and that it will never take this."""
    return getattr(error, "error_code", "") == "INVALID_PARAMETER_VALUE"

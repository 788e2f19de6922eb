"""Results to MLflow, while the sweep goes on.

Only the driver logs, in a thread of its own: parallel writers race, and a server that is away must
not hold up the sweep. What could not be logged is logged by the next run of the sweep; results
themselves are in files in any case. What the runs look like is in ``reporting.mlflow.mlflow_runs``.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from harness.errors import one_line, redacted
from harness.keys import Cell
from harness.reporting.mlflow.lineage import Lineage
from harness.reporting.mlflow.mlflow_runs import FAILED, CellRecord, Closing, SweepRuns, refused
from harness.storage.room import exhausted
from harness.storage.store import Store

PATIENCE = 20.0  # seconds to try again while the server does not answer
SILENCE = 2.0  # seconds to wait for it at the end before that is said
RETRY = 60.0  # seconds after which it is tried again, as long as the sweep goes on


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
        self._runs = SweepRuns(store, sweep, lineage, self.uri)
        self._todo: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._todo.put(None)  # to connect takes seconds: while the workers start, too
        self._away = False  # it did not answer when it was last asked
        self._refused = ""  # what the server will not take, however often it is asked
        self._thread = threading.Thread(target=self._serve, name="mlflow", daemon=True)
        self._thread.start()

    def cell(self, cell: Cell, key: str, row: Mapping[str, Any], timing: Mapping[str, Any]) -> None:
        """Log a finished cell, once per key."""
        if self._runs.logged(cell) != key:
            self._todo.put(CellRecord(cell, key, dict(row), dict(timing)))

    def failed(self, cell: Cell, key: str, failure: Mapping[str, Any]) -> None:
        """Log a cell that has no result, and why; forgotten when it gets one."""
        if self._runs.logged(cell) != FAILED + key:
            self._todo.put(CellRecord(cell, FAILED + key, {}, {}, dict(failure)))

    def close(
        self,
        summary: Sequence[Mapping[Any, Any]],
        costs: Sequence[Mapping[str, Any]],
        finished: bool,
        files: Mapping[str, bytes],
        tell: Callable[[str], None] = lambda text: None,
    ) -> None:
        """Log means and costs to the groups, files to the sweep, and wait until all is logged.

        Parameters
        ----------
        summary, costs : rows of ``summary.csv`` and ``costs.csv``
        finished : whether every cell has a result
        files : path among the sweep's artifacts -> contents
        tell : is told if that takes long
        """
        self._todo.put(Closing(summary, costs, finished, files))
        self._thread.join(SILENCE)
        if self._thread.is_alive():
            what = "it does not answer" if self._away else "logging what is left"
            tell(f"waiting for MLflow at {redacted(self.uri)}: {what}; results are written already")
        self._thread.join()

    def _serve(self) -> None:
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # two lines a run
        connected, again = False, 0.0  # again: when a server that was away is tried next
        tried = False  # for as long as patience lasts, in vain: at the end once more will do
        waiting: deque[Any] = deque()
        closing = False
        while not closing:
            with contextlib.suppress(queue.Empty):
                left = max(0.0, again - time.monotonic()) if waiting else None
                waiting.append(self._todo.get(timeout=left))
                closing = isinstance(waiting[-1], Closing)
            while waiting and (closing or time.monotonic() >= again):
                try:
                    if not connected:
                        self._persist(self._runs.connect, 0.0 if tried else PATIENCE)
                        connected = True
                    self._persist(lambda: self._log(waiting[0]), PATIENCE)
                    waiting.popleft()
                    self.problem = self._refused
                except Exception as error:  # whatever the server says: results are in files
                    self.problem = redacted(f"MLflow at {self.uri}: {one_line(error)}")
                    again, tried = time.monotonic() + RETRY, True
                    if connected and refused(error):  # this one thing, for good
                        self._refused, again = self.problem, 0.0
                        waiting.popleft()
                    elif closing:
                        break
        try:
            self._runs.note()
        except OSError as error:
            self.problem = self.problem or f"{self._runs.path}: {one_line(error)}"

    def _log(self, what: CellRecord | Closing | None) -> None:
        if isinstance(what, CellRecord):
            self._runs.cell(what)
        elif what is not None:
            self._runs.close(what)

    def _persist(self, action: Callable[[], None], patience: float) -> None:
        """Do it, again and again while the server does not answer, for so many seconds."""
        end = time.monotonic() + patience
        while True:
            try:
                action()
                self._away = False
                return
            except Exception as error:
                self._away = True
                full = exhausted(error) or "disk is full" in str(error)  # as SQLite says it
                if refused(error) or full or time.monotonic() > end:
                    raise
                time.sleep(1.0)

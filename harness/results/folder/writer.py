"""A sweep's folder: what is finished, what failed, and the files that people read.

results.csv is written whole, again and again, as cells finish; with timings.csv, which names the
key of each cell's result, it is also the memory by which a sweep is resumed.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import re
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from harness.config.sweep import Sweep
from harness.errors import InputError, Problem, one_line, printable, redacted
from harness.keys import Cell
from harness.results.aggregate import CELL, FORMAT, csv_text, results_frame, summary_frame
from harness.results.folder import integrity, repetition
from harness.results.folder.accounting import WORK_S, Account, TaskBook, costs_text, read_tasks
from harness.results.folder.continuation import refusals
from harness.results.folder.seal import no_formula, opened, sealed, values_of
from harness.results.metrics import METRICS
from harness.storage.room import Full
from harness.storage.store import Store
from harness.tasks.kinds import Evaluate

if TYPE_CHECKING:
    import pandas as pd

NEWEST = 8  # sweeps of a storage whose tasks say what others take: it may hold hundreds
TIMINGS = [*CELL, "key", "fit_s", *WORK_S, "encode_s", "decode_s", f"{Evaluate.kind}_s", "queries"]
TIMINGS += ["images_per_s", "encoded", "decoded", "peak_mb", "gpu_mb", "cpu_s"]
TIMINGS += [integrity.column(kind) for kind in integrity.PUBLISHED]
TIMINGS += ["started", "ended", "own_s", "shared_s", "total_s", "whole_s", "gpu_s", "unknown_tasks"]
ANEW = "made anew as far as it can be"
_OTHER_TYPES = (AttributeError, TypeError, KeyError)
DIGEST_OF_SWEEP = re.compile(r"[0-9a-f]{64}")
FAILURES = [*CELL, "key", "task", "bad_data", "error", "traceback"]


class ResultsWriter:
    """Rows of finished and failed cells of one sweep.

    Parameters
    ----------
    store, sweep : where and which
    keys : cell -> key of the result it must have; finished rows of other keys are out of date

    Raises
    ------
    InputError
        The folder holds another sweep; it is left as it is.
    """

    def __init__(self, store: Store, sweep: Sweep, keys: Mapping[Cell, str]) -> None:
        self.store = store
        self.folder = sweep.name
        self._sweep = sweep
        self._expected = set(keys)
        self.damage: list[str] = []  # what was not as it was written: a line for each file
        self._check_same()
        self.rows: dict[Cell, dict[str, Any]] = {}
        self.timings: dict[Cell, dict[str, Any]] = {}
        self.failures: dict[Cell, dict[str, Any]] = {}
        self._read_rows(keys)
        for row in self._opened("failures.csv", {}):
            cell = _cell(row)
            if cell not in self.rows and row["key"] == keys.get(cell, row["key"]):
                self.failures[cell] = row
        self.tasks = self._taskbook()
        self._check_files()
        self.costs: list[dict[str, Any]] = []  # rows of costs.csv, once they are settled
        self._written = 0.0  # when, and how long writing takes: the two set the pace
        self._pause = 1.0
        self._dirty = False
        self._summary: pd.DataFrame | None = None  # of the rows as they are

    def begin(self, supports: Any, environment: Any, notes: Any, keys: Any = None) -> None:
        """Record what the sweep is and ran on; InputError when nothing can be written there, Full
        when only room is missing.

        What was found damaged is told on the way, for it is written anew from here on.
        """
        for line in self.damage:
            print(printable(line), file=sys.stderr)
        try:
            self._begin(supports, environment, notes, keys)
        except Full:
            raise
        except OSError as error:
            raise InputError(Problem(self.store.path(self.folder), one_line(error))) from None

    def _begin(self, supports: Any, environment: Any, notes: Any, keys: Any) -> None:
        dump = self._sweep.model_dump(mode="json")
        self.store.delete(f"{self.folder}/{integrity.MANIFEST}")  # until the run ends
        text = yaml.safe_dump(dump, sort_keys=False, allow_unicode=True)
        self._write("sweep.yaml", redacted(text))
        self._write("sweep.sha256", self._sweep.digest() + "\n")
        for name, value in (
            ("support.json", {**self._supports(), **supports}),
            ("environment.json", {"format": FORMAT, **environment}),
            ("notes.json", notes),
            ("keys.json", keys or {}),  # what they are made of, see ``planning.origins``
        ):
            text = json.dumps(value, indent=1, sort_keys=True) + "\n"
            self._write(name, text if name == "support.json" else redacted(text))

    def _supports(self) -> dict[str, Any]:
        """Those in the folder, of the sweep's datasets: some may be missing on this machine."""
        try:
            before = json.loads(self.store.read(f"{self.folder}/support.json"))
        except (OSError, ValueError):
            return {}
        labels = {str(entry.label) for entry in self._sweep.datasets}
        return {k: v for k, v in before.items() if k in labels} if isinstance(before, dict) else {}

    def finish(self, cell: Cell, key: str, row: dict[str, Any], timing: dict[str, Any]) -> None:
        """A cell has its result."""
        self.failures.pop(cell, None)
        self.rows[cell] = {**cell._asdict(), **row}
        self.timings[cell] = {**cell._asdict(), "key": key, **timing}
        self._dirty, self._summary = True, None

    def fail(self, cell: Cell, key: str, failure: Mapping[str, Any]) -> None:
        """A cell will have no result in this run."""
        self.rows.pop(cell, None)
        self.failures[cell] = {**cell._asdict(), "key": key, **failure}
        self._dirty, self._summary = True, None

    def flush(self, final: bool = False) -> None:
        """Write the tables, now and then, or at the end at once.

        Raises
        ------
        Full
            There is no room.
        OSError
            At the end only: until then, what cannot be written is tried again.
        """
        now = time.monotonic()
        if not final and (not self._dirty or now - self._written < self._pause):
            return
        try:
            self._flush(final)
            self._dirty = False
        except OSError as error:
            if final or isinstance(error, Full):
                raise
        self._written = time.monotonic()
        self._pause = max(1.0, 20 * (self._written - now))

    def _flush(self, final: bool) -> None:
        frame = results_frame(self.rows.values())
        results = csv_text(frame)
        self._write("results.csv", results)
        timings = _csv(TIMINGS, self.timings)
        self._write("timings.csv", sealed(timings, CELL, values_of(results, CELL)))
        self._write("tasks.csv", self.tasks.text())
        if self.failures:
            self._write("failures.csv", sealed(_csv(FAILURES, self.failures), CELL, {}))
        else:
            self.store.delete(f"{self.folder}/failures.csv")
        if final:
            self._write("summary.csv", csv_text(self.summary()))

    def settle(self, keys: Mapping[Cell, str], needs: Mapping[str, Sequence[str]]) -> None:
        """Divide what tasks cost among the cells that have a result.

        Parameters
        ----------
        keys : cell -> key of its result
        needs : key of a task -> keys of those it needs
        """
        cells = {cell: key for cell, key in keys.items() if cell in self.rows}
        account = Account(cells, needs, self.tasks.records)
        unknown = account.needed() - self.tasks.records.keys()
        if unknown:
            self._adopt(unknown)
            account = Account(cells, needs, self.tasks.records)
        for cell in cells:
            cost = {n: round(value, 6) for n, value in account.cell(cell).items()}
            self.timings[cell] |= cost
        queries = {
            cell: int(row["n_normal"]) + int(row["n_anomalous"]) for cell, row in self.rows.items()
        }
        self.costs = account.rows(queries)
        self._write("costs.csv", costs_text(self.costs))

    def earlier(self) -> list[dict[str, Any]]:
        """Records of earlier runs' tasks: of the newest other sweeps here, then of this one."""
        records: list[dict[str, Any]] = []
        for name in [n for n in self.store.written("tasks.csv") if n != self.folder][-NEWEST:]:
            with contextlib.suppress(KeyError, TypeError, ValueError):  # damaged: not ours
                records += read_tasks(self.store.read_text(f"{name}/tasks.csv") or "")
        return records + list(self.tasks.records.values())

    def _adopt(self, unknown: set[str]) -> None:
        """Take records of these tasks from other sweeps of the storage, which made them."""
        for name in self.store.folders("tasks.csv"):
            if name != self.folder and unknown:
                text = self.store.read_text(f"{name}/tasks.csv") or ""
                with contextlib.suppress(KeyError, TypeError, ValueError):  # damaged: not ours
                    unknown = unknown - self.tasks.adopt(text, unknown)

    def summary(self) -> pd.DataFrame:
        """Means over categories and seeds; what the plan has and the rows lack is named in it."""
        import pandas as pd

        if self._summary is None:
            cells = pd.DataFrame(sorted(self._expected | set(self.rows)), columns=list(CELL))
            self._summary = summary_frame(results_frame(self.rows.values()), cells)
        return self._summary

    def _check_same(self) -> None:
        digest = self._text("sweep.sha256").strip()
        if not digest or digest == self._sweep.digest():
            return
        path = self.store.path(self.folder)
        reasons = ["its sweep.yaml cannot be read"]
        same = not DIGEST_OF_SWEEP.fullmatch(digest)  # nothing there says that it is another
        # What is damaged may be anything, at any depth.
        with contextlib.suppress(yaml.YAMLError, ValueError, RecursionError, *_OTHER_TYPES):
            old, new = yaml.safe_load(self._text("sweep.yaml")), self._sweep.model_dump(mode="json")
            reasons, same = refusals(old, new), old == new
        if same:
            self.damage.append(f"{path}/sweep.sha256: damaged; written anew")
            return
        if not reasons:
            return
        message = (
            "holds the results of another configuration and is left as it is: "
            f"{'; '.join(reasons)}. What is gone can be left in (--only chooses); what differs "
            "needs a label of its own, or a sweep of another name (finished work is shared)"
        )
        raise InputError(Problem(path, message))

    def _read_rows(self, keys: Mapping[Cell, str]) -> None:
        """Take the finished rows that are what was written, and still what the plan wants."""
        text = self._text("results.csv")
        try:
            values = values_of(text, CELL)
            results = [*csv.DictReader(io.StringIO(text, newline=""))]
        except (csv.Error, KeyError, TypeError):
            values, results = {}, []
        timings = {_cell(t): t for t in self._opened("timings.csv", values)}
        lost = 0
        for row in results:
            try:
                cell, typed = _cell(row), _typed(row)
            except (KeyError, TypeError, ValueError):
                lost += 1
                continue
            timing = timings.get(cell)
            if timing and timing["key"] == keys.get(cell, timing["key"]):
                self.rows[cell] = typed
                self.timings[cell] = timing
        if lost or (text and not results and timings):
            self._damaged("results.csv", lost)

    def _check_files(self) -> None:
        """Find what else is not what was written: files of the folder, tables and galleries."""
        folder = self.store.path(self.folder)
        wrong = integrity.altered(lambda name: self.store.read(f"{self.folder}/{name}"))
        wrong = [name for name in wrong if not any(name in line for line in self.damage)]
        if wrong:
            self.damage.append(integrity.told(folder, wrong, ANEW, len(wrong)))
        for name in {*wrong} & {"sharing.csv", repetition.FILE}:
            self.store.delete(f"{self.folder}/{name}")  # of an earlier run: it cannot be
        cells = [*self.timings]
        rows = [self.timings[cell] for cell in cells]
        if self.store.local:
            damaged = integrity.published(Path(folder), rows)
        else:
            damaged = integrity.published_far(self.store, self.folder, rows)
        if damaged:
            names = (name for name, _ in damaged)
            self.damage.append(integrity.told(folder, names, "made anew"))
        for cell in {cells[place] for _, place in damaged}:
            del self.rows[cell], self.timings[cell]

    def _opened(self, name: str, beside: Mapping[tuple[str, ...], list[str]]) -> list[Any]:
        """Rows of a table that are what was written; the others are told and left out."""
        rows, damaged = opened(self._text(name), CELL, beside)
        if damaged:
            self._damaged(name, damaged)
        return rows

    def _damaged(self, name: str, rows: int) -> None:
        # Digests of results stand in timings.csv: which of the two was changed they do not tell.
        both = "results.csv, timings.csv" if name in ("results.csv", "timings.csv") else name
        path = self.store.path(f"{self.folder}/{both}")
        noun = "row is" if rows == 1 else "rows are"
        self.damage.append(f"{path}: damaged, {rows} {noun} not what was written; made anew")

    def _text(self, name: str) -> str:
        """Text of a file, "" where there is none; InputError where it cannot be one."""
        path = self.store.path(f"{self.folder}/{name}")
        try:
            return self.store.read(f"{self.folder}/{name}").decode("utf-8", "replace")
        except FileNotFoundError:
            return ""
        except IsADirectoryError:
            message = "expected a file, there is a folder; move it away"
            raise InputError(Problem(path, message)) from None
        except OSError as error:
            raise InputError(Problem(path, one_line(error))) from None

    def _taskbook(self) -> TaskBook:
        try:
            book = TaskBook(self._text("tasks.csv") or None, self.folder)
            if book.damaged:
                path = self.store.path(f"{self.folder}/tasks.csv")
                rows = "1 row is" if book.damaged == 1 else f"{book.damaged} rows are"
                self.damage.append(f"{path}: damaged, {rows} not what was written; left out")
            return book
        except (KeyError, TypeError, ValueError, AttributeError, csv.Error):
            path = self.store.path(f"{self.folder}/tasks.csv")
            self.damage.append(f"{path}: damaged; begun anew: what earlier tasks cost is lost")
            return TaskBook(None, self.folder)

    def _write(self, name: str, text: str) -> None:
        self.store.write_text(f"{self.folder}/{name}", text)


def _cell(row: Mapping[str, Any]) -> Cell:
    return Cell(row["method"], row["dataset"], row["category"], int(row["shots"]), int(row["seed"]))


def _named(row: dict[str, Any]) -> dict[str, Any]:
    """A row as it is; an error when it is not whole."""
    _cell(row)
    if None in row or None in row.values():
        raise ValueError("more or fewer values than columns")
    return row


def _typed(row: dict[str, Any]) -> dict[str, Any]:
    """A row of results.csv with numbers again, None where it is empty."""
    _named(row)
    numbers = {name: float(row[name]) if row.get(name) else None for name in METRICS}
    counts = {name: int(row[name]) for name in ("shots", "seed", "n_normal", "n_anomalous")}
    beside: dict[str, Any] = {
        name: int(row[name]) if row.get(name) else None for name in ("n_vanished", "support_leaks")
    }
    beside["trivial_auroc"] = float(row["trivial_auroc"]) if row.get("trivial_auroc") else None
    return {**row, **numbers, **counts, **beside}


def _csv(columns: list[str], rows: Mapping[Cell, Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for cell in sorted(rows):
        writer.writerow({name: no_formula(value) for name, value in rows[cell].items()})
    return text.getvalue()


def written(cell: Cell) -> Cell:
    """A cell as texts have it: what UTF-8 lacks is escaped."""
    names = ("method", "dataset", "category")
    words = {n: getattr(cell, n).encode(errors="backslashreplace").decode() for n in names}
    return cell._replace(**words)


def numbers(timing: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers of a row of timings.csv, and when it began and ended."""
    out = {name: timing.get(name) for name in ("started", "ended")}
    for name, value in timing.items():
        try:
            out[name] = float(value)
        except (TypeError, ValueError):
            continue
    return out

"""What a sweep cost: one record per task, and what of it each cell has to bear.

A task that several cells need is borne by them in equal parts. What tasks of a worker share without
being a task (decoded pictures, encodings, plug-ins made ready) costs whoever asked first; here it
is borne by all who asked, in proportion, so that a method does not look cheap because another one
ran before it. Nothing is borne twice and nothing is left: the cells' totals add up to the tasks'.
"""

from __future__ import annotations

import csv
import datetime
import io
import json
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from harness.keys import Cell
from harness.results.folder.seal import DIGEST, opened, sealed
from harness.tasks.kinds import KINDS

#: Where the seconds of a task go: making plug-ins ready, reading artifacts, decoding images,
#: encoding them, fitting, what the task's kind is called after, writing its artifact, the rest.
STAGES = ("setup", "read", "decode", "encode", "fit", "work", "write", "other")
SECONDS = tuple(f"{stage}_s" for stage in STAGES)
_COUNTS = ("tries", "queries", "encoded", "decoded")
_PLACES = ("shots", "seed", "shard")  # "" where a task has none
_NAMES = ("method", "generator", "dataset", "category", *_PLACES)
_NUMBERS = ("seconds", *SECONDS, "idle_s", "lost_s", "cpu_s", "peak_mb", "gpu_mb", "gpus")
TASKS = ["key", "kind", "affinity", "method", "generator", "dataset", "category", "shots", "seed"]
TASKS += ["shard", "status", "sweep", "worker", "tries", "started", *_NUMBERS]
TASKS += ["queries", "encoded", "decoded", "pools"]
#: Stages of a cost: those of ``STAGES`` that every task has, what tasks are called after, and what
#: went into tries that led nowhere.
WORK = tuple(KINDS)
PARTS = ("setup", "read", "decode", "encode", "fit", *WORK, "write", "other", "lost")
#: Of those, what a further query of a category that was learned already costs.
PER_QUERY = ("decode", "encode", *(name for name, task in KINDS.items() if task.per_query))
#: ... and how the tables of cells call the seconds of tasks of which that is the work.
WORK_S = tuple(f"{name}_s" for name, task in KINDS.items() if task.per_query)
COSTS = ["method", "dataset", "shots", "cells", "queries", "unknown_tasks"]
COSTS += [f"{part}_{unit}" for unit in ("ms", "gpu_ms") for part in (*PARTS, "total")]

Record = dict[str, Any]


class TaskBook:
    """Records of tasks by key, over all runs of a sweep; ``tasks.csv``.

    Parameters
    ----------
    text : the table as an earlier run left it
    sweep : name of the sweep, told of each record, for a book may take in records of other sweeps

    Raises
    ------
    ValueError, KeyError, TypeError
        When the text is not a whole table.
    """

    def __init__(self, text: str | None, sweep: str) -> None:
        self._sweep = sweep
        self.damaged = 0  # rows that are not what was written, and left out
        if text and text.partition("\n")[0].endswith(f",{DIGEST}"):
            rows, self.damaged = opened(text, ["key"], {})
        else:
            rows = [*csv.DictReader(io.StringIO(text or "", newline=""))]
        self.records: dict[str, Record] = {r["key"]: r for r in map(_record, rows)}

    def add(
        self,
        names: Mapping[str, Any],
        status: str,
        stages: Mapping[str, float],
        pools: Mapping[str, tuple[int, float]],
        lost: float,
        tries: int,
    ) -> Record:
        """A task is over.

        Parameters
        ----------
        names : its key, kind, affinity, shots, seed, shard, worker, and its method, generator,
            dataset and category as far as it has them
        status : done, reused or failed
        stages, pools : the worker's; empty where it did not come back
        lost : seconds of earlier tries in this run
        tries : how many there were, this one included
        """
        old = self.records.get(names["key"])
        idle = 0.0
        if old is not None and old["sweep"] == self._sweep:  # what it took then was spent, too
            lost, tries, idle = lost + old["lost_s"], tries + old["tries"], old["idle_s"]
            if status == "reused" and old["status"] == "done":
                old["lost_s"], old["tries"] = lost + stages.get("task_s", 0.0), tries
                old["idle_s"] += stages.get("idle_s", 0.0)
                return old
            lost += old["seconds"]
        started = stages.get("started")
        record: Record = {
            **dict.fromkeys(_NAMES, ""),
            **names,
            "status": status,
            "sweep": self._sweep,
            "tries": tries,
            "started": "" if started is None else moment(started),
            **{name: stages.get(name, 0.0) for name in _NUMBERS},
            "seconds": stages.get("task_s", 0.0),
            "idle_s": idle + stages.get("idle_s", 0.0),
            "lost_s": lost,
            **{name: int(stages.get(name, 0)) for name in ("queries", "encoded", "decoded")},
            "pools": dict(pools),
        }
        self.records[names["key"]] = record
        return record

    def adopt(self, text: str, keys: Collection[str]) -> set[str]:
        """Take the records of these tasks out of another sweep's table; the keys it had."""
        held = {r["key"]: r for r in read_tasks(text) if r["key"] in keys and r["status"] == "done"}
        self.records |= held
        return set(held)

    def text(self) -> str:
        """The table as CSV, in the order in which tasks began."""
        out = io.StringIO()
        writer = csv.DictWriter(out, TASKS, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        for record in sorted(self.records.values(), key=lambda r: (r["started"], r["key"])):
            shown = {name: f"{record[name]:.6g}" for name in _NUMBERS}
            pools = json.dumps({n: [a, round(s, 6)] for n, (a, s) in record["pools"].items()})
            writer.writerow(record | shown | {"pools": pools})
        return sealed(out.getvalue(), ["key"], {})


def read_tasks(text: str) -> list[Record]:
    """Records of a ``tasks.csv`` with numbers again; raises as ``TaskBook`` does."""
    return [_record(row) for row in csv.DictReader(io.StringIO(text, newline=""))]


def _record(row: dict[Any, Any]) -> Record:
    if None in row or None in row.values():
        raise ValueError("more or fewer values than columns")
    record: Record = {name: row[name] for name in TASKS}
    record |= {name: float(row[name]) for name in _NUMBERS}
    record |= {name: int(row[name]) for name in _COUNTS}
    record |= {name: int(row[name]) if row[name] else "" for name in _PLACES}
    record["pools"] = {n: (int(a), float(s)) for n, (a, s) in json.loads(row["pools"]).items()}
    return record


def ended(record: Record) -> float:
    """When a task ended, in seconds since 1970; 0 where that is not known."""
    return began(record) + record["seconds"] if record["started"] else 0.0


def began(record: Record) -> float:
    """When a task began, in seconds since 1970; 0 where that is not known."""
    started = record["started"]
    return datetime.datetime.fromisoformat(started).timestamp() if started else 0.0


class Account:
    """Who bears what of the records, by the module's rules.

    Parameters
    ----------
    cells : those to share the cost, with the key of the task that evaluates each
    needs : task -> tasks whose artifacts it reads
    records : by key; tasks without one were made by somebody else and count as unknown
    """

    def __init__(
        self,
        cells: Mapping[Cell, str],
        needs: Mapping[str, Sequence[str]],
        records: Mapping[str, Record],
    ) -> None:
        self._cells, self._needs, self._records = cells, needs, records
        self._closures: dict[str, tuple[str, ...]] = {}
        self._users: dict[str, int] = defaultdict(int)
        for key in cells.values():
            for needed in self._closure(key):
                self._users[needed] += 1
        self._parts = _priced(records)

    def needed(self) -> set[str]:
        """Keys of the tasks that the cells need."""
        return set(self._users)

    def cell(self, cell: Cell) -> dict[str, float]:
        """Seconds of a cell.

        Returns
        -------
        ``own_s`` : of tasks that only it needs, without decoding, encoding and setting up
        ``shared_s`` : its share of the rest
        ``total_s`` : both; the cells' add up to the tasks that cells need
        ``whole_s`` : all it needs, whoever else needs it too: what it would have cost by itself,
            but for encodings, of which it bears its share
        ``gpu_s`` : of ``total_s``, times the share of a GPU that the worker held
        ``unknown_tasks`` : tasks that an unknown run has made: they cost more than is said here
        """
        own = total = whole = gpu = 0.0
        keys = self._closure(self._cells[cell])
        for key in keys:
            parts, share = self._parts.get(key), 1 / self._users[key]
            if parts is None:
                continue
            seconds = sum(parts.values())
            common = sum(parts.get(name, 0.0) for name in ("setup", "decode", "encode"))
            own += seconds - common if self._users[key] == 1 else 0.0
            total += seconds * share
            whole += seconds
            gpu += seconds * share * self._records[key]["gpus"]
        return {
            "own_s": own,
            "shared_s": total - own,
            "total_s": total,
            "whole_s": whole,
            "gpu_s": gpu,
            "unknown_tasks": sum(key not in self._parts for key in keys),
        }

    def rows(self, queries: Mapping[Cell, int]) -> list[dict[str, Any]]:
        """Milliseconds per query by part, one row per (method, dataset, shots); ``costs.csv``.

        Parameters
        ----------
        queries : of each cell that has a result
        """
        groups: dict[tuple[str, str, int], list[Cell]] = defaultdict(list)
        for cell in self._cells:
            if cell in queries:
                groups[cell.method, cell.dataset, cell.shots].append(cell)
        rows = []
        for (method, dataset, shots), members in sorted(groups.items()):
            spent = dict.fromkeys(PARTS, 0.0)
            gpu = dict.fromkeys(PARTS, 0.0)
            unknown: set[str] = set()
            for cell in members:
                for key in self._closure(self._cells[cell]):
                    if key not in self._parts:
                        unknown.add(key)
                        continue
                    share = 1 / self._users[key]
                    held = self._records[key]["gpus"]
                    for part, seconds in self._parts[key].items():
                        spent[part] += seconds * share
                        gpu[part] += seconds * share * held
            asked = sum(queries[cell] for cell in members)
            row = {"method": method, "dataset": dataset, "shots": shots, "cells": len(members)}
            row |= {"queries": asked, "unknown_tasks": len(unknown)}
            for suffix, amounts in (("ms", spent), ("gpu_ms", gpu)):
                amounts["total"] = sum(amounts.values())
                row |= {f"{n}_{suffix}": 1000 * s / asked for n, s in amounts.items() if asked}
            rows.append(row)
        return rows

    def _closure(self, key: str) -> tuple[str, ...]:
        """A task and all it needs, directly or not."""
        if key not in self._closures:
            keys = {key: None}
            for need in self._needs[key]:
                keys |= dict.fromkeys(self._closure(need))
            self._closures[key] = tuple(keys)
        return self._closures[key]


def costs_text(rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows of ``Account.rows`` as CSV."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COSTS, restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({n: f"{v:.6g}" if isinstance(v, float) else v for n, v in row.items()})
    return out.getvalue()


def _priced(records: Mapping[str, Record]) -> dict[str, dict[str, float]]:
    """Seconds of each task by part, what it shared with others at the price all pay alike."""
    asked: dict[str, int] = defaultdict(int)
    spent: dict[str, float] = defaultdict(float)
    ready: dict[str, list[float]] = defaultdict(list)  # plug-in -> seconds of setting up
    for record in records.values():
        ready[_plugin(record)].append(record["setup_s"])
        for name, (count, seconds) in record["pools"].items():
            asked[name] += count
            spent[name] += seconds
    priced = {}
    for key, record in records.items():
        parts = {stage: record[f"{stage}_s"] for stage in STAGES}
        setups = ready[_plugin(record)]
        parts["setup"] = sum(setups) / len(setups)
        for name, (count, seconds) in record["pools"].items():
            if asked[name]:
                part = "decode" if name == "decode" else "encode"
                parts[part] += count * spent[name] / asked[name] - seconds
        parts[record["kind"]] = parts.pop("work")
        parts["lost"] = record["lost_s"]
        priced[key] = parts
    return priced


def _plugin(record: Record) -> str:
    """The plug-in that a task ran; "" where there is none."""
    role = KINDS[record["kind"]].role
    return "" if role is None else f"{role} {record[role]}"


def now() -> str:
    """The present as ``moment`` has it."""
    return moment(time.time())


def moment(seconds: float) -> str:
    """A time in seconds since 1970 as text: "2026-03-01T12:00:00.250+00:00"."""
    when = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return when.isoformat(timespec="milliseconds")

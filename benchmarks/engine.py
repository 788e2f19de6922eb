"""What the engine itself costs: tasks a second, planning, files of a cell, idle workers.

    python -m benchmarks.engine [--quick]

Tasks that do nothing are such whose artifacts are there, on two workers of either runner; seconds
count from the first answer. 100,000 cells are planned, and put into a schedule, by a process of
their own. Files and looks into the storage are those of a sweep of a trivial method, by cell, of
two lengths: what grows faster than cells would show. Workers idle between the first task that a
worker began and the last that one ended, in a sweep of PaDiM and PatchCore on ELPV.
"""

from __future__ import annotations

import datetime
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from benchmarks.figures import Figures, figure, main
from benchmarks.overhead import handed_out
from benchmarks.sweep import SWEEP, run

WORKERS = 2
CELLS = 100_000
PLANNED = """
import json, resource, time
from benchmarks.overhead import swept
from harness.execution.schedule import Schedule
from harness.planning.graph import plan
sweep, stuff = swept({categories}, 20, 100)
began = time.process_time()
graph = plan(sweep, stuff)
planned = time.process_time()
Schedule(graph.tasks, graph.cells.values())
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps([len(graph.cells), planned - began, time.process_time() - planned, peak]))
"""
#: runs a sweep in its own process and counts how often it asks the storage what is there
COUNTED = """
import collections, json, sys
from harness.storage.store import Store
asked = collections.Counter()
for name in ("keys", "has", "get", "put", "write", "read_text"):
    def counting(self, *given, _name=name, _call=getattr(Store, name), **named):
        asked[_name] += 1
        return _call(self, *given, **named)
    setattr(Store, name, counting)
from harness.__main__ import main
status = main(sys.argv[1:])
print(json.dumps(asked))
sys.exit(status)
"""


def rates(runner: str, tasks: int, repeats: int) -> Figures:
    """Tasks a second, and what the driver needs for one."""
    runs = [handed_out(tasks, WORKERS, runner) for _ in range(repeats)]
    note = f"{tasks} tasks that do nothing, {WORKERS} workers"
    return {
        f"tasks a second, {runner}": figure([r.rate for r in runs], "tasks/s", "higher", note),
        f"driver CPU of a task, {runner}": figure([1e3 * r.cpu for r in runs], "ms", note=note),
    }


def planning(repeats: int) -> Figures:
    """Seconds and memory that many cells take."""
    code = PLANNED.format(categories=CELLS // 2000)
    runs = []
    for _ in range(repeats):
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        runs.append(json.loads(done.stdout))
    cells = runs[0][0]
    return {
        f"planning {cells:,} cells": figure([f[1] for f in runs], "s of CPU"),
        f"scheduling {cells:,} cells": figure([f[2] for f in runs], "s of CPU"),
        f"peak of planning {cells:,} cells": figure([f[3] for f in runs], "MB"),
    }


def trivial(seeds: int) -> dict[str, Any]:
    """A sweep of so many cells in each of two methods."""
    methods = [{"use": "mean_color", "label": f"grid{g}", "params": {"grid": g}} for g in (2, 4)]
    data = [{"use": "elpv", "queries": {"normal": 10, "anomalous": 10}}]
    seeded = {"shots": [2], "seeds": list(range(seeds)), "maps": False, "gallery": 0}
    return {"name": "trivial", "datasets": data, "methods": methods} | seeded


def files(seeds: int) -> tuple[float, dict[str, float]]:
    """Files that a cell leaves, and what the driver asks of the storage, by cell."""
    with tempfile.TemporaryDirectory() as folder:
        conf = Path(folder) / "conf.yaml"
        conf.write_text(yaml.safe_dump(trivial(seeds)))
        runs = Path(folder) / "runs"
        words = ["run", str(conf), "--storage", str(runs), "--runner", "local", "--quiet"]
        words += ["--workers", str(WORKERS), "--mlflow", f"sqlite:///{folder}/mlflow.db"]
        done = subprocess.run(
            [sys.executable, "-c", COUNTED, *words], capture_output=True, text=True, check=True
        )
        asked = json.loads(done.stdout.splitlines()[-1])
        left = sum(path.is_file() for path in runs.rglob("*"))
        cells = 2 * seeds
    return left / cells, {name: count / cells for name, count in asked.items()}


def storage(quick: bool) -> Figures:
    """What a cell leaves and asks, in a sweep and in one of twice as many cells."""
    small = 10 if quick else 30
    (few, asked), (many, more) = files(small), files(2 * small)
    note = f"{2 * small} and {4 * small} cells"
    calls = [sum(asked.values()), sum(more.values())]
    return {
        "files of a cell": figure([few, many], "files", note=note),
        "the driver's calls of the storage, of a cell": figure(calls, "calls", note=note),
        "the driver's listings of the storage": figure([asked["keys"] * 2 * small], "listings"),
    }


def idle(repeats: int) -> Figures:
    """Share of the workers' time that no task takes, from ``tasks.csv``."""
    shares = []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            run(SWEEP, folder)
            shares.append(idle_share(Path(folder) / "benchmark" / "tasks.csv"))
    return {"idle workers": figure([100 * s for s in shares], "% of their time")}


def idle_share(path: Path) -> float:
    """1 - busy / (workers x span), span from the first task's begin to the last one's end."""
    tasks = pd.read_csv(path)
    tasks = tasks[tasks["started"].notna()]
    began = [datetime.datetime.fromisoformat(t).timestamp() for t in tasks["started"]]
    ended = [b + s for b, s in zip(began, tasks["seconds"], strict=True)]
    span = max(ended) - min(began)
    workers = int(tasks["worker"].nunique())
    return float(1 - float(tasks["seconds"].sum()) / (span * workers))


def measure(quick: bool) -> Figures:
    """All of it."""
    repeats = 1 if quick else 3
    figures = rates("local", 2_000 if quick else 10_000, repeats)
    figures |= rates("ray", 1_000 if quick else 5_000, repeats)
    return figures | planning(repeats) | storage(quick) | idle(1 if quick else 2)


if __name__ == "__main__":
    main(__doc__, measure)

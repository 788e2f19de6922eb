"""Seconds of a small sweep, cold and warm, on local workers and on Ray, and where they go.

    python -m benchmarks.sweep [--quick]

12 cells: shots 2, 4, 8, two seeds, PaDiM (100 channels) and PatchCore (coreset 10 %, 9 neighbours)
on EfficientNet-Lite0 at 256 px, 200 ELPV queries, image scores only, two workers. Each run is a
process of its own in an empty storage; the second sweep adds a seed in the storage of the first.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from benchmarks.figures import Figures, figure, main
from benchmarks.process import Run, watched

SWEEP: dict[str, Any] = {
    "name": "benchmark",
    "datasets": [{"use": "elpv", "queries": {"normal": 100, "anomalous": 100}}],
    "methods": [
        {"use": "padim", "params": {"channels": 100}},
        {"use": "patchcore", "params": {"coreset": 0.1, "neighbours": 9}},
    ],
    "shots": [2, 4, 8],
    "seeds": [0, 1],
    "maps": False,
    "gallery": 0,
}
WORKERS = 2


def run(sweep: Mapping[str, Any], storage: str | Path, runner: str = "local") -> Run:
    """One sweep from the command line, in a process of its own."""
    conf = Path(storage) / f"{sweep['name']}.yaml"
    conf.write_text(yaml.safe_dump(dict(sweep)))
    command = [sys.executable, "-m", "harness", "run", str(conf), "--storage", str(storage)]
    command += ["--runner", runner, "--workers", str(WORKERS), "--quiet"]
    # One thread in each process: what the harness gives its workers, and none beside them.
    return watched(command, os.environ | {"OMP_NUM_THREADS": "1"})


def measure(quick: bool) -> Figures:
    """Cold sweeps of both runners, a warm one, and what a further cell costs."""
    repeats = 1 if quick else 3
    local: list[Run] = []
    ray: list[Run] = []
    warm: list[Run] = []
    parts: list[dict[str, float]] = []
    for number in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            local.append(run(SWEEP, folder))
            tasks = pd.read_csv(Path(folder) / "benchmark" / "tasks.csv")
            parts.append(marginal(tasks) | where(tasks, local[-1].wall))
            more = SWEEP | {"name": "benchmark-more", "seeds": [*SWEEP["seeds"], 2]}
            warm.append(run(more, folder))
        if number == 0 or not quick:
            with tempfile.TemporaryDirectory() as folder:
                ray.append(run(SWEEP, folder, "ray"))
    cells = "12 cells, 2 workers"
    table = {
        "12 cells, local": figure([one.wall for one in local], "s", note=cells),
        "12 cells, local: processor time": figure([one.cpu for one in local], "s"),
        "12 cells, Ray": figure([one.wall for one in ray], "s", note=cells),
        "12 cells, Ray: processor time": figure([one.cpu for one in ray], "s"),
        "one more seed in a warm storage": figure(
            [one.wall for one in warm], "s", note="6 new cells beside 12 finished ones"
        ),
        "12 cells, local: peak of the driver": figure([one.host_mb for one in local], "MB"),
        "12 cells, local: peak of a worker": figure([one.worker_mb for one in local], "MB"),
    }
    for name in parts[0]:
        unit = "times" if name.startswith("marginal") else "s"
        table[name] = figure([one[name] for one in parts], unit)
    return table


def marginal(tasks: pd.DataFrame) -> dict[str, float]:
    """What a further cell costs over its scoring, by method.

    A cell is further when it encodes nothing but its own support. Its cost is all seconds of its
    tasks; its scoring is fitting, scoring, and reading its support's pictures.
    """
    later = tasks[(tasks.kind == "predict") & (tasks.encoded <= tasks.shots)]
    stages = later[["decode_s", "encode_s", "fit_s", "work_s"]].sum(axis=1)
    scoring = stages.groupby(later.method).sum()
    whole = later.seconds.groupby(later.method).sum()
    return {
        f"marginal cost of a cell / its scoring, {method}": float(whole[method] / scoring[method])
        for method in scoring.index
    }


def where(tasks: pd.DataFrame, wall: float) -> dict[str, float]:
    """Seconds of a worker, on average, by what they went to; the rest is starting and ending."""
    workers = max(1, tasks.worker.nunique())
    names = {
        "setting up plug-ins": ["setup_s"],
        "decoding": ["decode_s"],
        "encoding": ["encode_s"],
        "fitting and scoring": ["fit_s", "work_s"],
        "reading and writing": ["read_s", "write_s"],
        "all else in tasks": ["other_s"],
        "waiting for tasks": ["idle_s"],
    }
    spent = {name: float(tasks[columns].sum().sum()) / workers for name, columns in names.items()}
    spent["before, between and after tasks"] = wall - sum(spent.values())
    return {f"12 cells, local: {name}": seconds for name, seconds in spent.items()}


if __name__ == "__main__":
    main(__doc__, measure)

"""Cells a second that are logged to MLflow, into sqlite and over HTTP, by the thread that does it.

    python -m benchmarks.tracking [--quick]

Each cell is a run of its own with its metrics and parameters in one batch: three requests. Seconds
count from the first cell that is handed over to the last that the server has, without the server's
start and without the making of its database. A second figure is what the client alone can do where
nothing is in the way: the same requests, by MLflow's own client.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from socket import socket

from benchmarks.figures import Figures, figure, main
from harness.keys import Cell
from harness.reporting.mlflow.lineage import Lineage
from harness.reporting.mlflow.tracking import Tracker
from harness.results.metrics import METRICS
from harness.storage.store import Store

ROW = {**dict.fromkeys(METRICS, 0.5), "n_normal": 50, "n_anomalous": 50, "status": "ok"}
TIMING = {"fit_s": 0.1, "encode_s": 0.2, "predict_s": 0.3, "images_per_s": 10.0}


def logged(uri: str, count: int) -> float:
    """Cells a second."""
    with tempfile.TemporaryDirectory() as folder:
        tracker = Tracker(Store(folder), "many", Lineage({}, {}, {}), uri)
        tracker.cell(Cell("m", "d", "c", 2, 0), "k", ROW, TIMING)
        while not tracker.problem and not (Path(folder) / "many" / "mlflow.json").exists():
            time.sleep(0.01)
        began = time.perf_counter()
        for seed in range(1, count):
            tracker.cell(Cell("m", "d", "c", 2, seed), "k", ROW, TIMING)
        tracker.close([], [], True, {})
        seconds = time.perf_counter() - began
        if tracker.problem:
            raise RuntimeError(tracker.problem)
    return (count - 1) / seconds


def bare(uri: str, count: int) -> float:
    """The same, by the client alone."""
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param

    client = MlflowClient(tracking_uri=uri)
    name = f"bare{time.time()}"
    experiment = client.create_experiment(name)
    values = {k: v for k, v in {**ROW, **TIMING}.items() if isinstance(v, (int, float))}
    began = time.perf_counter()
    for _ in range(count):
        run = client.create_run(experiment, tags=dict.fromkeys("abcdefgh", "x")).info.run_id
        metrics = [Metric(k, float(v), 0, 0) for k, v in values.items()]
        client.log_batch(run, metrics, [Param(k, "x") for k in "abcde"])
        client.set_terminated(run)
    return count / (time.perf_counter() - began)


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """MLflow's own server on sqlite."""
    with socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["server", "--backend-store-uri", f"sqlite:///{folder}/served.db", "--port", str(port)]
    process = subprocess.Popen(
        [sys.executable, "-m", "mlflow", *words, "--workers", "1"],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    uri = f"http://127.0.0.1:{port}"
    try:
        for _ in range(1_200):
            try:
                urllib.request.urlopen(f"{uri}/health", timeout=5).close()
                break
            except OSError:
                time.sleep(0.1)
        yield uri
    finally:
        process.terminate()
        process.wait()


def measure(quick: bool) -> Figures:
    """Both, interleaved with the client alone."""
    count, repeats = (60, 1) if quick else (200, 3)
    rates: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name, server(Path(name)) as uri:
        for _ in range(repeats):
            for where, place in (("sqlite", f"sqlite:///{name}/own.db"), ("HTTP", uri)):
                rates.setdefault(f"cells logged, {where}", []).append(logged(place, count))
                key = f"cells logged, {where}, by the client alone"
                rates.setdefault(key, []).append(bare(place, count))
    return {name: figure(values, "cells/s", "higher") for name, values in rates.items()}


if __name__ == "__main__":
    main(__doc__, measure)

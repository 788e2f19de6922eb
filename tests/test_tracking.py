"""MLflow, the real one on sqlite: every cell once, and a server that is away."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from harness.keys import Cell
from harness.reporting import tracking
from harness.reporting.tracking import EXPERIMENT, Tracker
from harness.storage.store import Store
from tests.sweeps import Runner, rows, sweep

pytestmark = pytest.mark.timeout(280)

ROW = {"image_auroc": 0.25, "pixel_auroc": None, "status": "pixel metrics: no masks"}
TIMING = {"fit_s": 0.5, "key": "k"}
SUMMARY = [
    {
        "method": "m",
        "dataset": "d",
        "shots": 2,
        **{f"{m}_{s}": 0.5 for m in ("image_auroc", "image_auprc") for s in ("mean", "std")},
        **{
            f"{m}_{s}": float("nan")
            for m in ("pixel_auroc", "pixel_aupro")
            for s in ("mean", "std")
        },
    }
]


def cells(n: int) -> list[Cell]:
    return [Cell("m", "d", "c", 2, seed) for seed in range(n)]


def logged(uri: str, name: str) -> tuple[list[Any], list[Any]]:
    """Parent and child runs of a sweep, as MLflow's own client sees them."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id], f"tags.`harness.sweep` = '{name}'")
    parents = [r for r in found if r.data.tags["harness.kind"] == "sweep"]
    return parents, [r for r in found if r.data.tags["harness.kind"] == "cell"]


def log(store: Store, name: str, uri: str, seeds: int, close: bool = True) -> Tracker:
    tracker = Tracker(store, name, {"shots": [2]}, uri)
    for cell in cells(seeds):
        tracker.cell(cell, f"key{cell.seed}", ROW, TIMING)
    if close:
        tracker.close(SUMMARY, True)
    return tracker


def test_a_sweep_is_a_parent_and_a_child_for_each_cell(
    run_sweep: Runner, tmp_path: Path, mlflow_uri: str
) -> None:
    config = sweep(name="tracked", seeds=[0, 1], datasets=[{"use": "toys.data:Squares"}])
    assert run_sweep(config) == 0
    parents, children = logged(mlflow_uri, "tracked")
    (parent,) = parents
    assert parent.info.status == "FINISHED"
    assert len(children) == 4
    by_cell = {(r["category"], r["seed"]): r for r in rows(tmp_path / "runs" / "tracked")}
    for run in children:
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert run.info.status == "FINISHED"
        row = by_cell[run.data.params["category"], run.data.params["seed"]]
        assert run.data.metrics["image_auroc"] == float(row["image_auroc"])
        assert "pixel_auroc" not in run.data.metrics, "an undefined value was logged"
        assert {"method", "dataset", "category", "shots", "seed"} <= set(run.data.params)
    means = parent.data.metrics
    mean = sum(float(r["image_auroc"]) for r in by_cell.values()) / 4
    assert means["Near/Squares/k2/image_auroc"] == pytest.approx(mean)
    assert run_sweep(config) == 0
    assert [len(found) for found in logged(mlflow_uri, "tracked")] == [1, 4], "logged twice"


def test_a_killed_driver_is_gone_on_with(tmp_path: Path, mlflow_uri: str) -> None:
    """Its note of what is logged is of the beginning; the server knows better."""
    store = Store(str(tmp_path))
    killed = log(store, "killed", mlflow_uri, 3, close=False)
    end = time.monotonic() + 60
    while len(killed._known.get("cells", ())) < 3:
        assert time.monotonic() < end
        time.sleep(0.05)
    note = json.loads((tmp_path / "killed/mlflow.json").read_text())
    assert "parent" in note
    log(store, "killed", mlflow_uri, 4)
    parents, children = logged(mlflow_uri, "killed")
    assert (len(parents), len(children)) == (1, 4)


def test_a_damaged_note_is_no_obstacle(tmp_path: Path, mlflow_uri: str) -> None:
    store = Store(str(tmp_path))
    store.write("note/mlflow.json", b"{")
    assert log(store, "note", mlflow_uri, 1).problem == ""
    assert len(logged(mlflow_uri, "note")[1]) == 1


def test_a_server_that_fails_in_the_middle_leaves_no_half_runs(
    tmp_path: Path, mlflow_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    whole, calls = MlflowClient.log_batch, []

    def flaky(self: Any, *given: Any, **named: Any) -> None:
        calls.append(1)
        if len(calls) in (1, 3):
            raise ConnectionError("gone for a moment")
        whole(self, *given, **named)

    monkeypatch.setattr(MlflowClient, "log_batch", flaky)
    assert log(Store(str(tmp_path)), "flaky", mlflow_uri, 2).problem == ""
    parents, children = logged(mlflow_uri, "flaky")
    assert (len(parents), len(children)) == (1, 2)
    assert all(r.data.metrics["image_auroc"] == 0.25 for r in children)


def test_a_server_that_is_away_costs_no_result(
    run_sweep: Runner,
    tmp_path: Path,
    mlflow_uri: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(tracking, "PATIENCE", 0.5)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        away = f"http://127.0.0.1:{free.getsockname()[1]}"
    config = sweep(name="away")
    assert run_sweep(config, mlflow=away) == 0
    assert len(rows(tmp_path / "runs" / "away")) == 2
    said = [x for x in capsys.readouterr().err.splitlines() if "not everything was logged" in x]
    assert len(said) == 1
    assert away in said[0]
    assert run_sweep(config) == 0, "with a server, the next run logs what is missing"
    assert [len(found) for found in logged(mlflow_uri, "away")] == [1, 2]


def test_labels_of_generators_and_grids_are_logged(tmp_path: Path, mlflow_uri: str) -> None:
    """MLflow takes neither + nor = in the name of a metric; labels made by the engine have both."""
    tracker = Tracker(Store(str(tmp_path)), "labels", {}, mlflow_uri)
    cell = Cell("Near+g-power=1.0", "d", "c", 2, 0)
    tracker.cell(cell, "key", ROW, TIMING)
    tracker.close([{**SUMMARY[0], "method": cell.method}], True)
    assert tracker.problem == ""
    (parent,), (child,) = logged(mlflow_uri, "labels")
    assert "Near_g-power_1.0/d/k2/image_auroc" in parent.data.metrics
    assert child.data.params["method"] == cell.method


def test_no_run_is_left_active(tmp_path: Path, mlflow_uri: str) -> None:
    log(Store(str(tmp_path)), "active", mlflow_uri, 1)
    import mlflow

    assert mlflow.active_run() is None

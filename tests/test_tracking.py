"""MLflow, the real one on sqlite: every cell once, and a server that is away."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.keys import Cell
from harness.reporting.mlflow import tracking
from harness.reporting.mlflow.lineage import Group, GroupKey, Lineage
from harness.reporting.mlflow.mlflow_runs import EXPERIMENT
from harness.reporting.mlflow.tracking import Tracker
from harness.storage.store import Store
from tests.sweeps import HOME, Runner, rows, sweep, waited

pytestmark = pytest.mark.timeout(900)

ROW = {"image_auroc": 0.25, "pixel_auroc": None, "status": "pixel metrics: no masks"}
TIMING = {"fit_s": 0.5, "key": "k"}
SUMMARY = [
    {
        "method": "m",
        "dataset": "d",
        "shots": 2,
        "n_seeds": 1,
        "complete": True,
        **{f"{m}_{s}": 0.5 for m in ("image_auroc", "image_auprc") for s in ("mean", "std")},
        **{
            f"{m}_{s}": float("nan")
            for m in ("pixel_auroc", "pixel_aupro")
            for s in ("mean", "std")
        },
    }
]


COSTS = [{"method": "m", "dataset": "d", "shots": 2, "cells": 1, "total_ms": 7.5}]
GROUP = GroupKey("m", "d", 2)
ABOUT = Lineage({"shots": "2"}, {"commit": "abc"}, {GROUP: Group("g", {"params.power": "2.0"})})


def cells(n: int) -> list[Cell]:
    return [Cell("m", "d", "c", 2, seed) for seed in range(n)]


def logged(uri: str, name: str) -> tuple[list[Any], list[Any]]:
    """Parent and child runs of a sweep, as MLflow's own client sees them."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], f"tags.`harness.sweep` = '{name}'")
    parents = [r for r in runs if r.data.tags["harness.kind"] == "sweep"]
    return parents, [r for r in runs if r.data.tags["harness.kind"] == "cell"]


def grouped(uri: str, name: str) -> list[Any]:
    """Runs of a sweep's groups, by fewest shots."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    condition = f"tags.`harness.sweep` = '{name}' AND tags.`harness.kind` = 'group'"
    groups = client.search_runs([experiment.experiment_id], condition)
    return sorted(groups, key=lambda r: int(r.data.tags["shots"]))


def history(uri: str, run: Any, metric: str) -> list[Any]:
    from mlflow import MlflowClient

    return list(MlflowClient(tracking_uri=uri).get_metric_history(run.info.run_id, metric))


def log(store: Store, name: str, uri: str, seeds: int, close: bool = True) -> Tracker:
    tracker = Tracker(store, name, ABOUT, uri)
    for cell in cells(seeds):
        tracker.cell(cell, f"key{cell.seed}", ROW, TIMING)
    if close:
        tracker.close(SUMMARY, COSTS, True, {"tables/results.csv": b"1"})
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
    groups = {r.info.run_id: r for r in grouped(mlflow_uri, "tracked")}
    (group,) = groups.values()
    by_cell = {(r["category"], r["seed"]): r for r in rows(tmp_path / "runs" / "tracked")}
    for run in children:
        assert run.data.tags["mlflow.parentRunId"] == group.info.run_id
        assert run.info.status == "FINISHED"
        took = run.info.end_time - run.info.start_time
        assert 0 < took < 60_000
        assert run.info.start_time < parent.info.end_time - took
        row = by_cell[run.data.params["category"], run.data.params["seed"]]
        assert run.data.metrics["image_auroc"] == float(row["image_auroc"])
        assert "pixel_auroc" not in run.data.metrics, "an undefined value was logged"
        assert {"method", "dataset", "category", "shots", "seed"} <= set(run.data.params)
    means = parent.data.metrics
    mean = sum(float(r["image_auroc"]) for r in by_cell.values()) / 4
    assert means["image_auroc/Near/Squares"] == pytest.approx(mean)
    whole_group(group, parent, mean)
    assert run_sweep(config) == 0
    assert [len(runs) for runs in logged(mlflow_uri, "tracked")] == [1, 4], "logged twice"
    assert len(history(mlflow_uri, group, "image_auroc")) == 1


def whole_group(group: Any, parent: Any, mean: float) -> None:
    assert group.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert group.info.status == "FINISHED"
    assert group.data.metrics["image_auroc"] == pytest.approx(mean)
    assert group.data.metrics["image_auroc_std"] >= 0
    assert group.data.metrics["total_ms"] > group.data.metrics["encode_ms"] > 0
    assert group.data.params["params.power"] == "2.0", "a default"
    for run in (group, parent):
        assert {"commit", "dirty", "host", "profile", "versions.numpy"} <= set(run.data.tags)
        (used,) = run.inputs.dataset_inputs
        assert used.dataset.digest == run.data.tags["data.Squares"]
        assert json.loads(used.dataset.profile) == {
            "categories": ["ant", "bee"],
            "normal": 10,
            "anomalous": 10,
        }


def test_a_killed_driver_is_gone_on_with(tmp_path: Path, mlflow_uri: str) -> None:
    """Its note of what is logged is of the beginning; the server knows better."""
    store = Store(str(tmp_path))
    killed = log(store, "killed", mlflow_uri, 3, close=False)
    waited(lambda: len(killed._runs._known.get("cells", ())) == 3, "cells")
    note = json.loads((tmp_path / "killed/mlflow.json").read_text())
    assert "parent" in note
    log(store, "killed", mlflow_uri, 4)
    parents, children = logged(mlflow_uri, "killed")
    assert (len(parents), len(children)) == (1, 4)


def test_cells_are_logged_meanwhile_and_each_in_three_requests(
    tmp_path: Path, mlflow_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of them for all metrics and parameters; the sweep itself has not come to its end."""
    from mlflow import MlflowClient

    asked: Counter[str] = Counter()
    names = ("create_run", "log_batch", "log_metric", "log_param", "set_tag", "set_terminated")
    calls = {name: getattr(MlflowClient, name) for name in names}
    for name in names:

        def counting(client: Any, *arguments: Any, _name: str = name, **named: Any) -> Any:
            asked[_name] += 1
            return calls[_name](client, *arguments, **named)

        monkeypatch.setattr(MlflowClient, name, counting)
    count = 5
    tracker = log(Store(str(tmp_path)), "meanwhile", mlflow_uri, count, close=False)
    waited(lambda: asked["set_terminated"] >= count, "end of the cells' runs")
    parents, children = logged(mlflow_uri, "meanwhile")
    assert [p.info.status for p in parents] == ["RUNNING"]
    assert len(children) == count
    assert asked["create_run"] == asked["log_batch"] == count + 2  # the group's and the sweep's
    assert set(asked) == {"create_run", "log_batch", "set_terminated"}
    tracker.close(SUMMARY, COSTS, True, {})


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

    def flaky(self: Any, *arguments: Any, **named: Any) -> None:
        calls.append(1)
        if len(calls) in (1, 3):
            raise ConnectionError("gone for a moment")
        whole(self, *arguments, **named)

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
    warnings = [x for x in capsys.readouterr().err.splitlines() if "not everything was logged" in x]
    assert len(warnings) == 1
    assert away in warnings[0]
    assert run_sweep(config) == 0, "with a server, the next run logs what is missing"
    assert [len(runs) for runs in logged(mlflow_uri, "away")] == [1, 2]


def test_labels_of_generators_and_grids_are_logged(tmp_path: Path, mlflow_uri: str) -> None:
    """MLflow takes neither + nor = in the name of a metric; labels made by the engine have both."""
    tracker = Tracker(Store(str(tmp_path)), "labels", Lineage(), mlflow_uri)
    cell = Cell("Near+g-power=1.0", "d", "c", 2, 0)
    tracker.cell(cell, "key", ROW, TIMING)
    tracker.close([{**SUMMARY[0], "method": cell.method}], [], True, {})
    assert tracker.problem == ""
    (parent,), (child,) = logged(mlflow_uri, "labels")
    assert "image_auroc/Near_g-power_1.0/d" in parent.data.metrics
    assert child.data.params["method"] == cell.method


def test_no_run_is_left_active(tmp_path: Path, mlflow_uri: str) -> None:
    log(Store(str(tmp_path)), "active", mlflow_uri, 1)
    import mlflow

    assert mlflow.active_run() is None


def test_a_group_has_a_point_for_each_number_of_shots_up_to_its_own(
    tmp_path: Path, mlflow_uri: str
) -> None:
    keys = [GroupKey("m", "d", shots) for shots in (8, 2, 4)]
    groups = {key: Group(str(key), {"shots": str(key.shots)}) for key in keys}
    tracker = Tracker(Store(str(tmp_path)), "lines", Lineage(groups=groups), mlflow_uri)
    summary = []
    for key in keys:
        tracker.cell(Cell("m", "d", "c", key.shots, 0), f"key{key.shots}", ROW, TIMING)
        summary.append({**SUMMARY[0], "shots": key.shots, "image_auroc_mean": key.shots / 10})
    tracker.close(summary, [], True, {})
    assert tracker.problem == ""
    histories = [
        [(m.step, m.value) for m in sorted(history(mlflow_uri, run, "image_auroc"), key=str)]
        for run in grouped(mlflow_uri, "lines")
    ]
    assert [sorted(points) for points in histories] == [
        [(2, 0.2)],
        [(2, 0.2), (4, 0.4)],
        [(2, 0.2), (4, 0.4), (8, 0.8)],
    ]
    from mlflow import MlflowClient

    experiment = MlflowClient(tracking_uri=mlflow_uri).get_experiment_by_name(EXPERIMENT)
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    last = [run.data.metrics["image_auroc"] for run in grouped(mlflow_uri, "lines")]
    assert last == [0.2, 0.4, 0.8], "what is searched for is the group's own"


def test_changed_code_is_a_new_group_and_the_old_one_stays(tmp_path: Path, mlflow_uri: str) -> None:
    store = Store(str(tmp_path))
    for commit in ("old", "new"):
        lineage = Lineage(tags={"commit": commit}, groups={GROUP: Group(commit, {"shots": "2"})})
        tracker = Tracker(store, "changed", lineage, mlflow_uri)
        tracker.cell(cells(1)[0], f"key-{commit}", ROW, TIMING)
        value = {"old": 0.5, "new": 0.75}[commit]
        tracker.close([{**SUMMARY[0], "image_auroc_mean": value}], COSTS, True, {})
    groups = {r.data.tags["commit"]: r for r in grouped(mlflow_uri, "changed")}
    assert {c: r.data.metrics["image_auroc"] for c, r in groups.items()} == {
        "old": 0.5,
        "new": 0.75,
    }


def test_a_failed_cell_is_logged_until_it_has_a_result(tmp_path: Path, mlflow_uri: str) -> None:
    store, cell = Store(str(tmp_path)), cells(1)[0]
    failure = {"task": "predict d/c/0", "error": "ValueError: no", "traceback": "Trace", "key": "k"}
    for _ in range(2):
        tracker = Tracker(store, "failing", ABOUT, mlflow_uri)
        tracker.failed(cell, "k", failure)
        tracker.close([{**SUMMARY[0], "complete": False}], COSTS, False, {})
        assert tracker.problem == ""
    (parent,), (run,) = logged(mlflow_uri, "failing")
    assert (parent.info.status, run.info.status) == ("FAILED", "FAILED")
    assert run.data.tags["error"] == "ValueError: no"
    (group,) = grouped(mlflow_uri, "failing")
    assert group.info.status == "FAILED"
    tracker = Tracker(store, "failing", ABOUT, mlflow_uri)
    tracker.cell(cell, "k", ROW, TIMING)
    tracker.close(SUMMARY, COSTS, True, {})
    (parent,), (run,) = logged(mlflow_uri, "failing")
    assert (parent.info.status, run.info.status) == ("FINISHED", "FINISHED")


def test_the_questions_of_the_documentation_have_answers(
    run_sweep: Runner, tmp_path: Path, server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each block of docs/mlflow.md, against a server over HTTP."""
    methods = [
        {"use": "toys.methods:Near"},
        {"use": "toys.trouble:Trouble", "params": {"how": "raise"}},
    ]
    config = sweep(name="asked", methods=methods, shots=[2, 8])
    assert run_sweep(config, mlflow=server) == 1
    text = (HOME / "docs/mlflow.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.S)
    assert len(blocks) == 6
    (parent,), _ = logged(server, "asked")
    commit = parent.data.tags["commit"]
    answers: dict[str, Any] = {"old": commit, "new": commit}
    for block in blocks:
        exec(block.replace("sqlite:///runs/mlflow.db", server), answers)
    kept = Path(tmp_path / "runs" / "asked")
    near = [
        float(r["image_auroc_mean"]) for r in rows(kept, "summary.csv") if r["method"] == "Near"
    ]
    best = answers["best"].iloc[0]
    assert best["params.method"] in ("Near", "Trouble")
    assert best["metrics.image_auroc"] >= near[1]
    assert (answers["change"] == 0).all()
    assert len(answers["change"]) >= 2
    times = answers["cost"]["metrics.total_ms"].dropna().to_list()
    assert times == sorted(times)
    assert min(times) > 0
    assert len(answers["cells"]) == 4
    assert set(answers["failed"]["params.category"]) == {"bee"}
    assert answers["failed"]["tags.error"].str.contains("RuntimeError").all()
    printed = capsys.readouterr().out
    assert "RuntimeError" in printed
    assert "View run" not in printed

    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=server)
    names = [f.path for f in client.list_artifacts(parent.info.run_id)]
    assert {"report.html", "tables", "config", "curves", "failures.csv"} <= set(names)
    drawn = [f.path for f in client.list_artifacts(parent.info.run_id, "curves")]
    assert {path.rpartition("_")[2] for path in drawn} == {"roc.svg", "pr.svg"}


def healthy(url: str) -> bool:
    try:
        urllib.request.urlopen(f"{url}/health", timeout=5).close()
    except OSError:
        return False
    return True


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """A real tracking server, over HTTP."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--backend-store-uri", f"sqlite:///{tmp_path}/server.db", "--workers", "1"]
    command += ["--artifacts-destination", str(tmp_path / "kept")]
    variables = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (tmp_path / "server.log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=tmp_path, env=variables, stdout=log, stderr=log, start_new_session=True
        )
    url = f"http://127.0.0.1:{port}"
    try:
        waited(lambda: healthy(url), "answer of the server", process)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(600)

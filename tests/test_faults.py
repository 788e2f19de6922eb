"""What clusters do to workers, on a real one: the same bytes after it, or the cells are named."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.tasks.kinds import KINDS
from tests.clusters import address, cluster, published
from tests.sweeps import HOME, NEAR, Runner, Tally, lasting, rows, sweep, waited, written

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def calls(toys: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tally]:
    """The module's cluster, by the file that its workers write their calls into."""
    with cluster(tmp_path_factory.mktemp("cluster")) as tally:
        yield tally


@pytest.fixture(scope="module")
def payloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of payloads that mortal plug-ins follow; it is a parameter, so one for all tests."""
    return tmp_path_factory.mktemp("payloads")


@pytest.fixture(scope="module")
def calm() -> dict[str, bytes]:
    """What the sweep publishes when nothing happens; the first test fills it."""
    return {}


def mortal(payloads: Path) -> dict[str, Any]:
    """A sweep of every kind of task."""
    params = {"payloads": str(payloads)}
    method = {"use": "toys.mortal:Mortal", "label": "mortal", "params": params}
    return sweep(
        name="mortal",
        datasets=[{"use": "toys.mortal:MortalSquares", "label": "squares", "params": params}],
        methods=[{"use": NEAR}, method | {"generator": "g", "auxiliary": "leave-one-out"}],
        generators={"g": {"use": "toys.mortal:MortalBlend", "pool": 3, "params": params}},
        shard=5,
    )


def undisturbed(run_sweep: Runner, payloads: Path, folder: Path, calm: dict[str, bytes]) -> None:
    if not calm:
        assert run_sweep(mortal(payloads), "calm") == 0
        calm |= published(folder / "calm" / "mortal")
        assert len(rows(folder / "calm" / "mortal")) == 4


def test_a_worker_killed_in_each_kind_of_task(
    run_sweep: Runner, calls: Tally, payloads: Path, calm: dict[str, bytes], tmp_path: Path
) -> None:
    """In one sweep: whoever first does a task of a kind dies of it."""
    undisturbed(run_sweep, payloads, tmp_path, calm)
    for kind in KINDS:
        (payloads / kind).touch()
    calls.new()
    assert run_sweep(mortal(payloads), runner="ray", workers=2) == 0
    killed = [line.split()[1] for line in calls.new() if line.startswith("killed ")]
    assert sorted(killed) == sorted(KINDS)
    assert published(tmp_path / "runs" / "mortal") == calm


@pytest.mark.parametrize(
    ("order", "cells"),
    [
        ("customize.always", {("mortal", "ant"), ("mortal", "bee")}),
        ("evaluate.bee.always", {("Near", "bee"), ("mortal", "bee")}),
    ],
)
def test_a_worker_killed_each_time_costs_cells_that_are_named(
    run_sweep: Runner,
    calls: Tally,
    payloads: Path,
    calm: dict[str, bytes],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    order: str,
    cells: set[tuple[str, str]],
) -> None:
    undisturbed(run_sweep, payloads, tmp_path, calm)
    (payloads / order).touch()
    folder = tmp_path / "runs" / "mortal"
    try:
        assert run_sweep(mortal(payloads), runner="ray", workers=2) == 1
    finally:
        (payloads / order).unlink()
    failed = {(r["method"], r["category"]): r for r in rows(folder, "failures.csv")}
    assert set(failed) == cells
    stderr = capsys.readouterr().err
    for (method, category), row in failed.items():
        assert "its worker was lost" in row["error"]
        assert "(tried 2 times)" in row["error"]
        assert f"{method} on squares/{category}" in stderr
    table = calm["results.csv"].decode().splitlines()
    done = (folder / "results.csv").read_text().splitlines()
    lost = [f"{method},squares,{category}," for method, category in cells]
    assert done == [line for line in table if not line.startswith(tuple(lost))]
    assert run_sweep(mortal(payloads), runner="ray", workers=2, retry_failed=True) == 0
    assert published(folder) == calm


def truncate(storage: Path, kind: str, most: int = 1_000) -> int:
    paths = sorted((storage / ".artifacts" / kind).rglob("*.safetensors"))[:most]
    for path in paths:
        path.write_bytes(path.read_bytes()[:-7])
    return len(paths)


def test_truncated_artifacts_are_made_again(
    run_sweep: Runner, calls: Tally, payloads: Path, calm: dict[str, bytes], tmp_path: Path
) -> None:
    """Of every kind, all of them, and the sweep's own folder is gone: from what is left of it."""
    undisturbed(run_sweep, payloads, tmp_path, calm)
    config, storage = mortal(payloads), tmp_path / "runs"
    assert run_sweep(config, runner="ray", workers=2) == 0
    assert all(truncate(storage, kind) for kind in KINDS)
    shutil.rmtree(storage / "mortal")
    calls.new()
    assert run_sweep(config, runner="ray", workers=2) == 0
    assert published(storage / "mortal") == calm
    again = calls.counts()
    remade = {kind: again[kind] for kind in ("prepare", "customize", "generate", "personalize")}
    assert remade == {"prepare": 2, "customize": 2, "generate": 2, "personalize": 4}
    # One alone, with all that came of it still there, costs one task.
    shutil.rmtree(storage / "mortal")
    shutil.rmtree(storage / ".artifacts" / "evaluate")
    assert truncate(storage, "predict", 1) == 1
    assert run_sweep(config, runner="ray", workers=2) == 0
    assert published(storage / "mortal") == calm
    assert calls.counts()["predict"] == 1


def slow() -> dict[str, Any]:
    return lasting("slow")


def driver(conf: Path, storage: Path, uri: str, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "harness", "run", conf, "--storage", storage, "--mlflow", uri]
    command += ["--address", address(), "--workers", "2", *words]
    return subprocess.Popen(
        list(map(str, command)), cwd=HOME, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def artifacts(storage: Path) -> int:
    return len(list(storage.glob(".artifacts/*/*/*.safetensors")))


def test_a_driver_killed_on_a_cluster_is_gone_on_with(
    run_sweep: Runner, calls: Tally, tmp_path: Path, mlflow_uri: str
) -> None:
    conf, storage = written(tmp_path / "slow.yaml", slow()), tmp_path / "runs"
    calls.new()
    with driver(conf, storage, mlflow_uri) as first:
        waited(lambda: artifacts(storage) >= 20, "artifacts", first)
        first.send_signal(signal.SIGKILL)
    stored = artifacts(storage)
    with driver(conf, storage, mlflow_uri) as second:
        stderr = second.communicate(timeout=600)[1]
    assert second.returncode == 0, stderr
    killed = calls.counts()
    assert run_sweep(slow(), "calm") == 0
    calm = calls.counts()
    whole = artifacts(tmp_path / "calm")
    assert 20 <= stored < whole, "it had ended before it was killed"
    assert artifacts(storage) == whole
    assert published(storage / "slow") == published(tmp_path / "calm" / "slow")
    for kind in ("prepare", "customize", "generate", "personalize", "predict"):
        extra = killed[kind] - calm[kind]
        assert 0 <= extra <= 2, f"{kind}: more than what two workers held in their hands"

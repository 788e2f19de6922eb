"""Stopped at any moment and started again: nothing lost, nothing done twice, the same bytes."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.sweeps import HOME, NEAR, Runner, Tally, lasting, rows, sweep, written

pytestmark = pytest.mark.timeout(900)


#: What Ray says when a busy machine does not start it within thirty seconds.
SLOW = "timed out during startup"


def long(**changes: Any) -> dict[str, Any]:
    return lasting("long") | changes


def start(conf: Path, storage: Path, uri: str, runner: str) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", "harness", "run", conf, "--storage", storage, "--quiet"]
    words += ["--runner", runner, "--mlflow", uri]
    words += ["--workers", "2"] if runner == "ray" else []
    with (conf.parent / "stderr.txt").open("a") as stderr:
        return subprocess.Popen(list(map(str, words)), cwd=HOME, stderr=stderr)


def artifacts(storage: Path) -> set[str]:
    return {p.name for p in storage.glob(".artifacts/*/*/*.safetensors")}


@pytest.mark.parametrize("runner", ["serial", "ray"])
def test_a_driver_killed_at_random_moments(
    run_sweep: Runner, tally: Tally, tmp_path: Path, mlflow_uri: str, runner: str
) -> None:
    assert run_sweep(long(), "calm") == 0
    expected = (tmp_path / "calm/long/results.csv").read_bytes()
    undisturbed = tally.counts()
    everything = artifacts(tmp_path / "calm")
    conf = written(tmp_path / "conf.yaml", long())
    storage = tmp_path / "killed"
    rng = random.Random(runner)
    kills = 0
    at = sorted(rng.sample(range(1, len(everything)), 2))
    stderr = tmp_path / "stderr.txt"
    for few in at:
        for _ in range(3):
            with start(conf, storage, mlflow_uri, runner) as driver:
                while driver.poll() is None and len(artifacts(storage)) < few:
                    time.sleep(0.01)
                time.sleep(rng.random() * 0.05)
                alive = driver.poll() is None
                driver.send_signal(signal.SIGKILL)
            if alive or SLOW not in stderr.read_text():
                break
        kills += alive
        wait_until_quiet(storage)
        assert artifacts(storage) <= everything
    assert kills == 2, f"the sweep ended before it could be killed: {stderr.read_text()}"
    for _ in range(3):
        with start(conf, storage, mlflow_uri, runner) as driver:
            status = driver.wait()
        if status == 0 or SLOW not in stderr.read_text():
            break
    assert status == 0, stderr.read_text()
    assert (storage / "long/results.csv").read_bytes() == expected
    for kind in ("predictions", "gallery"):
        calm, killed = (
            {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("k*_s*.*")}
            for root in (tmp_path / "calm/long" / kind, storage / "long" / kind)
        )
        assert calm
        assert killed == calm
    assert artifacts(storage) == everything
    counts = tally.counts()
    workers = 1 if runner == "serial" else 2
    for kind in ("prepare", "customize", "generate", "personalize", "predict"):
        extra = counts[kind] - undisturbed[kind]
        assert 0 <= extra <= kills * workers, f"{kind}: more than what was in flight at the kills"


def wait_until_quiet(storage: Path) -> None:
    """Workers outlive their driver by a moment."""
    still = 0
    before = artifacts(storage)
    while still < 5:
        time.sleep(0.1)
        now = artifacts(storage)
        still = still + 1 if now == before else 0
        before = now


def test_terminated_politely_it_writes_what_it_has(
    toys: None, tally: Tally, tmp_path: Path, mlflow_uri: str
) -> None:
    conf = written(tmp_path / "conf.yaml", long())
    storage = tmp_path / "runs"
    with start(conf, storage, mlflow_uri, "serial") as driver:
        while len(list(storage.glob(".artifacts/evaluate/*/*.safetensors"))) < 2:
            assert driver.poll() is None
            time.sleep(0.02)
        driver.send_signal(signal.SIGTERM)
        assert driver.wait() == 130
    assert rows(storage / "long"), "finished cells are in the table"
    assert (storage / "long" / "summary.csv").exists()


def test_nothing_is_computed_twice_across_sweeps(
    run_sweep: Runner, tally: Tally, tmp_path: Path
) -> None:
    small = sweep(name="small", shots=[2], methods=[{"use": NEAR}])
    assert run_sweep(small) == 0
    tally.new()
    # The same work under another name, another label, more of it.
    other = sweep(name="other", methods=[{"use": NEAR, "label": "renamed"}], description="x")
    assert run_sweep(other) == 0
    assert tally.new() == []
    larger = sweep(name="larger", shots=[2, 3], seeds=[0, 1])
    assert run_sweep(larger) == 0
    counts = tally.counts()
    assert counts["predict"] == 2 * 3
    values = {
        name: {
            (r["category"], r["shots"], r["seed"]): r["image_auroc"]
            for r in rows(tmp_path / "runs" / name)
        }
        for name in ("small", "other", "larger")
    }
    assert values["small"] == values["other"]
    assert values["small"].items() <= values["larger"].items()
    # Its folder removed, a sweep is published again from what is stored.
    before = (tmp_path / "runs/larger/results.csv").read_bytes()
    shutil.rmtree(tmp_path / "runs/larger")
    assert run_sweep(larger) == 0
    assert tally.new() == []
    assert (tmp_path / "runs/larger/results.csv").read_bytes() == before
    assert len(list((tmp_path / "runs/larger/predictions").rglob("*.csv"))) == 8


def test_only_some_cells_then_the_rest(run_sweep: Runner, tally: Tally, tmp_path: Path) -> None:
    config = sweep(shots=[1, 2], seeds=[0, 1])
    assert run_sweep(config, only=("shots=2", "category=bee")) == 0
    folder = tmp_path / "runs" / "toy"
    assert {(r["category"], r["shots"]) for r in rows(folder)} == {("bee", "2")}
    assert tally.counts()["predict"] == 2
    assert run_sweep(config) == 0
    assert len(rows(folder)) == 8
    assert tally.counts()["predict"] == 6
    assert run_sweep(config, only=("seed=1",)) == 0
    assert len(rows(folder)) == 8, "cells outside of --only were dropped"


def test_data_that_changed_is_computed_again(
    run_sweep: Runner, tally: Tally, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "path" / "moving"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    text = "from toys.data import Squares\n\n\nclass Moving(Squares):\n    version = VERSION\n"
    text += "    def stamp(self, source):\n        return f'{self.version}{source}'\n"
    monkeypatch.syspath_prepend(str(package.parent))
    path = os.pathsep.join([str(package.parent), os.environ["PYTHONPATH"]])
    monkeypatch.setenv("PYTHONPATH", path)
    from harness import plugins

    config = sweep(datasets=[{"use": "moving.data:Moving", "categories": ["ant"]}])
    for version, expected in ((1, 1), (1, 0), (2, 1)):
        (package / "data.py").write_text(text.replace("VERSION", str(version)))
        for name in [n for n in sys.modules if n.split(".")[0] == "moving"]:
            del sys.modules[name]
        plugins.source.cache_clear()
        assert run_sweep(config) == 0
        assert tally.counts()["predict"] == expected
    assert Counter(r["category"] for r in rows(tmp_path / "runs" / "toy")) == {"ant": 1}

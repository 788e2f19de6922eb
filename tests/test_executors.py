"""Serial and Ray, one worker or three: the same bytes, and the same failures."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.reporting.live import progress
from tests.sweeps import FAKES, NEAR, SQUARES, Runner, Tally, rows, sweep

pytestmark = pytest.mark.timeout(900)


def mixed(**changes: Any) -> dict[str, Any]:
    """Every kind of task, chance included."""
    config = sweep(
        name="mixed",
        datasets=[{"use": SQUARES, "params": {"masks": True}}],
        methods=[
            {"use": NEAR, "label": "one"},
            {"use": NEAR, "label": "two"},
            {"use": "toys.methods:Dice"},
            {"use": "toys.methods:TaughtPerShots", "auxiliary": "leave-one-out"},
            {"use": "toys.methods:Pooled", "generator": "g", "shots": [2]},
            {"use": "toys.methods:Compared", "generator": "g", "shots": [2]},
        ],
        generators={"g": {"use": "toys.generators:Blend", "pool": 4}},
        shots=[0, 2],
        seeds=[0, 1],
        shard=4,
        time_limit=30.0,
    )
    config["methods"][3]["shots"] = [1, 2]
    return config | changes


@pytest.fixture(scope="module")
def module_tally(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tally]:
    """One file for the module: the cluster's processes have the environment of its start."""
    path = tmp_path_factory.mktemp("tally") / "tally.txt"
    before = os.environ.get("TOYS_LOG")
    os.environ["TOYS_LOG"] = str(path)
    yield Tally(path)
    os.environ.pop("TOYS_LOG")
    if before is not None:
        os.environ["TOYS_LOG"] = before


@pytest.fixture(scope="module")
def cluster(toys: None, module_tally: Tally) -> Iterator[None]:
    """A local cluster of four cores that the tests of this module share."""
    import ray

    before = os.environ.copy()
    os.environ["OMP_NUM_THREADS"] = "1"
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        ray.init("local", num_cpus=4, include_dashboard=False, **quiet)
    except Exception:  # on a busy machine it may not be up within Ray's thirty seconds
        ray.shutdown()
        ray.init("local", num_cpus=4, include_dashboard=False, **quiet)
    yield
    ray.shutdown()
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return {"folder": tmp_path_factory.mktemp("undisturbed")}


def published(folder: Path) -> dict[str, bytes]:
    """All that a sweep publishes but times and versions."""
    left_out = {
        "timings.csv",
        "tasks.csv",
        "costs.csv",
        "sharing.csv",
        "environment.json",
        "mlflow.json",
        "manifest.sha256",  # digests of these, too
        "report.html",
    }
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in left_out
    }


def test_the_serial_runner_and_any_number_of_ray_workers_agree(
    run_sweep: Runner, module_tally: Tally, cluster: None, tmp_path: Path
) -> None:
    module_tally.new()
    assert run_sweep(mixed(), "serial") == 0
    expected = published(tmp_path / "serial" / "mixed")
    assert {"results.csv", "summary.csv", "support.json", "sweep.yaml"} <= set(expected)
    # 2 categories x (one, two, Dice: 2 shots x 2 seeds; Taught 4; Pooled and Compared 2 each)
    assert len(rows(tmp_path / "serial" / "mixed")) == 2 * (3 * 4 + 4 + 2 * 2)
    calls = Counter(module_tally.new())
    kinds = Counter(line.split()[0] for line in calls.elements())
    assert kinds["train"] == 2 * 2 * 2, "per shots and seed, and without each of two categories"
    assert kinds["prepare"] == 2
    assert kinds["customize"] == 4
    assert kinds["generate"] == 4
    assert kinds["personalize"] == 4 * 3
    # Near is asked once for both labels; without a support once for both seeds.
    near = [line for line in calls if line.startswith("predict Near ")]
    assert sum(calls[line] for line in near) == 2 * 3 * (1 + 2)
    for line in near:  # of a shard: without a support once, with two images for each seed
        assert calls[line] == (1 if line.startswith("predict Near 0") else 2)
    for workers in (1, 3):
        assert run_sweep(mixed(), f"ray{workers}", runner="ray", workers=workers) == 0
        files = published(tmp_path / f"ray{workers}" / "mixed")
        assert files == expected, f"{workers} workers give other files"
        again = Counter(line.split()[0] for line in module_tally.new())
        for kind in ("train", "prepare", "customize", "generate", "personalize", "predict"):
            assert again[kind] == kinds[kind], f"{kind} with {workers} workers"


def test_each_image_is_encoded_once_per_worker(
    run_sweep: Runner, module_tally: Tally, cluster: None, tmp_path: Path
) -> None:
    config = sweep(
        name="encoded", shots=[1, 2, 4], seeds=[0, 1], methods=[{"use": NEAR}, {"use": NEAR + ""}]
    )
    config["methods"][1] = {"use": NEAR, "label": "other", "params": {"power": 1.0}}
    for runner, workers in (("serial", 1), ("ray", 2)):
        module_tally.new()
        assert run_sweep(config, runner, runner=runner, workers=workers) == 0
        encoded = Counter(x for x in module_tally.new() if x.startswith("encode"))
        assert max(encoded.values()) <= workers
    timings = rows(tmp_path / "ray" / "encoded", "timings.csv")
    assert sum(float(r["encoded"]) for r in timings) == sum(encoded.values())


def test_trouble_on_ray_costs_its_cell(
    run_sweep: Runner, module_tally: Tally, cluster: None, tmp_path: Path
) -> None:
    ends = {
        "raise": "RuntimeError",
        "exit": "SystemExit",
        "os._exit": "worker was lost",
        "segfault": "worker was lost",
        "hang": "exceeded the time limit of 6 s",
        "memory": "MemoryError",
        "spoils": "ValueError: nobody sorts",  # evaluation would fail in an actor kept after it
    }
    methods = [{"use": NEAR}] + [
        {"use": "toys.trouble:Trouble", "label": how, "params": {"how": how}} for how in ends
    ]
    config = sweep(name="trouble", methods=methods, time_limit=6.0)
    assert run_sweep(config, runner="ray", workers=2) == 1
    folder = tmp_path / "runs" / "trouble"
    failed = {r["method"]: r for r in rows(folder, "failures.csv")}
    assert set(failed) == set(ends)
    for how, words in ends.items():
        assert failed[how]["category"] == "bee"
        assert words in failed[how]["error"], failed[how]["error"]
        assert "\n" not in failed[how]["error"]
    assert len(rows(folder)) == len(ends) + 2


def test_plugins_outside_the_checkout(
    run_sweep: Runner,
    cluster: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By dotted name on the path, by file, and by a file named relative to the working folder."""
    outside = tmp_path / "outside"
    outside.mkdir()
    text = (FAKES / "toys" / "methods.py").read_text()
    (outside / "helper_of_mine.py").write_text("FACTOR = 2.0\n")
    (outside / "mine.py").write_text(
        "from helper_of_mine import FACTOR\nfrom toys.methods import Near\n\n\n"
        "class Mine(Near):\n    def setup(self, device, features):\n"
        "        super().setup(device, features)\n        self.scale = FACTOR\n"
    )
    assert text
    names = ["toys.methods:Near", str(outside / "mine.py"), "../outside/mine.py:Mine"]
    methods = [{"use": use, "label": f"m{i}"} for i, use in enumerate(names)]
    elsewhere = tmp_path / "here"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    results = {}
    for runner in ("serial", "ray"):
        config = sweep(name="outside", methods=methods)
        assert run_sweep(config, runner, runner=runner, workers=1) == 0
        results[runner] = rows(tmp_path / runner / "outside")
    assert results["serial"] == results["ray"]
    assert len(results["ray"]) == 6


@pytest.mark.parametrize("runner", ["local", "ray"])
def test_long_tasks_say_how_far_they_are(
    run_sweep: Runner,
    module_tally: Tally,
    cluster: None,
    runner: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(progress, "QUIET_SPELL", 0.0)
    config = sweep(name="steps", datasets=[{"use": SQUARES, "categories": ["ant"]}])
    config["methods"] = [{"use": "toys.methods:Stepwise"}]
    assert run_sweep(config, runner, runner=runner, workers=1, quiet=False) == 0
    log = capsys.readouterr().err
    assert re.search(r"predict \S+: step \d+ of 32, loss 0\.\d+, [\d.]+ steps/s", log), log

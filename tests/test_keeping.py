"""What is kept of customized models, and the disk that a plan says it needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.planning import disk
from tests.sweeps import Runner, command, rows, sweep, written

pytestmark = pytest.mark.usefixtures("toys")


def config(**changes: Any) -> dict[str, Any]:
    return sweep(
        methods=[{"use": "toys.methods:Compared", "generator": "g"}],
        generators={"g": {"use": "toys.generators:Blend", "pool": 3}},
        shots=[1, 2],
        seeds=[0, 1],
        shard=5,
        **changes,
    )


def models(storage: Path) -> int:
    return len(list(storage.glob(".artifacts/customize/*/*.safetensors")))


def test_models_go_when_nothing_needs_them_and_results_stay(
    run_sweep: Runner, tmp_path: Path
) -> None:
    assert run_sweep(config(), "kept") == 0
    assert models(tmp_path / "kept") == 8  # two categories, shots and seeds
    assert run_sweep(config(keep_models=False), "gone") == 0
    assert models(tmp_path / "gone") == 0
    assert rows(tmp_path / "gone/toy") == rows(tmp_path / "kept/toy")
    # A setting of effort: the same sweep goes on, and has nothing to do.
    assert run_sweep(config(), "gone") == 0
    assert models(tmp_path / "gone") == 0
    # What needs them again makes them again.
    more = config(keep_models=False) | {"name": "more", "seeds": [0, 1, 2], "shots": [2]}
    assert run_sweep(more, "gone") == 0
    assert models(tmp_path / "gone") == 0
    assert len(rows(tmp_path / "gone/more")) == 6


def test_models_of_what_failed_are_kept(run_sweep: Runner, tmp_path: Path) -> None:
    broken = config(keep_models=False)
    broken["datasets"][0]["params"] = {"broken": ["ant/good/000"]}
    assert run_sweep(broken) != 0
    assert models(tmp_path / "runs") == 4  # the other category's are gone


def test_plan_says_the_disk(tmp_path: Path) -> None:
    path = written(tmp_path / "conf.yaml", config())
    done = command("plan", path, "--storage", tmp_path / "runs")
    assert done.returncode == 0, done.stderr
    line = next(line for line in done.stdout.splitlines() if line.startswith("Disk:"))
    assert "of customized models, among it" in line
    assert "GB are free" in line


def test_too_little_room_is_a_warning() -> None:
    need = disk.Need(others=2000, models=774_000, most=26_000)
    assert need.total(True) == 776_000
    kept, warning = disk.lines(need, 100_000, keep_models=True)
    assert kept.startswith("Disk: 776.0 GB (774.0 GB of customized models, among it)")
    assert warning.startswith("! the storage has less room")
    assert "keep_models: false needs 28.0 GB" in warning
    assert len(disk.lines(need, 100_000, keep_models=False)) == 1
    assert len(disk.lines(need, None, keep_models=True)) == 1

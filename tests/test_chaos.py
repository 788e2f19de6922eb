"""A sweep on Ray while a killer takes a random worker every few seconds: the same bytes."""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.clusters import cluster, published
from tests.sweeps import SQUARES, Runner, rows, sweep

pytestmark = [pytest.mark.timeout(900), pytest.mark.usefixtures("toys")]

WORKERS, SECONDS = 3, 1.5
KILLS = range(4, 8)  # enough to call it a storm, and so few that a slow machine comes through


class Killer(threading.Thread):
    """Ends a random worker of this process's cluster again and again, whatever it does.

    Where the machine is too slow to finish a task between two kills, it waits for one: otherwise
    all that would be tested is how workers start.
    """

    def __init__(self, storage: Path) -> None:
        super().__init__(daemon=True)
        self.over = threading.Event()
        self.killed: list[int] = []
        self._storage = storage

    def run(self) -> None:
        rng, before = random.Random(0), -1
        while not self.over.wait(rng.uniform(0.5 * SECONDS, 1.5 * SECONDS)):
            if len(self.killed) == KILLS[-1]:
                return
            done = len(list(self._storage.glob(".artifacts/*/*/*.safetensors")))
            if done > before and (living := workers()):
                victim, before = rng.choice(living), done
                victim.kill()
                self.killed.append(victim.pid)


def workers() -> list[psutil.Process]:
    """Ray's workers below this process that hold one of the harness's actors."""
    living = []
    for process in psutil.Process().children(recursive=True):
        try:
            if "_Actor" in " ".join(process.cmdline()):
                living.append(process)
        except psutil.Error:  # it has just ended
            continue
    return sorted(living, key=lambda p: p.pid)


def stormy() -> dict[str, Any]:
    return sweep(
        name="stormy",
        datasets=[{"use": SQUARES, "params": {"masks": True}}],
        methods=[
            {"use": "toys.slow:Slow", "params": {}},
            {"use": "toys.methods:Dice"},
            {"use": "toys.methods:Compared", "generator": "g"},
            {"use": "toys.methods:Taught", "auxiliary": "leave-one-out"},
        ],
        generators={"g": {"use": "toys.slow:Late", "pool": 3, "params": {"seconds": 0.5}}},
        shots=[1, 2],
        shard=4,
        attempts=10,
    )


def test_results_are_the_same_in_a_storm(run_sweep: Runner, tmp_path: Path) -> None:
    assert run_sweep(stormy(), "calm", runner="local", workers=WORKERS) == 0
    with cluster(tmp_path, WORKERS):
        killer = Killer(tmp_path / "runs")
        killer.start()
        began = time.monotonic()
        try:
            status = run_sweep(stormy(), runner="ray", workers=WORKERS)
        finally:
            killer.over.set()
            killer.join()
        took = time.monotonic() - began
    assert len(killer.killed) in KILLS, f"{len(killer.killed)} kills in {took:.0f} s"
    assert status == 0
    assert len(rows(tmp_path / "runs" / "stormy")) == 4 * 2 * 2
    assert published(tmp_path / "runs" / "stormy") == published(tmp_path / "calm" / "stormy")

"""Nothing is decoded or encoded twice by a worker: its counters say so, and they are right."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from harness.execution.memory import reuse
from tests.clusters import cluster
from tests.sweeps import NEAR, Runner, rows, sweep

pytestmark = [pytest.mark.timeout(900), pytest.mark.usefixtures("toys")]


def shared() -> dict[str, Any]:
    """Two methods of one encoder and a generator with latents, on three supports of each size."""
    return sweep(
        name="shared",
        datasets=[{"use": "toys.counted:CountedSquares", "label": "squares"}],
        methods=[
            {"use": NEAR, "label": "one"},
            {"use": NEAR, "label": "two", "params": {"power": 1.0}},
            {"use": "toys.methods:Compared", "generator": "g"},
        ],
        generators={"g": {"use": "toys.counted:CountedBlend", "pool": 5}},
        shots=[1, 2],
        seeds=[0, 1, 2],
        shard=6,
    )


def totals(table: list[dict[str, str]], what: str) -> list[int]:
    """Made, again, reused, over all workers."""
    matching = [r for r in table if r["what"] == what]
    assert matching, f"no row says {what}"
    return [sum(int(r[name]) for r in matching) for name in ("misses", "recomputed", "hits")]


def test_each_image_once_per_worker_that_holds_it(run_sweep: Runner, tmp_path: Path) -> None:
    with cluster(tmp_path, 2) as calls:
        assert run_sweep(shared(), runner="ray", workers=2) == 0
        lines = [line.split() for line in calls.new()]
    folder = tmp_path / "runs" / "shared"
    table = rows(folder, "sharing.csv")
    assert 1 <= len({r["worker"] for r in table}) <= 2
    # What the plug-ins saw themselves, process by process.
    opened = Counter((kind, source, pid) for _, kind, source, pid in of(lines, "opened"))
    encoded = Counter(key for _, key in of(lines, "encode"))
    latents = Counter((key, pid) for _, key, pid in of(lines, "latent"))
    assert max(opened.values()) == 1, "a worker opened a picture twice"
    assert max(encoded.values()) <= 2, "an image was encoded more often than there are workers"
    assert max(latents.values()) == 1, "a worker made a latent twice"
    # And what the engine counted.
    images = sum(kind == "image" for kind, _, _ in opened)
    for what, misses in (
        ("decode", images),
        ("mask", len(opened) - images),
        ("pixels", sum(encoded.values())),
        ("vae:toy", len(latents)),
    ):
        assert totals(table, what)[:2] == [misses, 0], what
        assert totals(table, what)[2] > misses, f"{what}: nothing was shared"
    # A customized model is read by each worker that needs it, once.
    read = totals(table, "read customize")
    assert read[1] == 0
    assert 12 <= read[0] <= 2 * 12
    # Running again makes nothing, and the table stays.
    before = (folder / "sharing.csv").read_bytes()
    assert run_sweep(shared()) == 0
    assert (folder / "sharing.csv").read_bytes() == before


def of(lines: list[list[str]], what: str) -> list[list[str]]:
    return [words for words in lines if words[0] == what]


def test_a_counter_knows_what_it_saw() -> None:
    counter = reuse.Counter()
    counter.miss("a", "xyz")
    counter.miss("b", "x")
    assert counter.take() == {"a": [3, 0, 0], "b": [1, 0, 0]}
    counter.miss("a", "zw")
    counter.hit("a", 4)
    assert counter.take() == {"a": [2, 1, 4]}
    assert counter.take() == {}


def test_counts_of_tasks_are_added_by_worker() -> None:
    sharing = reuse.Sharing()
    assert not sharing
    sharing.add("w1", {"decode": [2, 0, 1]})
    sharing.add("w0", {"decode": [1, 0, 0], "a,b": [1, 1, 1]})
    sharing.add("w1", {"decode": [1, 1, 0]})
    assert sharing
    assert sharing.text().splitlines() == [
        "worker,what,misses,recomputed,hits",
        'w0,"a,b",1,1,1',
        "w0,decode,1,0,0",
        "w1,decode,3,1,1",
    ]

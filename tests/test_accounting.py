"""What a sweep cost: stages that do not overlap, records that add up, shares that leave nothing."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from harness.execution.memory.stopwatch import Meter, Stopwatch, by_pool, by_stage
from harness.execution.process.worker import Worker
from harness.keys import Cell
from harness.planning.payload import Payloads
from harness.results.folder.accounting import PARTS, SECONDS, Account, TaskBook, read_tasks
from harness.run import Options, prepare
from tests.sweeps import Runner, Tally, rows, sweep, written

pytestmark = pytest.mark.usefixtures("toys")

STEP = 0.02  # as in toys.timed


def timed(name: str, **changes: Any) -> dict[str, Any]:
    """A sweep in which two methods share encodings, and two numbers of shots the queries."""
    methods = [
        {"use": "toys.timed:Timed", "generator": "g"},
        {"use": "toys.timed:Timed", "generator": "g", "label": "other", "params": {"mortal": "x"}},
    ]
    return sweep(
        name=name,
        datasets=[{"use": "toys.timed:TimedSquares", "params": {"names": ["ant"], "queries": 6}}],
        methods=methods,
        generators={"g": {"use": "toys.timed:TimedBlend", "pool": 3}},
        shots=[1, 2],
        shard=3,
        **changes,
    )


def records(folder: Path) -> list[dict[str, Any]]:
    return read_tasks((folder / "tasks.csv").read_text())


def test_a_stage_within_a_stage_stops_its_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 3.0, 6.0, 10.0, 15.0])
    monkeypatch.setattr("harness.execution.memory.stopwatch.time.perf_counter", lambda: next(clock))
    watch = Stopwatch.__new__(Stopwatch)
    watch.start()  # 0
    with watch.stage("work"), watch.stage("encode a"):  # 1, 3
        pass  # 6, 10
    seconds = watch.stop()  # 15
    assert seconds == {"other": 6.0, "work": 6.0, "encode a": 3.0}
    stages = by_stage(seconds)
    assert stages["encode_s"] == 3.0
    assert stages["task_s"] == 15.0 == sum(stages[name] for name in SECONDS)
    asked = {"a": 4, "b": 2, "read predict": 1, "mask": 1}
    assert by_pool(seconds, asked) == {"decode": (1, 0.0), "a": (4, 3.0), "b": (2, 0.0)}


def test_a_stage_that_is_left_by_an_error_is_over() -> None:
    watch = Stopwatch()
    with pytest.raises(ValueError, match="no"), watch.stage("work"), watch.stage("encode a"):
        raise ValueError("no")
    time.sleep(0.01)
    assert watch.stop()["other"] >= 0.01


def test_the_peak_of_a_task_is_not_that_of_the_one_before() -> None:
    meter = Meter()
    meter.start()
    held = bytearray(64 << 20)
    high = meter.stop()["peak_mb"]
    del held
    meter.start()
    spun = sum(i * i for i in range(200_000))
    low = meter.stop()
    assert spun
    assert high - low["peak_mb"] > 40
    assert low["cpu_s"] > 0.001


def test_every_second_of_a_worker_is_in_a_stage(tmp_path: Path, tally: Tally) -> None:
    """Measured from outside: the steps that the plug-ins took, and the clock around the worker."""
    ready = prepare(Options(written(tmp_path / "timed.yaml", timed("timed"))))
    payloads = Payloads(ready.sweep, ready.inputs, ready.graph)
    worker = Worker(str(tmp_path / "store"))
    book = TaskBook(None, "timed")
    began = time.perf_counter()
    for task in ready.graph.tasks.values():
        done = worker.run(payloads.write(task))
        assert not done.error, done.traceback
        book.add(payloads.names(task) | {"worker": "w"}, "done", done.stages, done.pools, 0.0, 1)
    wall = time.perf_counter() - began
    booked = read_tasks(book.text())
    assert sum(r["seconds"] + r["idle_s"] for r in booked) == pytest.approx(wall, rel=0.02)
    for record in booked:
        assert sum(record[name] for name in SECONDS) == pytest.approx(record["seconds"], abs=1e-4)
    steps: Counter[str] = Counter()
    for line in tally.lines():
        if line.startswith("step "):  # none of them in an evaluation, which is the engine's work
            _, what, seconds = line.split()
            steps[what] += float(seconds)  # type: ignore[assignment]
    assert set(steps) == {"setup", "decode", "encode", "fit", "work"}
    for stage, taken in steps.items():
        measured = sum(r[f"{stage}_s"] for r in booked if r["kind"] != "evaluate")
        assert taken <= measured + 1e-3, stage
        # Were one stage counted within another, it would be there twice.
        assert measured < taken * 1.15 + 0.4, stage


def test_a_sweep_says_what_it_cost(run_sweep: Runner, tally: Tally, tmp_path: Path) -> None:
    assert run_sweep(timed("timed")) == 0
    folder = tmp_path / "runs" / "timed"
    booked = records(folder)
    kinds = Counter(r["kind"] for r in booked)
    expected = {"prepare": 1, "customize": 2, "generate": 2, "personalize": 4, "predict": 8}
    assert kinds == expected | {"evaluate": 4}
    cells_bear_what_tasks_cost(folder)

    # Another sweep that finds all of it there takes the records of what it did not make.
    assert run_sweep(timed("later")) == 0
    again = rows(tmp_path / "runs" / "later", "timings.csv")
    assert [c["unknown_tasks"] for c in again] == ["0"] * 4
    known = records(tmp_path / "runs" / "later")
    makers = {r["key"]: r["sweep"] for r in known}
    assert {makers[r["key"]] for r in booked if r["kind"] == "predict"} == {"timed"}
    total = sum(r["seconds"] + r["lost_s"] for r in known)
    assert sum(float(c["total_s"]) for c in again) == pytest.approx(total, rel=1e-3)


def cells_bear_what_tasks_cost(folder: Path) -> None:
    booked, cells = records(folder), rows(folder, "timings.csv")
    total = sum(r["seconds"] + r["lost_s"] for r in booked)
    assert sum(float(c["total_s"]) for c in cells) == pytest.approx(total, rel=1e-4)
    for cell in cells:
        parts = float(cell["own_s"]) + float(cell["shared_s"])
        assert parts == pytest.approx(float(cell["total_s"]), abs=1e-4)
        assert float(cell["whole_s"]) > float(cell["total_s"])
        assert cell["unknown_tasks"] == "0"
        assert cell["started"] < cell["ended"]
    # The second method found the encodings of the first, and pays half of them all the same.
    encode = {r["method"]: float(r["encode_ms"]) for r in rows(folder, "costs.csv")}
    ours, theirs = (float(r["encode_ms"]) for r in rows(folder, "costs.csv") if r["shots"] == "1")
    assert len(encode) == 2
    assert ours == pytest.approx(theirs)
    assert ours > 0
    per_query = sum(float(r["total_ms"]) * int(r["queries"]) for r in rows(folder, "costs.csv"))
    assert per_query / 1000 == pytest.approx(total, rel=1e-3)


def test_what_a_lost_worker_did_is_counted(run_sweep: Runner, tmp_path: Path, tally: Tally) -> None:
    order = tmp_path / "once"
    order.touch()
    config = timed("mortal", seeds=[0])
    config["methods"] = [
        {"use": "toys.timed:Timed", "generator": "g", "params": {"mortal": str(order)}}
    ]
    assert run_sweep(config) == 0
    folder = tmp_path / "runs" / "mortal"
    (tried,) = (r for r in records(folder) if r["tries"] == 2)
    assert tried["kind"] == "predict"
    assert tried["status"] == "done"
    assert 10 * STEP < tried["lost_s"] < 100 * STEP
    lost = sum(float(r["lost_ms"]) * int(r["queries"]) for r in rows(folder, "costs.csv"))
    assert lost / 1000 == pytest.approx(tried["lost_s"], rel=1e-3)


def test_failed_tasks_have_records_and_a_retry_keeps_their_seconds() -> None:
    book = TaskBook(None, "s")
    task = {"key": "k", "kind": "predict", "affinity": "d/c/0", "method": "m", "worker": "w"}
    task |= {"shots": 2, "seed": 0, "shard": 0}
    stages = {"task_s": 3.0, "work_s": 3.0, "idle_s": 1.0, "started": 1.75, "gpus": 0.5}
    book.add(task, "failed", stages, {}, 0.0, 1)
    book = TaskBook(book.text(), "s")  # another run
    assert book.records["k"]["status"] == "failed"
    book.add(task, "done", stages, {"a": (2, 1.0)}, 0.5, 2)
    (record,) = read_tasks(book.text())
    assert (record["status"], record["tries"], record["lost_s"]) == ("done", 3, 3.5)
    assert record["started"] == "1970-01-01T00:00:01.750+00:00"
    assert record["pools"] == {"a": (2, 1.0)}
    cells = {Cell("m", "d", "c", 2, seed): "k" for seed in (0, 1)}
    (row,) = Account(cells, {"k": ()}, book.records).rows(dict.fromkeys(cells, 5))
    assert row["total_ms"] == pytest.approx(1000 * 6.5 / 10)
    assert row["total_gpu_ms"] == row["total_ms"] / 2
    assert row["total_ms"] == pytest.approx(sum(row[f"{part}_ms"] for part in PARTS))
    (cell,) = unknown = {Cell("m", "d", "c", 2, 0): "u"}
    assert Account(unknown, {"u": ()}, book.records).cell(cell)["unknown_tasks"] == 1

"""The sweep's folder: what is kept, what is refused, what is found damaged."""

from __future__ import annotations

import csv
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness import config
from harness.errors import InputError
from harness.keys import Cell
from harness.results.aggregate import FORMAT
from harness.results.folder import integrity
from harness.results.folder.accounting import TaskBook
from harness.results.folder.publishing import publish
from harness.results.folder.writer import ANEW, NEWEST, ResultsWriter
from harness.storage.store import Store
from tests.sweeps import sweep, written

pytestmark = pytest.mark.usefixtures("toys")

A = Cell("Near", "Squares", "ant", 2, 0)
B = Cell("Near", "Squares", "bee", 2, 0)
ROW = {"n_normal": 5, "n_anomalous": 5, "image_auroc": 1 / 3, "status": ""}
KEYS = {A: "ka", B: "kb"}


@pytest.fixture
def opened(tmp_path: Path) -> Any:
    def go(keys: dict[Cell, str] | None = None, **changes: Any) -> ResultsWriter:
        loaded = config.load(written(tmp_path / "conf.yaml", sweep(**changes)))
        return ResultsWriter(Store(str(tmp_path / "runs")), loaded, KEYS if keys is None else keys)

    return go


def filled(writer: ResultsWriter) -> None:
    writer.begin({}, {}, [])
    writer.finish(A, "ka", ROW, {"fit_s": 0.5})
    writer.fail(B, "kb", {"task": "t", "bad_data": False, "error": 'e, "f"', "traceback": "g\nh"})
    writer.flush(final=True)


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(p): (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file()
    }


def test_what_was_written_is_read_back(opened: Any, tmp_path: Path) -> None:
    filled(opened())
    again = opened()
    assert again.rows[A]["image_auroc"] == 1 / 3
    assert again.rows[A]["pixel_auroc"] is None
    assert again.failures[B]["error"] == 'e, "f"'
    assert again.failures[B]["traceback"] == "g\nh"
    before = (tmp_path / "runs/toy/results.csv").read_bytes()
    again.flush(final=True)
    assert (tmp_path / "runs/toy/results.csv").read_bytes() == before


def test_of_other_sweeps_only_the_newest_say_what_tasks_take(opened: Any, tmp_path: Path) -> None:
    """A storage may hold hundreds of tables, far away: those of the last sweeps are enough."""
    writer = opened()
    filled(writer)
    book = TaskBook(None, "other")
    for age in range(NEWEST + 3):
        name = f"sweep{age:02d}"
        names = {"key": f"{age}", "kind": "predict", "affinity": "a", "worker": "w"}
        book.records = {}
        book.add(names, "done", {"task_s": 1.0}, {}, 0.0, 1)
        writer.store.write_text(f"{name}/tasks.csv", book.text())
        os.utime(tmp_path / "runs" / name / "tasks.csv", (1e9 - age, 1e9 - age))
    own = {"key": "own", "kind": "predict", "affinity": "a", "worker": "w"}
    writer.tasks.add(own, "done", {"task_s": 1.0}, {}, 0.0, 1)
    newest = [str(age) for age in reversed(range(NEWEST))]
    assert [record["key"] for record in writer.earlier()] == [*newest, "own"]


def test_rows_of_another_key_are_out_of_date(opened: Any) -> None:
    filled(opened())
    assert opened({A: "other", B: "kb"}).rows == {}
    assert opened({A: "ka", B: "other"}).failures == {}
    assert set(opened({B: "kb"}).rows) == {A}, "cells that --only leaves out are kept"


def test_a_row_without_its_key_is_computed_again(opened: Any, tmp_path: Path) -> None:
    """Killed between the two files."""
    filled(opened())
    (tmp_path / "runs/toy/timings.csv").unlink()
    assert opened().rows == {}


def test_success_and_failure_replace_one_another(opened: Any, tmp_path: Path) -> None:
    writer = opened()
    filled(writer)
    writer.finish(B, "kb", ROW, {})
    writer.fail(A, "ka", {"error": "x"})
    writer.flush(final=True)
    again = opened()
    assert (set(again.rows), set(again.failures)) == ({B}, {A})
    again.finish(A, "ka", ROW, {})
    again.flush(final=True)
    assert not (tmp_path / "runs/toy/failures.csv").exists()


@pytest.mark.parametrize(
    "changes",
    [{"seeds": [1]}, {"maps": False}, {"methods": [{"use": "mean_color"}]}],
)
def test_a_folder_of_another_config_is_left_as_it_is(
    opened: Any, tmp_path: Path, changes: dict[str, Any]
) -> None:
    filled(opened())
    before = snapshot(tmp_path / "runs")
    with pytest.raises(InputError, match=f"as it is: {next(iter(changes))}") as caught:
        opened(**changes)
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "runs/toy") in str(caught.value)
    assert snapshot(tmp_path / "runs") == before
    opened(description="other words", time_limit=3, attempts=4)


@pytest.mark.parametrize("name", ["results.csv", "timings.csv", "failures.csv"])
@pytest.mark.parametrize("how", ["cut", "other", "more"])
def test_a_damaged_table_is_named(opened: Any, tmp_path: Path, name: str, how: str) -> None:
    filled(opened())
    path = tmp_path / "runs/toy" / name
    text = path.read_text()
    damaged = {
        "cut": text[: text.index("\n") + 12],
        "other": "a,b\n1,2\n",
        "more": text + "x,y,z,1,2,3\n",
    }
    path.write_text(damaged[how])
    writer = opened()
    assert all("damaged" in line and name in line for line in writer.damage)
    assert writer.damage
    if how != "more":
        assert not (writer.failures if name == "failures.csv" else writer.rows)


def test_storage_that_cannot_be_written(opened: Any, tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(InputError, match="runs") as caught:
        opened().begin({}, {}, [])
    assert "\n" not in str(caught.value)


def test_storage_of_an_unknown_kind() -> None:
    with pytest.raises(InputError, match="nope://x"):
        Store("nope://x")


@pytest.mark.parametrize("error", ["=cmd|' /C calc'!A0", "+1", "-1", "@SUM(1)", "\t=1"])
def test_no_text_of_a_table_is_a_formula(opened: Any, tmp_path: Path, error: str) -> None:
    writer = opened()
    writer.begin({}, {}, [])
    writer.fail(B, "kb", {"task": "t", "bad_data": False, "error": error, "traceback": error})
    writer.flush(final=True)
    (row,) = csv.DictReader((tmp_path / "runs/toy/failures.csv").open(newline=""))
    assert (row["error"], row["traceback"]) == (f"'{error}", f"'{error}")
    assert opened().failures[B]["error"] == f"'{error}"


def test_no_name_of_an_image_is_a_formula(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    arrays = {"scores": np.array([-1.5, 2.0], np.float32), "gallery.index": np.arange(2)}
    names = ["=HYPERLINK(A1)/0.png", "good/-1.png"]
    meta = {"names": names, "labels": [1, 0], "defects": ["@SUM(A1)", "good"]}
    meta["groups"] = ["+1", ""]
    digests = publish(store, "toy/{}/m/d/c/k2_s0", arrays, meta)
    table = (tmp_path / "toy/predictions/m/d/c/k2_s0.csv").read_text().splitlines()
    assert table[1:] == ["'=HYPERLINK(A1)/0.png,1,'@SUM(A1),'+1,-1.5", "good/-1.png,0,good,,2.0"]
    gallery = (tmp_path / "toy/gallery/m/d/c/k2_s0.npz").read_bytes()
    time.sleep(2.1)  # zip archives count times in steps of two seconds
    assert publish(store, "toy/{}/m/d/c/k2_s0", arrays, meta) == digests
    assert (tmp_path / "toy/gallery/m/d/c/k2_s0.npz").read_bytes() == gallery


class Clock:
    """Stands still, but for the seconds that writing is said to take."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


def test_tables_are_written_now_and_then_and_seldom_where_that_takes_long(
    opened: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, writes, takes, full = Clock(), [], 0.0, False
    writer, table = opened(), tmp_path / "runs/toy/results.csv"
    writer.begin({}, {}, [])
    write = writer.store.write_text

    def slowly(name: str, text: str) -> None:
        if full:
            raise OSError("full")
        if name.endswith("results.csv"):
            clock.now += takes
            writes.append(clock.now)
        write(name, text)

    monkeypatch.setattr("harness.results.folder.writer.time", clock)
    monkeypatch.setattr(writer.store, "write_text", slowly)

    def flushed(now: float, final: bool = False) -> bool:
        before, clock.now = len(writes), now
        writer.flush(final)
        return len(writes) > before

    assert not flushed(50.0), "nothing is new"
    writer.finish(A, "ka", ROW, {})
    takes = 0.25
    assert flushed(100.0)
    assert writes == [100.25]
    assert not flushed(200.0), "nothing is new"
    writer.finish(A, "ka", ROW, {})
    assert flushed(300.0)
    writer.fail(A, "ka", {"error": "x"})
    assert not flushed(305.0), "twenty times as long as it took to write, from when it was written"
    takes = 0.01
    assert flushed(305.25)
    writer.finish(B, "kb", ROW, {})
    assert not flushed(306.0)
    full = True
    assert not flushed(306.5), "tried, in vain"
    full = False
    assert not flushed(307.0)
    assert flushed(307.5), "tried again"
    assert not flushed(400.0)
    assert flushed(400.0, final=True), "at the end in any case"
    assert table.exists()
    full = True
    with pytest.raises(OSError, match="full"):
        writer.flush(final=True)


def test_the_summary_names_what_the_plan_has_and_the_rows_lack(opened: Any) -> None:
    writer = opened()
    filled(writer)
    (row,) = writer.summary().to_dict("records")
    assert (row["n_seeds"], row["n_cells"], row["n_categories"]) == (0, 1, 2)
    assert row["missing"] == "seed 0: bee"
    writer.finish(B, "kb", ROW, {})
    (row,) = writer.summary().to_dict("records")
    assert row["complete"]
    writer.fail(B, "kb", {"error": "x"})
    assert not writer.summary()["complete"].any()


@pytest.mark.parametrize(("cells", "words"), [(1, "1 row is"), (2, "2 rows are")])
def test_damaged_rows_are_counted(opened: Any, tmp_path: Path, cells: int, words: str) -> None:
    writer = opened()
    writer.begin({}, {}, [])
    for cell in (A, B)[:cells]:
        writer.fail(cell, KEYS[cell], {"task": "t", "bad_data": False, "error": "before"})
    writer.flush(final=True)
    path = tmp_path / "runs/toy/failures.csv"
    path.write_text(path.read_text().replace("before", "after"))
    (line,) = opened().damage
    assert f"{path}: damaged, {words} not what was written; made anew" in line


def test_a_table_without_whole_rows_is_damaged(opened: Any, tmp_path: Path) -> None:
    filled(opened())
    path = tmp_path / "runs/toy/results.csv"
    path.write_text(path.read_text().splitlines(keepends=True)[0])
    writer = opened()
    assert writer.rows == {}
    assert any("results.csv" in line for line in writer.damage)


def test_costs_are_divided_among_the_cells_that_have_a_result(opened: Any) -> None:
    writer = opened()
    filled(writer)
    names = {"dataset": "Squares", "category": "ant", "worker": "w"}
    for key, kind, seconds in (("ka", "evaluate", 1.0), ("p", "predict", 3.0)):
        task = {"task": kind, "key": key, "kind": kind, "method": "Near", **names}
        writer.tasks.add(task, "done", {"task_s": seconds, "other_s": seconds}, {}, 0.5, 1)
    writer.settle(KEYS, {"ka": ["p"], "kb": ["p"], "p": []})
    assert writer.timings[A]["total_s"] == pytest.approx(5.0)
    assert B not in writer.timings
    (row,) = writer.costs
    assert (row["method"], row["cells"]) == ("Near", 1)


def test_costs_of_tasks_that_another_sweep_did_are_taken_from_there(opened: Any) -> None:
    names = {"key": "p", "kind": "predict", "method": "Near", "dataset": "Squares", "worker": "w"}
    book = TaskBook(None, "other")
    book.add(names, "done", {"task_s": 3.0, "other_s": 3.0}, {}, 0.0, 1)
    writer = opened()
    writer.store.write_text("garbled/tasks.csv", "key,kind\np,predict\n")
    writer.store.write_text("other/tasks.csv", book.text())
    filled(writer)
    own = {"key": "ka", "kind": "evaluate", "method": "Near", "dataset": "Squares", "worker": "w"}
    writer.tasks.add(own, "done", {"task_s": 1.0, "other_s": 1.0}, {}, 0.0, 1)
    writer.settle(KEYS, {"ka": ["p"], "p": []})
    assert writer.timings[A]["total_s"] == pytest.approx(4.0)
    assert writer.timings[A]["unknown_tasks"] == 0
    assert set(writer.tasks.records) == {"ka", "p"}


def test_a_record_that_no_sweep_has_is_an_unknown_task(opened: Any) -> None:
    writer = opened()
    filled(writer)
    writer.settle(KEYS, {"ka": ["p"], "p": []})
    assert writer.timings[A]["unknown_tasks"] == 2


@pytest.mark.parametrize("keys", [None, {"Near": {"ant": "k"}}])
def test_what_keys_are_made_of_is_written(opened: Any, tmp_path: Path, keys: Any) -> None:
    opened().begin({"Squares": {}}, {"commit": "c"}, [{"note": "n"}], keys)
    folder = tmp_path / "runs/toy"
    files = ("keys.json", "notes.json", "environment.json", "support.json")
    contents = [json.loads((folder / name).read_text()) for name in files]
    assert contents == [
        keys or {},
        [{"note": "n"}],
        {"commit": "c", "format": FORMAT},
        {"Squares": {}},
    ]


def test_files_that_were_altered_are_told_once_each(opened: Any, tmp_path: Path) -> None:
    writer, folder = opened(), tmp_path / "runs/toy"
    filled(writer)
    integrity.list_files(writer.store, "toy")
    assert opened().damage == []
    (folder / "notes.json").write_text("[1]")
    (line,) = opened().damage
    assert line == f"{folder}/notes.json: damaged, not what was written; {ANEW}"
    failures = folder / "failures.csv"
    failures.write_text(failures.read_text().replace("g\nh", "g\ni"))
    first, second = opened().damage
    assert first.startswith(f"{failures}: damaged, 1 row is")
    assert second == line, "what another line tells is not in it"


@pytest.mark.parametrize(("count", "words"), [(1, "1 row is"), (2, "2 rows are")])
def test_damaged_records_of_tasks_are_counted_and_left_out(
    opened: Any, tmp_path: Path, count: int, words: str
) -> None:
    writer = opened()
    for key in ("one", "two", "three"):
        writer.tasks.add({"key": key, "kind": "predict"}, "done", {}, {}, 0.0, 1)
    filled(writer)
    path = tmp_path / "runs/toy/tasks.csv"
    path.write_text(path.read_text().replace("predict", "evaluate", count))
    again = opened()
    assert again.damage == [f"{path}: damaged, {words} not what was written; left out"]
    assert len(again.tasks.records) == 3 - count


def test_records_of_tasks_that_are_no_table_are_begun_anew(opened: Any, tmp_path: Path) -> None:
    filled(opened())
    path = tmp_path / "runs/toy/tasks.csv"
    path.write_text("a,b\n1,2\n")
    writer = opened()
    assert writer.damage == [f"{path}: damaged; begun anew: what earlier tasks cost is lost"]
    assert writer.tasks.records == {}


@pytest.mark.parametrize(("change", "lost"), [("", 0), (",9", 1), ("short", 1)])
def test_a_row_that_is_not_whole_is_damage_and_one_without_its_timing_is_none(
    opened: Any, tmp_path: Path, change: str, lost: int
) -> None:
    filled(opened())
    path = tmp_path / "runs/toy/results.csv"
    row = path.read_text().splitlines()[1].replace("ant", "zebra")
    row = row.rpartition(",")[0] if change == "short" else row + change
    path.write_text(f"{path.read_text()}{row}\n")
    writer = opened()
    assert set(writer.rows) == {A}
    assert len(writer.damage) == lost
    assert all("results.csv, timings.csv: damaged, 1 row is" in line for line in writer.damage)


def test_records_of_other_sweeps_come_before_ones_own(opened: Any) -> None:
    for name in ("other", "toy"):
        writer = opened(name=name)
        filled(writer)
        writer.tasks.add({"task": name, "key": name, "kind": "k"}, "done", {}, {}, 0.0, 1)
        writer.flush(final=True)
    assert [record["key"] for record in opened(name="toy").earlier()] == ["other", "toy"]

"""What a folder's writer tells and keeps when a run begins, and how fine its costs are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness import config
from harness.keys import Cell
from harness.results.folder.writer import ResultsWriter
from harness.storage.store import Store
from tests.sweeps import sweep, written

pytestmark = pytest.mark.usefixtures("toys")
A = Cell("Near", "Squares", "ant", 2, 0)
ROW = {"n_normal": 5, "n_anomalous": 5, "image_auroc": 1 / 3, "status": ""}


def opened(folder: Path) -> ResultsWriter:
    loaded = config.load(written(folder / "conf.yaml", sweep()))
    return ResultsWriter(Store(str(folder / "runs")), loaded, {A: "ka"})


def test_damage_is_told_when_a_run_begins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    opened(tmp_path).begin({}, {}, [])
    assert capsys.readouterr().err == ""
    (tmp_path / "runs/toy/tasks.csv").write_text("a,b\n1,2\n")
    writer = opened(tmp_path)
    assert capsys.readouterr().err == ""
    writer.begin({}, {}, [])
    assert capsys.readouterr().err.splitlines() == writer.damage != []


def test_supports_of_the_sweeps_datasets_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "runs/toy/support.json"
    writer = opened(tmp_path)
    writer.begin({"Squares": {"ant": {"0": ["a"]}}, "gone": {}}, {}, [])
    writer.begin({}, {}, [])
    assert json.loads(path.read_text()) == {"Squares": {"ant": {"0": ["a"]}}}
    writer.begin({"Squares": {"bee": {}}}, {}, [])
    assert json.loads(path.read_text()) == {"Squares": {"bee": {}}}
    for damaged in ("[1]", "{", "3"):
        path.write_text(damaged)
        writer.begin({}, {}, [])
        assert json.loads(path.read_text()) == {}


def test_costs_are_written_to_a_millionth_of_a_second(tmp_path: Path) -> None:
    writer = opened(tmp_path)
    writer.begin({}, {}, [])
    writer.finish(A, "ka", ROW, {})
    names = {"key": "ka", "kind": "evaluate", "method": "Near", "dataset": "Squares"}
    writer.tasks.add(names, "done", {"task_s": 2 / 3, "other_s": 2 / 3}, {}, 0.0, 1)
    writer.settle({A: "ka"}, {"ka": []})
    assert writer.timings[A]["total_s"] == 0.666667

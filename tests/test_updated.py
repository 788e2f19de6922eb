"""A checkout, or a method, that is edited while a sweep runs."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from harness import plugins
from harness.execution.workers import Workers
from harness.running import ending
from tests.checkouts import Checkout
from tests.sweeps import FAKES, Runner, rows, started, sweep, waited, written

pytestmark = pytest.mark.usefixtures("toys")

METHOD = """
import numpy as np
from harness.interface import Method, Prediction
from {aid} import brightness


class Mine(Method):
    '''Brightness.'''

    def fit(self, support):
        pass

    def predict(self, queries):
        return Prediction(np.array([brightness(i.pixels) for i in queries.images], np.float32))
"""
AID = "def brightness(pixels):\n    return float(pixels.mean())  # of all\n"


def test_a_checkout_that_is_replaced_ends_its_run_with_tables_and_report(tmp_path: Path) -> None:
    """As by a checkout of another commit: what the end of a run needs is loaded before."""
    checkout = Checkout(tmp_path)
    word = tmp_path / "word"
    methods = [{"use": "toys.waits:Waits", "params": {"word": str(word)}}]
    data = {"use": "toys.data:Squares", "params": {"names": ["ant"]}}
    config = written(tmp_path / "c.yaml", sweep(methods=methods, datasets=[data]))
    python = str(checkout.folder / ".venv" / "bin" / "python")
    words = [python, "-m", "harness", "run", str(config), "--runner", "serial"]
    words += ["--storage", str(tmp_path / "runs"), "--mlflow", f"sqlite:///{tmp_path}/m.db"]
    variables = os.environ | {"PYTHONPATH": str(FAKES), "PYTHONDONTWRITEBYTECODE": "1"}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with started(words, cwd=checkout.folder, env=variables, **pipes) as process:
        waited(Path(f"{word}.awaited").exists, "task", process)
        page = checkout.folder / "harness" / "reporting" / "page"
        shutil.rmtree(page)
        for path in (checkout.folder / "harness").rglob("*.py"):
            path.write_text("as nobody can read it (\n")
        word.touch()
        out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert "Traceback" not in err
    assert "Images" in out
    assert rows(tmp_path / "runs" / "toy")
    assert (tmp_path / "runs" / "toy" / "report.html").stat().st_size > 10_000


@pytest.mark.parametrize("part", ["write_tables", "publish"])
def test_what_goes_wrong_at_the_end_is_one_line_and_heals(
    part: str,
    run_sweep: Runner,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ImportError("cannot import name 'other' from 'pandas'\nbecause")

    with monkeypatch.context() as patch:
        if part == "publish":
            patch.setattr(ending.report, "artifacts", broken)
        else:
            patch.setattr(ending.ResultsWriter, "settle", broken)
        assert run_sweep(sweep()) == 1
    (line,) = capsys.readouterr().err.splitlines()
    what = "no report" if part == "publish" else "no tables"
    assert line.startswith(f"{tmp_path / 'runs' / 'toy'}: {what}: ImportError: cannot import name")
    assert line.endswith("run the same command again, which ends with what was left out")
    assert run_sweep(sweep()) == 0
    assert capsys.readouterr().err == ""
    assert (tmp_path / "runs" / "toy" / "report.html").is_file()
    assert len(rows(tmp_path / "runs" / "toy", "costs.csv")) == 1


def edited(path: Path, text: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a file changed, or removed, when all is planned and no worker has begun."""
    run = Workers.run

    def later(self: Workers, *sources: Any) -> None:
        path.unlink() if text is None else path.write_text(text)
        run(self, *sources)

    monkeypatch.setattr(Workers, "run", later)


DATASET = """
from toys.data import Squares


class Own(Squares):
    def open(self, source):
        return super().open(source) // 2
"""


def test_a_dataset_that_changes_under_a_run_is_not_taken_for_what_it_was(
    run_sweep: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "own.py"
    path.write_text(DATASET)
    config = sweep(datasets=[{"use": str(path), "label": "own"}, {"use": "toys.data:Squares"}])
    with monkeypatch.context() as patch:
        edited(path, DATASET.replace("// 2", "// 3"), patch)
        assert run_sweep(config) == 1
    folder = tmp_path / "runs" / "toy"
    assert {row["dataset"] for row in rows(folder)} == {"Squares"}
    errors = {row["error"] for row in rows(folder, "failures.csv")}
    name = f"the code of {path} was changed while the sweep ran"
    assert errors == {f"Changed: {name}; run the same command again"}


@pytest.mark.parametrize("change", ["helper", "gone", "comment"])
def test_a_method_that_changes_under_a_run_makes_nothing_under_its_old_key(
    change: str, run_sweep: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    aid = tmp_path / f"aid_{change}.py"
    aid.write_text(AID)
    method = tmp_path / "mine.py"
    method.write_text(METHOD.replace("{aid}", aid.stem))
    config = sweep(methods=[{"use": str(method)}, {"use": "mean_color"}], shots=[1])
    texts = {"helper": AID.replace("mean", "max"), "comment": AID.replace("all", "the three")}
    with monkeypatch.context() as patch:
        edited(aid, texts.get(change), patch)
        status = run_sweep(config)
    folder = tmp_path / "runs" / "toy"
    if change == "comment":
        assert status == 0
        return
    assert status == 1
    assert {row["method"] for row in rows(folder)} == {"mean_color"}
    errors = {row["error"] for row in rows(folder, "failures.csv")}
    if change == "helper":
        name = f"the code of {method} was changed while the sweep ran"
        assert errors == {f"Changed: {name}; run the same command again"}
        plugins.source.cache_clear()
        assert run_sweep(config) == 0
        assert {row["method"] for row in rows(folder)} == {"mean_color", "mine"}
    else:
        assert "cannot be imported" in errors.pop()


def test_a_method_that_is_moved_away_under_a_run_costs_its_cells_alone(
    run_sweep: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = tmp_path / "mine.py"
    method.write_text(METHOD.replace("from {aid} import brightness", "brightness = np.mean"))
    config = sweep(methods=[{"use": str(method)}, {"use": "mean_color"}], shots=[1])
    edited(method, None, monkeypatch)
    assert run_sweep(config) == 1
    assert {row["method"] for row in rows(tmp_path / "runs" / "toy")} == {"mean_color"}
    errors = {row["error"] for row in rows(tmp_path / "runs" / "toy", "failures.csv")}
    assert "mine.py" in errors.pop()

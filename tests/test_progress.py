"""What a sweep shows while it runs, with a terminal and without."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from harness.keys import Cell
from harness.reporting.live import progress
from harness.reporting.live.pace import Work
from harness.reporting.live.progress import Display
from harness.reporting.live.time_left import TimeLeft

CELLS = [
    Cell(m, "elpv", "elpv", k, s) for m in ("padim", "patchcore") for k in (2, 4) for s in (0, 1)
]


def display(quiet: bool = False, console: Console | None = None) -> Display:
    tasks = [
        Work(f"t{i}", "predict", "padim", "elpv/0", seconds=30, earlier=True) for i in range(4)
    ]
    left = TimeLeft(tasks, 2)
    rows = {CELLS[0]: {"image_auroc": "0.75"}}
    return Display("demo", CELLS, rows, 4, 2, left, quiet, console)


def test_the_first_line_comes_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    with display():
        pass
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "demo: 8 cells (1 done before), 4 tasks to do, 2 workers, about 60 s left"


def test_lines_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with display() as shown:
        shown.started("t0", "predict elpv/0", "worker-0")
        shown.worked("t0", "worker-0")
        shown.finished(CELLS[1], {"image_auroc": 0.5})
        shown.failed(CELLS[2], "ValueError: no")
    lines = capsys.readouterr().err.splitlines()[1:]
    assert lines[0].startswith(
        "[2/8] padim on elpv/elpv, 2 shots, seed 1: image AUROC 50.0  (about"
    )
    assert lines[1].startswith("[3/8] FAILED padim on elpv/elpv, 4 shots, seed 0: ValueError: no")


def test_a_long_task_is_heard_of(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "QUIET_SPELL", 0.0)
    with display() as shown:
        shown.tick()
        shown.started("t0", "customize elpv/elpv", "worker-0")
        shown.tick()
    lines = capsys.readouterr().err.splitlines()[1:]
    assert len(lines) == 2
    assert "waiting for workers" in lines[0]
    assert "at work: customize elpv/elpv" in lines[1]


def test_a_task_whose_worker_is_gone_is_no_longer_at_work(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another worker begins it again, and is the only one to do so."""
    monkeypatch.setattr(progress, "QUIET_SPELL", 0.0)
    with display() as shown:
        shown.started("t0", "customize elpv/elpv", "worker-0")
        shown.lost("t0", "worker-0")
        shown.tick()
        shown.started("t0", "customize elpv/elpv", "worker-2")
        shown.worked("t0", "worker-2")
        shown.tick()
    lines = capsys.readouterr().err.splitlines()[1:]
    assert len(lines) == 2
    assert all("waiting for workers" in line for line in lines)


def test_quiet_is_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    with display(quiet=True) as shown:
        shown.finished(CELLS[1], {"image_auroc": None})
        shown.tick()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("width", [80, 120, 200])
def test_a_terminal_shows_methods_by_shots_within_its_width(width: int) -> None:
    screen = io.StringIO()
    options: dict[str, Any] = {"force_terminal": True, "color_system": None, "height": 24}
    with display(console=Console(file=screen, width=width, **options)) as shown:
        for worker in range(8):
            shown.started(f"t{worker}", f"predict elpv/{worker} of a long name", f"w{worker}")
        shown.finished(CELLS[1], {"image_auroc": 0.25})
        picture = Console(file=io.StringIO(), width=width, color_system=None)
        picture.print(shown._picture())
    lines = picture.file.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    (row,) = [line for line in lines if "padim" in line]
    assert row.split() == ["padim", "50.0", "·", "0/2"], "0.75 and 0.25, and nothing yet"

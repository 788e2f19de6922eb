"""Hostile plug-ins and hostile names: others get their numbers, and the driver comes to its end."""

from __future__ import annotations

import csv
import importlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Picture

from harness.errors import MESSAGE, InputError, Problem, described, one_line, printable, shortened
from harness.execution.attempts import Attempts
from harness.execution.outcome import Outcome
from harness.keys import Cell
from harness.results.folder.writer import written
from tests.harmed import ANT, faults
from tests.sweeps import NEAR, Runner, rows, sweep

pytestmark = pytest.mark.timeout(900)

#: harm -> a word of the error that its cell has; None: it has a result
SHOWN = {
    "argsort": "Altered: it changed numpy.argsort",
    "torch: type": None,
    "a thread": None,
    "stdout closed": None,
    "much output": None,
    "long words": "[... 1,000,000 characters ...]",
    "strange words": "Error: \\udcff \\x1b[31m \\x07",
    "no words": "Odd: Odd",
}


@pytest.fixture
def table(toys: None) -> Any:
    """The harms, by how they end."""
    return importlib.import_module("toys.harms")


def test_who_comes_after_a_hostile_method_gets_its_own_numbers(table: Any, tmp_path: Path) -> None:
    """On one worker and those that replace it: each harm is followed by who would notice it."""
    wrong, _ = faults(tmp_path, table.QUIET | table.CHANGES | table.FAILS | table.LATER)
    assert wrong == {}


def test_who_never_ends_is_ended(table: Any, tmp_path: Path) -> None:
    """On workers of their own, so that they are waited for at once."""
    wrong, _ = faults(tmp_path, table.HANGS, len(table.HANGS), 6.0)
    assert wrong == {}


def test_a_sweep_tells_of_hostile_methods_and_comes_to_its_end(
    run_sweep: Runner, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    methods = [
        {"use": "toys.hostile:Harms", "label": f"h{i}", "params": {"how": how}}
        for i, how in enumerate(SHOWN)
    ]
    config = sweep(datasets=ANT, methods=methods, attempts=1)
    assert run_sweep(config, quiet=False) == 1
    failed = {row["method"]: row["error"] for row in rows(tmp_path / "runs/toy", "failures.csv")}
    assert set(failed) == {f"h{i}" for i, word in enumerate(SHOWN.values()) if word}
    for i, word in enumerate(SHOWN.values()):
        assert (word or "") in failed.get(f"h{i}", "")
    stderr = capfd.readouterr().err
    assert "\x1b" not in stderr
    assert "\x07" not in stderr
    for word in ("get_default_dtype", "left a thread"):
        assert f"{word}" in stderr, word
    assert run_sweep(config) == 1, "the folder can be read again"


def test_names_that_would_move_a_terminal(
    run_sweep: Runner, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Of a category, and of an image that is damaged: all is recorded, and found again."""
    rng = np.random.default_rng(0)
    for category in ("cup", "bad\x1b[31m"):
        for part in ("train/good", "test/good", "test/hole"):
            folder = tmp_path / "data" / category / part
            folder.mkdir(parents=True)
            for i in range(3):
                pixels = rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)
                Picture.fromarray(pixels).save(folder / f"\x1b[5m{i}.png")
    os.truncate(tmp_path / "data" / "bad\x1b[31m" / "test/hole/\x1b[5m0.png", 60)
    config = sweep(datasets=[{"use": "folder"}], methods=[{"use": NEAR}])
    for _ in range(2):
        assert run_sweep(config, data_root=str(tmp_path / "data"), quiet=False) == 2
        shown = "".join(capfd.readouterr())
        assert "Traceback" not in shown
        assert "\x1b" not in shown
        assert "\\x1b[5m0.png" in shown
    (row,) = rows(tmp_path / "runs" / "toy")
    assert row["category"] == "cup"


def test_words_that_utf8_lacks_are_escaped_in_tables() -> None:
    cell = Cell("m", "d", "caf\udce9", 1, 0)
    assert written(cell).category == "caf\\udce9"
    assert str(cell).isprintable()


def test_an_answer_for_another_task_is_not_taken() -> None:
    heard: list[str] = []

    class Listener:
        def lost(self, task: Any, reason: str) -> None:
            heard.append(reason)

    class Schedule:
        def release(self, key: str) -> None:
            heard.append(key)

    class Task:
        key = "mine"

    attempts = Attempts(Schedule(), Listener(), 2)  # type: ignore[arg-type]
    assert not attempts.done(Task(), Outcome("another"))  # type: ignore[arg-type]
    assert heard == ["mine", "its worker answered for another task"]


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    "error",
    [Mute(), ValueError("a\x1b[2Jb\nsecond"), OSError("\udcff"), KeyError("x" * 10**6)],
)
def test_any_error_is_one_line_that_a_terminal_can_show(error: Exception) -> None:
    for text in (one_line(error), described(error), str(Problem("a\x00file", one_line(error)))):
        assert text.isprintable()
        assert text.encode()
        assert len(text) < MESSAGE + 100
    assert str(InputError(Problem("x", "y"))) == "x: y"


def test_texts_are_shortened_in_the_middle() -> None:
    assert shortened("abc", 3) == "abc"
    long = shortened("a" * 500 + "b" * 500, 100)
    assert len(long) <= 100
    assert long.startswith("aaa")
    assert long.endswith("bbb")
    assert "1,000" in long
    assert printable("ä\t\n", "\n") == "ä\\t\n"


def test_a_table_that_holds_a_long_message_is_read(tmp_path: Path) -> None:
    file = tmp_path / "failures.csv"
    with file.open("w", newline="") as text:
        csv.writer(text).writerows([["error"], [shortened("x" * 200_000, 20_000)]])
    assert len(rows(tmp_path, "failures.csv")) == 1

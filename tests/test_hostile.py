"""Hostile plug-ins and hostile names: others get their numbers, and the driver comes to its end."""

from __future__ import annotations

import csv
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
from harness.results.writer import written
from tests.sweeps import NEAR, SQUARES, Runner, rows, sweep

pytestmark = pytest.mark.timeout(280)

#: harm -> a word of the error that its cell has; None: it has a result
ENDS = {
    "argsort replaced": "Altered: it changed numpy.argsort",
    "argsort gone": "RuntimeError: argsort is gone",
    "engine replaced": "Altered: it changed harness.data.images.resize",
    "stderr closed": None,
    "stdout closed": None,
    "float64": None,
    "no gradients": None,
    "seterr": None,
    "warnings": None,
    "environment": None,
    "elsewhere": None,
    "thread": None,
    "fork": None,
    "files closed": "its worker",
    "output": None,
    "long words": "[... 1,000,000 characters ...]",
    "strange words": "RuntimeError: \\udcff \\x1b[31m red \\x07",
    "no words": "Odd: Odd",
}


def predictions(folder: Path) -> dict[str, bytes]:
    below = folder / "predictions"
    return {p.name: (p / "Squares/ant/k2_s0.csv").read_bytes() for p in below.glob("after-*")}


def test_who_comes_after_a_hostile_method_gets_its_own_numbers(
    run_sweep: Runner, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """In one worker each harm is followed by a method that would notice it."""
    methods: list[dict[str, Any]] = []
    for i, how in enumerate(ENDS):
        label = how.replace(" ", "-")
        entry = {"use": "toys.hostile:Sensitive", "params": {"power": 1 + i / 100}}
        methods.append({"use": "toys.hostile:Harms", "label": label, "params": {"how": how}})
        methods.append(entry | {"label": f"after-{label}"})
    ant = [{"use": SQUARES, "params": {"names": ["ant"]}}]
    calm = sweep(datasets=ant, methods=methods[1::2])
    assert run_sweep(calm, "calm") == 0
    config = sweep(datasets=ant, methods=methods, time_limit=5.0, attempts=1)
    assert run_sweep(config, quiet=False) == 1
    folder = tmp_path / "runs" / "toy"
    failed = {r["method"]: r["error"] for r in rows(folder, "failures.csv")}
    assert set(failed) == {how.replace(" ", "-") for how, error in ENDS.items() if error}
    for how, words in ENDS.items():
        error = failed.get(how.replace(" ", "-"), "")
        assert (words or "") in error, f"{how}: {error}"
        assert len(error) < MESSAGE + 100
    assert len(predictions(folder)) == len(ENDS)
    assert predictions(folder) == predictions(tmp_path / "calm" / "toy")
    stderr = capfd.readouterr().err
    assert "\x1b" not in stderr
    assert "\x07" not in stderr
    for words in ("numpy.seterr", "get_default_dtype", "left a thread"):
        assert f"{words}" in stderr, words
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

"""One cell in this process: debugger, profile, and the command that a failed cell prints."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from harness.__main__ import main
from tests.sweeps import HOME, command, rows, sweep, written

ONE = "method=Near,category=ant,shots=2,seed=1"
FAILING = '''
from toys.methods import Near


class Failing(Near):
    """Fails at its first query, with something to look at."""

    def predict(self, queries):
        number = len(queries.images)
        raise RuntimeError("on purpose")
'''


@pytest.fixture
def conf(tmp_path: Path, toys: None) -> Path:
    return written(tmp_path / "c.yaml", sweep(shots=[1, 2], seeds=[0, 1]))


def test_the_cell_has_the_sweeps_result(
    conf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = str(tmp_path / "runs")
    assert main(["run", str(conf), "--runner", "serial", "--storage", storage, "--quiet"]) == 0
    capsys.readouterr()
    assert main(["cell", str(conf), "--only", ONE, "--storage", storage]) == 0
    out = capsys.readouterr().out
    expected = next(
        row
        for row in rows(tmp_path / "runs" / "toy")
        if (row["category"], row["shots"], row["seed"]) == ("ant", "2", "1")
    )
    shown = re.search(r"image_auroc\s+(\S+)", out)
    assert shown
    assert float(shown[1]) == pytest.approx(float(expected["image_auroc"]), abs=1e-4)


def test_several_cells_are_named(conf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cell", str(conf), "--only", "category=ant"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "names 4 cells, expected one" in line
    one = shlex.split(line.partition("such as ")[2])[1]  # may be typed as it stands
    assert main(["cell", str(conf), "--only", one]) == 0


def test_a_profile_says_where_time_went(conf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cell", str(conf), "--only", ONE, "--profile"]) == 0
    out = capsys.readouterr().out
    assert "cumulative" in out
    assert "predict" in out


def test_what_was_written_is_kept_when_asked(
    conf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cell", str(conf), "--only", ONE, "--keep"]) == 0
    folder = Path(capsys.readouterr().out.splitlines()[-1].removeprefix("kept in "))
    assert list(folder.rglob("*.npz")) or list(folder.rglob("*.csv"))


def test_a_failed_cell_prints_the_command_that_opens_the_debugger(
    tmp_path: Path, toys: None
) -> None:
    method = tmp_path / "failing.py"
    method.write_text(FAILING)
    conf = written(tmp_path / "c.yaml", sweep(methods=[{"use": str(method)}]))
    storage = tmp_path / "runs"
    done = command("run", conf, "--runner", "serial", "--storage", storage, "--quiet")
    assert done.returncode == 1
    line = next(x for x in done.stderr.splitlines() if "look into it:" in x)
    words = shlex.split(line.partition("look into it:")[2])
    assert words[-1] == "--pdb"
    session = subprocess.run(
        [sys.executable, *words[1:]],
        input="p number\nq\n",
        cwd=HOME,
        capture_output=True,
        text=True,
        check=False,
    )
    assert session.returncode == 1
    assert "on purpose" in session.stderr
    assert re.search(r"\(Pdb\) \d+", session.stdout), session.stdout

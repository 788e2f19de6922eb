"""The comparison with public code: its arithmetic, what it refuses, and, where asked for, a run."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from benchmarks import conformance
from benchmarks.conformance import Line, compared, table


def test_differences_are_relative_to_the_other_sides_largest_value() -> None:
    theirs = {"padim/maps": np.array([[[0.0, -8.0], [2.0, 4.0]]]), "versions": np.array("1.0")}
    ours = {"padim/maps": np.array([[0.0, -8.0], [2.0, 3.0]], np.float32)}
    assert compared(ours, theirs, "x 1") == [Line("padim", "maps", 0.125, "x 1")]
    same = {"padim/maps": theirs["padim/maps"]}
    assert compared(same, theirs, "")[0].relative == 0


def test_what_was_not_compared_has_no_figure_and_a_reason() -> None:
    ours = {"winclip 1/maps": np.ones(3), "padim/scores": np.ones(3)}
    rows = compared(ours, {"refused/winclip 1": np.array("windows are mixed up")}, "x")
    assert rows == [
        Line("winclip 1", "maps", None, "windows are mixed up"),
        Line("padim", "scores", None, "the other side has no such result"),
    ]
    assert "| winclip 1 | maps | – | windows are mixed up |" in table(rows)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (np.ones((2, 2)), r"padim/maps: \(3,\) here, \(2, 2\) on the other side"),
        (np.array([1.0, np.nan, 1.0]), "not finite"),
        (np.zeros(3), "nothing but zeros"),
    ],
)
def test_results_that_cannot_be_compared_are_errors(other: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compared({"padim/maps": np.ones(3)}, {"padim/maps": other}, "x")


def test_all_mistakes_are_named_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--environment", str(tmp_path / "nowhere"), "--regad", str(tmp_path)]
    assert conformance.main(arguments) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("--environment: expected a virtual environment")
    assert second.startswith("--regad: expected a checkout of github.com/MediaBrain-SJTU/RegAD")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "stn.py").write_text("")
    assert conformance.main(["--regad", str(tmp_path)]) == 2
    assert capsys.readouterr().err == "--regad: needs --environment too, whose packages it uses\n"


def test_what_is_not_given_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert conformance.main([]) == 0
    rows = [row for row in capsys.readouterr().out.splitlines() if row.startswith("| ")][1:]
    named = ["padim", "patchcore", "winclip 0", "winclip 1", "winclip 2", "winclip 4", "regad"]
    assert [row.split(" | ")[0].strip("| ") for row in rows] == [*named, "inctrl"]
    assert all("| – | not compared" in row for row in rows)


def test_commits_of_checkouts(tmp_path: Path) -> None:
    assert conformance.commit(tmp_path) == "no commit known"
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "Begin"]):
        subprocess.run([*git, *words], check=True)
    head = conformance.commit(tmp_path)
    assert len(head) == 40
    (tmp_path / "more").write_text("")
    assert conformance.commit(tmp_path) == f"{head} with changes"
    (tmp_path / "inside").mkdir()
    assert conformance.commit(tmp_path / "inside") == "no commit known", "another project's"


@pytest.mark.skipif(
    "CONFORMANCE_ENVIRONMENT" not in os.environ, reason="no environment with anomalib is named"
)
@pytest.mark.timeout(1200)
def test_anomalib_agrees(capsys: pytest.CaptureFixture[str]) -> None:
    environment = os.environ["CONFORMANCE_ENVIRONMENT"]
    status = conformance.main(["--environment", environment, "--small", "--tolerance", "1e-4"])
    printed = capsys.readouterr()
    assert status == 0, printed.err
    assert printed.out.count("anomalib ") == 12, printed.out

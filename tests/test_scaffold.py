"""Files that ``new`` writes keep the promises of a plug-in."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from harness.__main__ import main
from tests.sweeps import HOME


@pytest.mark.parametrize(
    ("kind", "options"),
    [("method", ()), ("method", ("--encoder",)), ("dataset", ()), ("generator", ())],
)
def test_what_is_written_keeps_its_promises(
    kind: str, options: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["new", kind, "my_own", "--folder", str(tmp_path), *options]) == 0
    path = tmp_path / "my_own.py"
    assert f"check {path}" in capsys.readouterr().out
    assert main(["check", str(path)]) == 0, capsys.readouterr().out
    style = [sys.executable, "-m", "ruff", "check", "--config", str(HOME / "pyproject.toml")]
    assert subprocess.run([*style, str(path)], check=False).returncode == 0


@pytest.mark.parametrize("kind", ["method", "generator"])
def test_the_pages_sweep_takes_what_is_written(kind: str, tmp_path: Path) -> None:
    assert main(["new", kind, f"my_{kind}", "--folder", str(tmp_path)]) == 0
    page = (HOME / f"docs/add-a-{kind}.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```yaml\n(.+?)```", page, re.DOTALL)
    conf = tmp_path / "mine.yaml"
    conf.write_text(block.replace(f"my_{kind}", str(tmp_path / f"my_{kind}.py")))
    assert main(["plan", str(conf), "--storage", str(tmp_path / "runs")]) == 0


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("method", "My-Own"), "as in my_method"),
        (("method", "class"), "as in my_method"),
        (("method", "patchcore"), "is there already"),
        (("dataset", "mine", "--encoder"), "is for methods"),
        (("method", "mine", "--folder", "/nowhere"), "no such folder"),
    ],
)
def test_a_mistake_is_one_line(
    words: tuple[str, ...], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["new", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert expected in line

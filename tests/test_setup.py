"""The set-up says what is wrong before it starts."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "tools" / "setup.sh"


def set_up(folder: Path, python: str) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "PYTHON": python, "VENV": ".venv"}
    return subprocess.run(
        ["sh", str(SCRIPT)], cwd=folder, env=variables, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("echo 3.8", "is Python 3.8; Python 3.11 to 3.13 is needed"),
        ("exit 1", "does not run"),
    ],
)
def test_an_unfit_interpreter_is_named(tmp_path: Path, body: str, words: str) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{body}\n")
    python.chmod(0o755)
    done = set_up(tmp_path, str(python))
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert words in line


def test_a_missing_interpreter_is_named(tmp_path: Path) -> None:
    done = set_up(tmp_path, "/nowhere/python3")
    assert done.returncode == 2
    assert "no such interpreter" in done.stderr

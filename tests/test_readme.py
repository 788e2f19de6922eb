"""The pages about the code are those that the code writes, and files stay readable."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HOME = Path(__file__).parents[1]


def test_the_pages_about_the_code_are_up_to_date() -> None:
    command = [sys.executable, "-m", "tools.architecture", "--check"]
    done = subprocess.run(command, cwd=HOME, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_files_stay_readable() -> None:
    long = {
        p.relative_to(HOME).as_posix(): n
        for p in HOME.glob("*/**/*.py")
        if ".venv" not in p.parts and (n := len(p.read_text(encoding="utf-8").splitlines())) > 400
    }
    assert not long, f"files past 400 lines: {long}"

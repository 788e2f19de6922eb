"""Commands typed in a shell where nothing is activated."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from harness import environment

HOME = Path(__file__).parents[1]


def bare(*words: str, home: Path = HOME) -> subprocess.CompletedProcess[str]:
    """``python -m harness`` by an interpreter that sees no installed package."""
    code = (
        "import runpy, sys; from pathlib import Path\n"
        "sys.path = [p for p in sys.path if 'site-packages' not in p]\n"
        f"sys.path.insert(0, {str(HOME)!r}); sys.argv[1:] = {list(words)!r}\n"
        f"from harness import environment; environment.HOME = Path({str(home)!r})\n"
        "sys.prefix = '/elsewhere'\n"
        "runpy.run_module('harness', run_name='__main__')\n"
    )
    return subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=HOME, capture_output=True, text=True, check=False
    )


def test_a_command_goes_on_in_the_environment_beside_the_checkout() -> None:
    if not (HOME / ".venv" / "bin" / "python").exists():
        pytest.skip("no .venv beside the checkout")
    done = bare("list", "methods")
    assert done.returncode == 0, done.stderr
    assert "patchcore" in done.stdout


def test_without_an_environment_one_line_says_what_to_do(tmp_path: Path) -> None:
    done = bare("list", "methods", home=tmp_path)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "make setup" in line
    assert "numpy" in line


def test_nothing_happens_where_all_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment.os, "execv", lambda *_: pytest.fail("went elsewhere"))
    environment.enter()

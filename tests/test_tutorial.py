"""The tutorial's commands, typed as they stand in a shell where nothing is activated."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HOME = Path(__file__).parents[1]
PAGE = HOME / "docs" / "tutorial.md"
CODE = ("harness", "methods", "datasets", "tools", "conf", "docs")

pytestmark = pytest.mark.timeout(280)


def blocks() -> list[str]:
    """Commands of the page, a block each; those of the cluster are left out."""
    found = re.findall(r"^```\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    return [block for block in found if "HEAD:8265" not in block]


def test_every_command_works(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    for name in CODE:
        shutil.copytree(
            HOME / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__", "*.jpg")
        )
    # `python` is an interpreter without packages, as in a shell where nothing is activated.
    bare = tmp_path / "bin"
    bare.mkdir()
    (bare / "python").write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    (bare / "python").chmod(0o755)
    (checkout / ".venv" / "bin").mkdir(parents=True)
    (checkout / ".venv" / "bin" / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (checkout / ".venv" / "bin" / "python").chmod(0o755)
    variables = {k: v for k, v in os.environ.items() if k not in ("VIRTUAL_ENV", "PYTHONPATH")}
    variables["PATH"] = f"{bare}:/usr/bin:/bin"
    for block in blocks():
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block],
            cwd=checkout,
            env=variables,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{block}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    assert (checkout / "runs" / "first" / "report.html").is_file()
    assert len(blocks()) == 4

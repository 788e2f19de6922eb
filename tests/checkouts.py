"""A checkout as a user has it, and a shell in which nothing is activated."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.sweeps import HOME

CODE = ("harness", "methods", "datasets", "benchmarks", "tools", "conf", "docs")
FILES = ("Makefile", "pyproject.toml", "requirements.txt")


class Checkout:
    """A copy of the checkout with a ``.venv``, to type commands in.

    Parameters
    ----------
    folder : where it is made
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "checkout"
        self.folder.mkdir()
        ignored = shutil.ignore_patterns("__pycache__", "*.jpg")
        for name in CODE:
            shutil.copytree(HOME / name, self.folder / name, ignore=ignored)
        for name in FILES:
            shutil.copy(HOME / name, self.folder)
        # `python` is an interpreter without packages, as in a shell where nothing is activated.
        bare = folder / "bin"
        _program(bare / "python", f'exec {sys.executable} -S "$@"')
        _program(bare / "python3", f'exec {sys.executable} -S "$@"')
        _program(self.folder / ".venv" / "bin" / "python", f'exec {sys.executable} "$@"')
        names = ("VIRTUAL_ENV", "PYTHONPATH")
        self._variables = {k: v for k, v in os.environ.items() if k not in names}
        self._variables["PATH"] = f"{bare}:/usr/bin:/bin"

    def type(self, commands: str) -> subprocess.CompletedProcess[str]:
        """What a shell makes of the commands."""
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", commands],
            cwd=self.folder,
            env=self._variables,
            capture_output=True,
            text=True,
            check=False,
        )


def _program(path: Path, body: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)

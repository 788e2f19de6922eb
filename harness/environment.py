"""Finds the environment that ``make setup`` makes, for commands typed without it."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path

HOME = Path(__file__).resolve().parent.parent
NEEDED = ("numpy", "PIL", "pandas", "pydantic", "yaml", "fsspec")  # by every command
HEAVY = ("torch", "ray", "mlflow")  # by some, which say so themselves


def enter(package: str | None = None) -> None:
    """Go on in ``.venv`` where packages are missing here; exit with 2 and one line without it.

    Parameters
    ----------
    package : where one is named, nothing happens unless ``python -m`` was given a module of it;
        None: by ``python -m harness``
    """
    program = "harness" if package is None else _started()
    if package is not None and program.split(".")[0] != package:
        return
    missing = [name for name in (*NEEDED, *HEAVY) if find_spec(name) is None]
    if not missing:
        return
    python = HOME / ".venv" / "bin" / "python"
    if python.is_file() and Path(sys.prefix).resolve() != (HOME / ".venv").resolve():
        os.execv(python, [str(python), "-m", program, *sys.argv[1:]])
    if not set(missing) & set(NEEDED):
        return
    names = ", ".join(missing)
    print(
        f"python -m {program}: not installed for {sys.executable}: {names}; "
        f"run 'make setup' in {HOME}",
        file=sys.stderr,
    )
    raise SystemExit(2)


def _started() -> str:
    """The module that ``python -m`` was given; "" where Python was started otherwise."""
    words = sys.orig_argv[1:]
    for place, word in enumerate(words):
        if word == "-m":
            return words[place + 1]
        if not word.startswith("-") or word == "-c":
            break
    return ""

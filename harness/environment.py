"""Finds the environment that ``make setup`` makes, for commands typed without it."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path

HOME = Path(__file__).resolve().parent.parent
NEEDED = ("numpy", "PIL", "pandas", "pydantic", "yaml", "fsspec")  # by every command
HEAVY = ("torch", "ray", "mlflow")  # by some, which say so themselves


def enter(program: str = "harness") -> None:
    """Go on in ``.venv`` where packages are missing here; exit with 2 and one line without it.

    Parameters
    ----------
    program : the module that was started, by ``python -m program``
    """
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

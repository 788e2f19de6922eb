"""What the command line says of a run besides its config."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from harness.keys import Cell


@dataclass(frozen=True)
class Options:
    """What the command line says besides the config."""

    conf: Path
    runner: str = "ray"
    address: str | None = None
    workers: int | None = None
    storage: str = "runs"
    data_root: str | None = None
    only: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    retry_failed: bool = False
    quiet: bool = False
    mlflow: str | None = None
    audit: float = 0.0  # share of the finished tasks that are repeated, 0..1
    audit_seed: int = 0
    log_level: str | None = None  # of what the engine and plug-ins log; None: as Python has it


def only(cell: Cell) -> str:
    """What ``--only`` takes to name one cell."""
    return ",".join(f"{name}={value}" for name, value in cell._asdict().items())


def reproduce(options: Options, cell: Cell) -> str:
    """The command that runs one cell in the process it is typed in."""
    words = ["python", "-m", "harness", "cell", str(options.conf), "--only", only(cell)]
    words += [word for text in options.overrides for word in ("--set", text)]
    words += ["--data-root", options.data_root] if options.data_root else []
    return shlex.join([*words, "--pdb"])

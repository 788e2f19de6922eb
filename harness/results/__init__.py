"""From predictions to rows, and from rows to means, spreads and comparisons.

In a notebook: ``from harness import results; sweep = results.load("runs/demo")`` gives tidy frames
(``sweep.cells``, ``sweep.queries``, ``sweep.tasks``), means with intervals (``sweep.summary()``),
pairs of methods (``sweep.compare("patchcore", "padim")``) and figures; ``results.compare`` holds
sweeps against each other.

May import data, storage and the modules of ``harness`` itself. Start with ``metrics`` and
``evaluation`` (a cell's row), ``aggregate`` (many rows); ``folder`` writes and reads their files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from harness.results.comparison import Comparison
    from harness.results.notebook import Sweep


def load(folder: str | Path) -> Sweep:
    """A finished or running sweep's folder. Raises as ``reader.load``."""
    from pathlib import Path

    from harness.results import notebook
    from harness.results.folder import reader

    return notebook.Sweep(reader.load(Path(folder)))


def compare(before: str | Path, after: str | Path) -> Comparison:
    """The second sweep held against the first, over their shared cells; see ``comparison``."""
    from pathlib import Path

    from harness.results import comparison

    return comparison.compare([Path(before), Path(after)])[0]

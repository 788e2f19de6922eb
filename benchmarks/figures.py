"""What a benchmark says: named figures with their unit and spread, on paper and in JSON.

Every script that the suite runs has a function ``measure(quick)`` that returns such figures, and
``main(__doc__, measure)`` as its command line.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True)
class Figure:
    """One measured number: the median of its repeats.

    Attributes
    ----------
    value : float
    unit : str
    spread : (float, float)
        Smallest and largest of the repeats.
    better : str
        "lower" or "higher"; "neither" where a change is no loss.
    note : str
        What the number is set against, or what it was measured on.
    """

    value: float
    unit: str
    spread: tuple[float, float]
    better: str = "lower"
    note: str = ""


Figures = dict[str, Figure]


def figure(values: ArrayLike, unit: str, better: str = "lower", note: str = "") -> Figure:
    """The median of one or more measurements."""
    array = np.atleast_1d(np.asarray(values, np.float64))
    return Figure(
        float(np.median(array)), unit, (float(array.min()), float(array.max())), better, note
    )


def ratio(above: ArrayLike, below: ArrayLike, note: str = "", better: str = "higher") -> Figure:
    """How many times ``above`` is ``below``, pair by pair of interleaved measurements."""
    pairs = np.asarray(above, np.float64) / np.asarray(below, np.float64)
    return figure(pairs, "times", better, note)


def interleaved(
    runs: Mapping[str, Callable[[], Any]],
    repeats: int,
    clock: Callable[[], float] = time.process_time,
    warm: bool = True,
) -> dict[str, list[float]]:
    """Seconds of each run, one after the other and again, so that a busy spell meets them all.

    The clock is the process's own processor time unless said otherwise: with one thread it is what
    the clock on the wall shows on a quiet machine.
    """
    if warm:
        for run in runs.values():
            run()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            gc.collect()
            began = clock()
            run()
            seconds[name].append(clock() - began)
    return seconds


def write(path: Path, figures: Mapping[str, Figure]) -> None:
    """Figures as JSON, by name."""
    path.write_text(json.dumps({name: asdict(one) for name, one in figures.items()}, indent=1))


def read(path: Path) -> Figures:
    """What ``write`` wrote; a figure may lack what has a default."""
    return parsed(json.loads(path.read_text(encoding="utf-8")))


def parsed(table: Mapping[str, Any]) -> Figures:
    """Figures of plain mappings; a spread may be left out or be the two ends."""
    figures = {}
    for name, one in table.items():
        if isinstance(one, Figure):
            figures[name] = one
            continue
        ends = one.get("spread") or (one["value"], one["value"])
        ends = (float(min(ends)), float(max(ends)))
        guess = "higher" if str(one["unit"]).endswith(("/s", " a second")) else "lower"
        figures[name] = Figure(
            float(one["value"]), one["unit"], ends, one.get("better", guess), one.get("note", "")
        )
    return figures


def shown(one: Figure) -> str:
    """Value, unit and spread on one line."""
    low, high = (f"{end:.4g}" for end in one.spread)
    spread = "" if low == high else f" ({low} to {high})"
    return f"{one.value:.4g} {one.unit}{spread}"


def main(text: str | None, measure: Callable[[bool], Mapping[str, Any]]) -> None:
    """Command line of a benchmark: measure, print, and write where asked."""
    parser = argparse.ArgumentParser(
        description=text, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer repeats")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    arguments = parser.parse_args()
    tell(parsed(measure(arguments.quick)), arguments.json)


def tell(figures: Mapping[str, Figure], path: Path | None) -> None:
    """Print figures, a line each, and write them where a file is named."""
    width = max(map(len, figures), default=0)
    for name, one in figures.items():
        print(f"{name:{width}}  {shown(one)}{'  ' + one.note if one.note else ''}")
    if path:
        write(path, figures)

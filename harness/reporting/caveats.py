"""What must be read with a figure: caveats of methods, generators, data; the trivial line."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any

from harness.reporting import tables
from harness.reporting.tables import Table
from harness.results import aggregate
from harness.results.folder import copies

if TYPE_CHECKING:
    import pandas as pd

    from harness.results.folder.reader import SweepFolder

MOST = 40  # lines under one table


def under(table: Table, sweep: SweepFolder) -> list[str]:
    """Caveats of what a table speaks of: of the methods and datasets named in it."""
    words = {cell for row in table.rows for cell in row[: table.names]} | set(table.columns)
    noted = [n for n in sweep.notes if _named(n["method"], words, table.title)]
    noted_lines = _few([f"{note['method']}: {note['note']}" for note in noted])
    return noted_lines + copied(sweep, words)


def _named(subject: str, words: set[str], title: str) -> bool:
    name = subject.partition("/")[0]  # a category's dataset
    return name in words or name in title.split()


def every(sweep: SweepFolder) -> list[str]:
    """All caveats of a sweep, and what an audit of it saw."""
    audit = sweep.audit.lines() if sweep.audit else []
    lines = _few([f"{note['method']}: {note['note']}" for note in sweep.notes])
    return audit + lines + copied(sweep) + copies.sources(sweep.summary, sweep.config)


def copied(sweep: SweepFolder, words: Collection[str] | None = None) -> list[str]:
    """Why a spread is left out: the runs of these methods are copies of one another."""
    groups: dict[tuple[str, str, int], list[int]] = {}
    for (method, dataset, shots), seeds in sweep.copies.items():
        if words is None or method in words:
            groups.setdefault((method, dataset, seeds), []).append(shots)
    return [
        f"{method} on {dataset}, {_shots(shots)}: its scores are the same in all {seeds} seeds, as "
        f"nothing it reads depends on the seed; these are copies of one run, so there is no spread "
        f"({tables.NOTHING})"
        for (method, dataset, seeds), shots in groups.items()
    ]


def _shots(counts: Iterable[int]) -> str:
    ordered = sorted(counts)
    return f"{', '.join(map(str, ordered[:-1]))} and " * (len(ordered) > 1) + aggregate.shots_title(
        ordered[-1]
    )


def _few(lines: list[str]) -> list[str]:
    rest = len(lines) - MOST
    return [*lines[:MOST], f"and {rest} more, see notes.json"] if rest > 0 else lines


def noted(frame: pd.DataFrame, sweep: SweepFolder) -> pd.DataFrame:
    """A summary or a comparison with its rows' caveats in a last column, ``notes``."""
    notes: list[str] = []
    for row in frame.to_dict("records"):
        of_row = [
            n
            for n in sweep.notes
            if n["method"].partition("/")[0] in (row["method"], row["dataset"])
        ]
        notes.append("; ".join(f"{note['method']}: {note['note']}" for note in of_row))
    return frame.assign(notes=notes)


def trivial(sweep: SweepFolder) -> list[str]:
    """For each dataset what a trivial statistic alone achieves, and the methods below that."""
    lines = []
    results = sweep.results
    known = results[results["trivial_auroc"].notna()]
    for dataset, group in known.groupby("dataset"):
        per = group.drop_duplicates("category")
        line = float(per["trivial_auroc"].mean())
        names = ", ".join(sorted(set(per["trivial"])))
        summary = sweep.summary[sweep.summary["dataset"] == dataset]
        below = [_cell(row) for row in summary.to_dict("records") if row["image_auroc_mean"] < line]
        lines.append(
            f"{dataset}: {names} alone {'tells' if len(per) == 1 else 'tell'} with AUROC "
            f"{tables.percent(line)} %; a method below this line has shown nothing"
            + (f": {', '.join(below)}" if below else " (none is)")
        )
    return lines


def _cell(row: Any) -> str:
    return f"{row['method']} ({aggregate.shots_title(int(row['shots']))})"

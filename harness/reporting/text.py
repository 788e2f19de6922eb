"""The report of a sweep as text: for a terminal, and in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

from harness.reporting import caveats, certainty, tables
from harness.reporting.tables import Table
from harness.reporting.terminal import terminal_width, wrapped
from harness.results import published
from harness.results.metrics import IMAGES, PIXELS, family

if TYPE_CHECKING:
    import pandas as pd

    from harness.results.folder.reader import SweepFolder


def text(sweep: SweepFolder, comparison: pd.DataFrame | None) -> str:
    """The report for a terminal, no wider than that where the names allow it."""
    width = terminal_width()
    blocks = [f"{sweep.name}: {sweep.counts}"]
    if len(sweep.failed):
        gone = text_lines(tables.failures(sweep.failed), width)
        more = [f"and {len(gone) - 22} more, see failures.csv"] if len(gone) > 22 else []
        blocks.append("\n".join(gone[:22] + more))
    chosen = sections(sweep, comparison, width)
    blocks += ["\n".join(text_lines(table, width)) for table in chosen]
    marks = ["mean ± sample standard deviation over seeds", "* best"]
    near = certainty.meaning(sweep, certainty.NEAR)
    lines = ["; ".join(filter(None, [*marks, near])), *remarks(sweep, comparison)]
    blocks.append("\n".join(wrapped(line, width) for line in lines))
    return "\n\n".join(blocks) + "\n"


def parted(table: Table, width: int) -> list[Table]:
    """A table as several, each with all the words, and no wider than ``width`` in text."""
    groups = [text for text, span in table.groups for _ in range(span)]
    groups += [""] * (len(table.columns) - table.names - len(groups))
    parts, start = [], table.names
    while start < len(table.columns):
        end = len(table.columns)
        while end > start + 1 and _width(_figures(table, groups, start, end)) > width:
            end -= 1
        # Rather between two groups than inside of one.
        ends = table.names + np.cumsum([span for _, span in table.groups])
        between = [int(place) for place in ends if start < place <= end]
        end = between[-1] if between and end < len(table.columns) else end
        parts.append(_figures(table, groups, start, end))
        start = end
    return parts


def _width(table: Table) -> int:
    return max(map(len, text_lines(table)[1:]))


def _figures(table: Table, groups: Sequence[str], start: int, end: int) -> Table:
    """Of a table its words, and of its figures those from one column to another."""
    names = table.names
    heads = [(text, len(list(same))) for text, same in groupby(groups[start - names : end - names])]

    def moved(places: set[tuple[int, int]]) -> set[tuple[int, int]]:
        words = {(i, j) for i, j in places if j < names}
        return words | {(i, j - start + names) for i, j in places if start <= j < end}

    return Table(
        title=table.title,
        columns=table.columns[:names] + table.columns[start:end],
        rows=[row[:names] + row[start:end] for row in table.rows],
        names=names,
        groups=heads if any(text for text, _ in heads) else [],
        best=moved(table.best),
        near=moved(table.near),
    )


def text_lines(table: Table, width: int | None = None) -> list[str]:
    """A table in columns: words to the left, figures to the right.

    Parameters
    ----------
    table : of any width
    width : where it would take more, its figures are shown in parts, and what is left over is cut
    """
    if width is not None:
        parts = parted(table, width) if table.names < len(table.columns) else []
        if len(parts) > 1:
            later = [replace(part, title=f"{part.title}, continued") for part in parts[1:]]
            blocks = [text_lines(part, width) for part in [parts[0], *later]]
            return [line for block in blocks for line in [*block, ""]][:-1]
        whole = text_lines(table)
        return [line if len(line) <= width else f"{line[: width - 1]}…" for line in whole]
    marks = [
        [
            cell[len(cell.rstrip(tables.INCOMPLETE)) :]
            + ("*" if (i, j) in table.best else certainty.NEAR * ((i, j) in table.near))
            for j, cell in enumerate(row)
        ]
        for i, row in enumerate(table.rows)
    ]
    room = [max(map(len, column), default=0) for column in zip(*marks, strict=True)]
    rows = [
        [
            cell if j < table.names else cell.rstrip(tables.INCOMPLETE) + mark.ljust(room[j])
            for j, (cell, mark) in enumerate(zip(row, line, strict=True))
        ]
        for row, line in zip(table.rows, marks, strict=True)
    ]  # marks to the right of the figures, so that digits line up
    heads = [
        head + " " * (room[j] if room and j >= table.names else 0)
        for j, head in enumerate(table.columns)
    ]
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        words = [
            cell.ljust(size) if j < table.names else cell.rjust(size)
            for j, (cell, size) in enumerate(zip(cells, widths, strict=True))
        ]
        return "  ".join(words).rstrip()

    top = []
    if table.groups:
        start, over = table.names, " " * (sum(widths[: table.names]) + 2 * table.names)
        for text, span in table.groups:
            size = sum(widths[start : start + span]) + 2 * (span - 1)
            over += f" {text} ".center(size, "-") + "  "
            start += span
        top = [over.rstrip()]
    return [table.title, *top, line(heads), *map(line, rows)]


def markdown(sweep: SweepFolder, comparison: pd.DataFrame | None) -> str:
    """The report in Markdown, with pipe tables."""
    blocks = [f"# {escaped(sweep.name)}", f"{sweep.counts}."]
    every = [tables.failures(sweep.failed)] if len(sweep.failed) else []
    for table in every + sections(sweep, comparison, 10_000):
        under = [f"- {escaped(line)}" for line in caveats.under(table, sweep)]
        blocks.append("\n".join([*markdown_lines(table), *([""] * bool(under)), *under]))
    marks = ["Mean ± sample standard deviation over seeds", "bold: best"]
    marks += filter(None, [certainty.meaning(sweep, certainty.NEAR)])
    remarked = [f"{'; '.join(marks)}.", *remarks(sweep, comparison)]
    blocks.append("\n".join(f"- {escaped(line.strip())}" for line in remarked))
    return "\n\n".join(blocks) + "\n"


def markdown_lines(table: Table) -> list[str]:
    """A table in Markdown under its title, with pipes."""
    over = [""] * table.names + [f"{text}, " for text, span in table.groups for _ in range(span)]
    over += [""] * (len(table.columns) - len(over))
    heads = [escaped(a + b) for a, b in zip(over, table.columns, strict=True)]
    rules = [":--" if j < table.names else "--:" for j in range(len(heads))]
    body = [
        [
            f"**{escaped(c)}**"
            if (i, j) in table.best
            else escaped(c + certainty.NEAR * ((i, j) in table.near))
            for j, c in enumerate(row)
        ]
        for i, row in enumerate(table.rows)
    ]
    lines = [f"| {' | '.join(cells)} |" for cells in [heads, rules, *body]]
    return [f"## {escaped(table.title)}", "", *lines]


def escaped(text: str) -> str:
    """Text that Markdown shows as it is."""
    for mark in "\\`*_{}[]<>#|~":
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.split())


def sections(sweep: SweepFolder, comparison: pd.DataFrame | None, width: int) -> list[Table]:
    """The tables to read, in order; the headline one metric at a time where it is too wide."""
    summary, chosen, near = sweep.summary, [], certainty.near(sweep)
    for name, title in ((IMAGES, "Images"), (PIXELS, "Pixels")):
        metrics = tables.reported(summary, family(name))
        whole = tables.headline(summary, metrics, sweep.methods, title, near, sweep.copies)
        if metrics and max(map(len, text_lines(whole))) <= width:
            chosen.append(whole)
        else:
            for metric in metrics:
                one = tables.headline(summary, [metric], sweep.methods, title, near, sweep.copies)
                named = f"{title}: {tables.TITLES[metric]} %"
                chosen.append(replace(one, title=named, groups=[]))
    leader = tables.leader(summary, sweep.uses)
    if leader:
        chosen.append(certainty.differences(sweep, leader, nearest=True))
    ranked = certainty.ranked(sweep)
    chosen += [ranked] if ranked else []
    if comparison is not None and len(comparison):
        chosen.append(tables.against(comparison, sweep.copies))
    return [table for table in [*chosen, tables.data(sweep.results)] if table.rows]


def remarks(sweep: SweepFolder, comparison: pd.DataFrame | None) -> list[str]:
    """Lines under the tables: what marks mean, what is missing, caveats, sources."""
    lines = []
    gaps = sweep.gaps
    if gaps:
        lines.append(f"{tables.INCOMPLETE} over fewer seeds; missing are:")
        lines += [f"  {gap}" for gap in gaps[:20]]
        lines += [f"  and {len(gaps) - 20} more, see summary.csv"] if len(gaps) > 20 else []
    lines += [*certainty.corrected(sweep), *certainty.remarks(sweep)]
    lines += [*caveats.trivial(sweep), *caveats.every(sweep)]
    if comparison is not None:
        if not len(comparison):
            lines.append("No published number has the same method, dataset and shots.")
        else:
            lines += [published.CAVEAT, *published.withheld(comparison)]
        sources = {row["table"]: row["source"] for row in comparison.to_dict("records")}
        lines += [f"{t.replace('_table', ' table ')}: {sources[t]}" for t in sorted(sources)]
    return lines

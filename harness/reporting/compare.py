"""Sweeps beside each other, as text, Markdown or HTML; ``results.comparison`` compares."""

from __future__ import annotations

import math
from collections.abc import Sequence

from harness.reporting.tables import NOTHING, TITLES, Table, percent, points
from harness.reporting.terminal import terminal_width, wrapped
from harness.results.comparison import METRICS, Change, Comparison

FORMATS = ("text", "markdown", "html")
MOST = 40  # lines of differing settings shown

MEANING = (
    "Means over categories and seeds of the shared cells, in percent. Intervals are 95 %, over "
    "seeds and queries, paired, each by itself; p is corrected for all rows of its table (Holm)."
)


def worse(comparison: Comparison) -> list[str]:
    """What got worse, a line each: means that fell too far, cells that failed only now."""
    fell = [
        f"worse: {c.method}, {c.dataset}, {c.shots} shots: {TITLES[c.metric]} "
        f"{percent(c.before)} to {percent(c.after)}"
        for c in comparison.fallen
    ]
    return fell + [f"failed: {cell}" for cell in comparison.failed]


def tables(comparison: Comparison) -> list[Table]:
    """The changes by metric, then what differs."""
    before, after = comparison.names
    out = []
    for metric in METRICS:
        rows = [
            [c.dataset, str(c.shots), c.method, percent(c.before), percent(c.after), *_words(c)]
            for c in sorted(comparison.changes, key=lambda c: (c.dataset, c.shots, c.method))
            if c.metric == metric
        ]
        heads = ["dataset", "shots", "method", before, after, "difference", "95 % interval", "p"]
        title = f"{TITLES[metric]} %, differences in points"
        out += [Table(title, [*heads, "seeds"], rows, names=3)] if rows else []
    rows = [[name, _short(x), _short(y)] for name, x, y in comparison.differing[:MOST]]
    more = len(comparison.differing) - MOST
    rows += [[f"and {more} more", "", ""]] if more > 0 else []
    return [*out, Table("What differs", ["setting", before, after], rows, names=3)]


def lines(comparison: Comparison) -> list[str]:
    """What else there is to say, a line each."""
    before, after = comparison.names
    out = [f"{comparison.shared} cells in common, {comparison.same} of them with the same figures"]
    for what, cells in (
        (f"only in {after}", comparison.new),
        (f"only in {before}", comparison.lost),
    ):
        out += [f"{what}: {cell}" for cell in cells[:10]]
        out += [f"{what}: and {len(cells) - 10} more groups"] if len(cells) > 10 else []
    if all(change.seeds < 2 for change in comparison.changes):
        out.append("One seed in common shows no spread: no intervals.")
    return out + worse(comparison)


def render(comparisons: Sequence[Comparison], format: str) -> str:
    """Comparisons as text, Markdown, or one HTML page that needs no network."""
    from harness.reporting import text

    if format == "html":
        from harness.reporting.page.templates import template

        titled = [(each, tables(each), lines(each), set(worse(each))) for each in comparisons]
        return template("compare.html.j2").render(comparisons=titled, meaning=MEANING)
    blocks = []
    for each in comparisons:
        before, after = each.names
        parts = [table for table in tables(each) if table.rows]
        if format == "markdown":
            blocks.append(f"# {text.escaped(after)} against {text.escaped(before)}")
            blocks += ["\n".join(text.markdown_lines(table)) for table in parts]
            words = [MEANING, *lines(each)]
            blocks.append("\n".join(f"- {text.escaped(line)}" for line in words))
        else:
            blocks.append(f"{after} against {before}")
            blocks += ["\n".join(text.text_lines(table, terminal_width())) for table in parts]
            width = terminal_width()
            words = [MEANING, *lines(each)]
            blocks.append("\n".join(wrapped(line, width) for line in words))
    return "\n\n".join(blocks) + "\n"


def _words(change: Change) -> list[str]:
    ends = NOTHING
    if not math.isnan(change.sure.low):
        ends = f"{points(change.sure.low)} to {points(change.sure.high)}"
    p = NOTHING if math.isnan(change.p_holm) else f"{change.p_holm:.3f}"
    return [points(change.sure.mean), ends, p, str(change.seeds)]


def _short(text: str, most: int = 40) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"

"""The report of a sweep as tables for a paper: methods across, datasets down, shots in groups.

Needs the packages booktabs and graphicx, and fits the width of a line in any class: what is wider
is scaled down. Caveats stand under each table they concern.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from harness.reporting import caveats, certainty, tables
from harness.reporting.tables import Table
from harness.results import aggregate, published
from harness.results.metrics import compared

if TYPE_CHECKING:
    import pandas as pd

    from harness.results.folder.reader import SweepFolder

HEAD = "% needs \\usepackage{booktabs,graphicx}"
METRICS = tuple(compared())
ROWS = 40  # of one table: more do not fit a page
COPIED = r"{\scriptsize\,$\pm$\,--}"  # no spread: the runs are copies of one another
GAPS = 6  # most lines of what is missing under a table
_WORDS = {
    "\0": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "−": "$-$",
    "–": "--",
    "—": "---",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    tables.INCOMPLETE: r"$^\dagger$",
    published.WITHHELD: r"$^\ddagger$",
    "<": "$<$",
    ">": "$>$",
}
Group = tuple[str, list[list[str]]]  # a heading within a table, and its rows


def latex(sweep: SweepFolder, comparison: pd.DataFrame | None) -> str:
    """Tables of the means, of differences, and of printed numbers where they are asked for."""
    blocks = [HEAD]
    near = certainty.near(sweep)
    for metric in tables.reported(sweep.summary, METRICS):
        blocks += _means(sweep, metric, near.get(metric, set()))
    if comparison is not None and len(comparison):
        blocks += _against(sweep, comparison)
    leader = tables.leader(sweep.summary, sweep.uses)
    others = [certainty.differences(sweep, leader, nearest=True)] if leader else []
    ranks = certainty.ranked(sweep)
    others += [ranks] if ranks else []
    others.append(tables.data(sweep.results))
    notes = certainty.remarks(sweep)
    for table in others:
        if table.rows:
            remarks = notes if table is not others[-1] else []
            if leader and table is others[0]:
                remarks = [*certainty.corrected(sweep), *notes]
            blocks.append(_plain(sweep, table, [*remarks, *caveats.under(table, sweep)]))
    gone = [f"% failed: {' '.join(row)}" for row in tables.failures(sweep.failed).rows]
    blocks += ["\n".join(gone)] if gone else []
    return "\n\n".join(blocks) + "\n"


def tex(text: str) -> str:
    """Text that LaTeX shows as it is; letters that no common font has lose their marks."""
    text = " ".join(text.split()).replace("\\", "\0")
    for mark in "&%$#_{}":
        text = text.replace(mark, f"\\{mark}")
    for mark, command in _WORDS.items():
        text = text.replace(mark, command)
    if text.isascii():
        return text
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "replace").decode()
    return plain.replace("?", "") if "?" not in text else plain


def number(text: str) -> str:
    """A figure of a table, with a true minus sign: "+0.5 ± 1.0", "-2.1 to 3.4", "<0.001"."""
    if not re.match(r"^[+-<]?\d", text):
        return tex(text)
    return re.sub(r"(?<!\d)[+-](?=\d)", lambda sign: f"${sign.group()}$", tex(text))


def _means(sweep: SweepFolder, metric: str, near: set[tuple[str, int, str]]) -> Iterator[str]:
    """The table of a metric, in as many parts as pages ask for."""
    records = sweep.summary.to_dict("records")
    by_key = {(str(r["dataset"]), int(r["shots"]), str(r["method"])): r for r in records}
    groups: list[Group] = []
    incomplete = False
    for shots in sorted({int(key[1]) for key in by_key}):
        rows = []
        for dataset in sorted({str(r["dataset"]) for r in records if r[f"{metric}_n"]}):
            of_methods = [by_key.get((dataset, shots, method)) for method in sweep.methods]
            if not any(of_methods):
                continue
            most = max(r[f"{metric}_n"] for r in records if r["dataset"] == dataset)
            means = [math.nan if r is None else float(r[f"{metric}_mean"]) for r in of_methods]
            printed = [tables.percent(mean) for mean in means]
            best = tables.best_places(printed, metric)
            row = [tex(dataset)]
            for i, (record, method) in enumerate(zip(of_methods, sweep.methods, strict=True)):
                if record is None or math.isnan(means[i]):
                    row.append("--")
                    continue
                fewer = record[f"{metric}_n"] < most
                incomplete |= fewer
                std = float(record[f"{metric}_std"])
                close = (dataset, shots, method) in near
                text = _mean(printed[i], std, i in best, close)
                if (method, dataset, shots) in sweep.copies and not math.isnan(std):
                    text = _mean(printed[i], math.nan, i in best, close) + COPIED
                row.append(text + r"$^\dagger$" * fewer)
            rows.append(row)
        groups.append((aggregate.shots_title(shots), rows))
    seeds = sorted({int(r[f"{metric}_n"]) for r in records if r[f"{metric}_n"]})
    over = f"over {' to '.join(map(str, dict.fromkeys([seeds[0], seeds[-1]])))} seeds"
    title = tables.TITLES[metric]
    caption = rf"{tex(title)} (\%), mean and sample standard deviation {over}. Bold: highest."
    caption += " Underlined: not told apart from it." if near else ""
    notes = caveats.trivial(sweep) if metric == "image_auroc" else []
    notes += caveats.every(sweep)
    if incomplete:
        gaps = sweep.gaps
        notes += [f"{tables.INCOMPLETE} over fewer seeds than others have.", *gaps[:GAPS]]
        notes += [f"And {len(gaps) - GAPS} more, see summary.csv."] if len(gaps) > GAPS else []
    label = f"tab:{sweep.name}-{metric}"
    yield from _grouped(["dataset", *sweep.methods], groups, caption, label, notes)


def _mean(mean: str, std: float, best: bool, near: bool) -> str:
    figure = rf"\textbf{{{mean}}}" if best else rf"\underline{{{mean}}}" if near else mean
    return figure if math.isnan(std) else rf"{figure}{{\scriptsize\,$\pm$\,{tables.percent(std)}}}"


def _against(sweep: SweepFolder, comparison: pd.DataFrame) -> Iterator[str]:
    """Ours over theirs, a table for each metric and paper."""
    order = {name: i for i, name in enumerate(sweep.methods)}
    paper = comparison["table"].str.partition("_")[0]
    places = comparison["metric"].map(list(tables.TITLES).index)
    for (_, metric, _), of_paper in comparison.groupby([places, "metric", paper]):
        rows = of_paper.drop_duplicates(["dataset", "shots", "method"]).to_dict("records")
        by_key = {(r["dataset"], r["shots"], r["method"]): r for r in rows}
        methods = sorted({r["method"] for r in rows}, key=lambda name: order.get(name, 0))
        groups: list[Group] = []
        for shots in sorted({r["shots"] for r in rows}):
            body = [
                [tex(dataset), *(_beside(by_key.get((dataset, shots, m))) for m in methods)]
                for dataset in sorted({r["dataset"] for r in rows if r["shots"] == shots})
            ]
            groups.append((aggregate.shots_title(int(shots)), body))
        caption = (
            rf"{tex(tables.TITLES[str(metric)])} (\%): ours / printed (difference in points). "
            + tex(" ".join(dict.fromkeys(r["source"] for r in rows)))
        )
        stem = str(rows[0]["table"]).partition("_")[0]
        label = f"tab:{sweep.name}-{metric}-{stem}"
        notes = [published.CAVEAT, *published.withheld(of_paper), *caveats.every(sweep)]
        renamed = {r["method"]: r["printed_as"] for r in rows if r["printed_as"] != r["method"]}
        notes += [f"{ours} is printed as {theirs}." for ours, theirs in renamed.items()]
        yield from _grouped(["dataset", *methods], groups, caption, label, notes)


def _beside(row: Mapping[Any, Any] | None) -> str:
    if row is None:
        return "--"
    theirs, gap = tables.percent(row["published"]), number(tables.points(row["difference"]))
    gap = tex(published.WITHHELD) if row["withheld"] else gap
    return rf"{tables.percent(row['ours'])} / {theirs} {{\scriptsize({gap})}}"


def _grouped(
    heads: Sequence[str],
    groups: Sequence[Group],
    caption: str,
    label: str,
    notes: Sequence[str],
) -> Iterator[str]:
    """Tables of at most ``ROWS`` rows with a heading over each group."""
    pages: list[list[Group]] = [[]]
    room = ROWS
    for title, rows in groups:
        for start in range(0, len(rows), ROWS):
            part = rows[start : start + ROWS]
            if len(part) > room and pages[-1]:
                pages.append([])
                room = ROWS
            pages[-1].append((title + (", continued" if start else ""), part))
            room -= len(part)
    for i, page in enumerate(pages):
        body: list[str] = []
        for title, rows in page:
            body += [r"\midrule"] if body else []
            body.append(rf"\multicolumn{{{len(heads)}}}{{l}}{{\textit{{{tex(title)}}}}} \\")
            body += [f"{' & '.join(row)} \\\\" for row in rows]
        more = " Continued." if i else ""
        columns = "l" + "r" * (len(heads) - 1)
        top = f"{' & '.join(map(tex, heads))} \\\\"
        name = label + (f"-{i + 1}" if i else "")
        yield _float(columns, [top, r"\midrule", *body], caption + more, name, notes)


def _plain(sweep: SweepFolder, table: Table, notes: Sequence[str]) -> str:
    """Any other table as it is, under its title."""
    kinds = "l" * table.names + "r" * (len(table.columns) - table.names)
    body = [f"{' & '.join(map(tex, table.columns))} \\\\", r"\midrule"]
    body += [f"{' & '.join(map(number, row))} \\\\" for row in table.rows[:ROWS]]
    if len(table.rows) > ROWS:
        notes = [*notes, f"And {len(table.rows) - ROWS} rows more in the report."]
    label = f"tab:{sweep.name}-{re.sub('[^a-z]+', '-', table.title.lower())[:24].strip('-')}"
    return _float(kinds, body, f"{tex(table.title)}.", label, notes)


def _float(
    columns: str, body: Iterable[str], caption: str, label: str, notes: Sequence[str]
) -> str:
    under = (
        [rf"\par\smallskip\parbox{{\linewidth}}{{\footnotesize {_lines(notes)}}}"] if notes else []
    )
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering\small",
            rf"\caption{{{caption}}}",
            rf"\label{{{tex_label(label)}}}",
            r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            *body,
            r"\bottomrule",
            r"\end{tabular}}",
            *under,
            r"\end{table}",
        ]
    )


def _lines(notes: Sequence[str]) -> str:
    return r"\newline ".join(tex(note.strip()) for note in dict.fromkeys(notes))


def tex_label(text: str) -> str:
    """A label's name, of characters that need no care."""
    return re.sub(r"[^A-Za-z0-9:.-]+", "-", text)

"""What queries cost, as a table and as charts of AUROC against it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from harness.reporting import tables
from harness.reporting.page import plots
from harness.reporting.page.plots import Line
from harness.reporting.tables import Table
from harness.results.folder.accounting import PARTS
from harness.tasks.kinds import Evaluate

if TYPE_CHECKING:
    from harness.results.folder.reader import SweepFolder

#: Parts of a cost that a table adds up, for they are small and nobody's choice.
REST = ("setup", "read", "write", "other", "lost", Evaluate.kind)


def table(sweep: SweepFolder) -> Table | None:
    """Milliseconds per query by what they went into, by method, dataset and shots."""
    costs = sweep.costs
    if not len(costs):
        return None
    named = [part for part in PARTS if part not in REST and costs[f"{part}_ms"].sum() > 0]
    gpu = bool(costs["total_gpu_ms"].sum() > 0)
    order = {name: i for i, name in enumerate(sweep.methods)}
    rows = []
    for row in sorted(
        costs.to_dict("records"),
        key=lambda r: (r["dataset"], order.get(r["method"], 0), r["shots"]),
    ):
        rest = sum(row[f"{part}_ms"] for part in REST)
        figures = [*(row[f"{part}_ms"] for part in named), rest, row["total_ms"]]
        rate = 1000 / row["total_ms"] if row["total_ms"] else math.nan
        figures += [rate, *([row["total_gpu_ms"]] if gpu else [])]
        mark = tables.INCOMPLETE if row["unknown_tasks"] else ""
        cells = [tables.figure(value) if value else tables.NOTHING for value in figures]
        cells[len(named) + 1] += mark
        rows.append([row["dataset"], row["method"], str(row["shots"]), *cells])
    heads = ["dataset", "method", "shots", *named, "rest", "total", "queries/s"]
    heads += ["GPU total"] if gpu else []
    return Table("Milliseconds per query", heads, rows, names=2)


def charts(sweep: SweepFolder) -> list[dict[str, str]]:
    """For each dataset, AUROC against all that was done for a query."""
    costs, summary = sweep.costs, sweep.summary
    if not len(costs):
        return []
    key = ["method", "dataset", "shots"]
    both = costs.merge(summary[[*key, "image_auroc_mean"]], on=key)
    both = both[(both["total_ms"] > 0) & both["image_auroc_mean"].notna()]
    shown: list[dict[str, str]] = []
    for dataset, group in both.groupby("dataset"):
        lines, words = [], []
        for colour, method in enumerate(sweep.methods):
            rows: Any = group[group["method"] == method].sort_values("shots")
            if len(rows):
                x = rows["total_ms"].to_numpy(float)
                lines.append(Line(method, colour, x, rows["image_auroc_mean"].to_numpy(float)))
                words.append([f"k={count}" for count in rows["shots"]])
        svg = plots.scatter(lines, words, "AUROC %") if lines else ""
        if svg:
            shown.append({"title": str(dataset), "svg": svg})
    return shown

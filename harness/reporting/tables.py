"""The tables of a report, before any format: strings in cells, best ones marked."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from harness.results import aggregate, published
from harness.results.folder.copies import Group
from harness.results.metrics import RECORDS

if TYPE_CHECKING:
    import pandas as pd

TITLES = {name: metric.title for name, metric in RECORDS.items()}
NOTHING = "–"
AGAINST = "Beside published numbers, differences in points"
INCOMPLETE = "†"


@dataclass(frozen=True)
class Table:
    """Rows of text under one or two lines of headings.

    Attributes
    ----------
    columns : headings
    rows : as many cells as columns each
    names : how many of the first columns are words; the others are figures
    groups : headings over the columns after the names: (text, columns it spans); may be empty
    best : (row, column) of the cells to set off
    near : (row, column) of the cells that cannot be told from the best of their kind
    """

    title: str
    columns: list[str]
    rows: list[list[str]]
    names: int = 1
    groups: list[tuple[str, int]] = field(default_factory=list)
    best: set[tuple[int, int]] = field(default_factory=set)
    near: set[tuple[int, int]] = field(default_factory=set)


def percent(value: float, digits: int = 1) -> str:
    """A share in percent: 0.931 is "93.1"."""
    return NOTHING if math.isnan(value) else f"{100 * value:.{digits}f}"


def spread(mean: float, std: float, copied: bool = False) -> str:
    """Mean and standard deviation in percent: "93.1 ± 1.9"; the mean alone without a deviation.

    Of runs that are copies of one another it is "93.1 ± –".
    """
    if math.isnan(mean) or math.isnan(std):
        return percent(mean)
    return f"{percent(mean)} ± {NOTHING if copied else percent(std)}"


def points(value: float) -> str:
    """A difference in percentage points, signed: "+2.1"."""
    return NOTHING if math.isnan(value) else f"{100 * value:+.1f}"


def reported(summary: pd.DataFrame, metrics: Sequence[str]) -> list[str]:
    """Those of the metrics that have a value anywhere."""
    return [name for name in metrics if summary[f"{name}_mean"].notna().any()]


def headline(
    summary: pd.DataFrame,
    metrics: Sequence[str],
    methods: Sequence[str],
    title: str,
    near: Mapping[str, set[tuple[str, int, str]]] | None = None,
    copied: Collection[Group] = (),
) -> Table:
    """Datasets and methods down, metrics and shots across.

    Parameters
    ----------
    summary : frame of ``harness.results.aggregate.summary_frame``
    metrics : some of ``harness.metrics.METRICS``
    methods : every method, in the order to show them in
    title : str
    near : metric -> (dataset, shots, method) of those not told from the best
    copied : (method, dataset, shots) whose runs are copies of one another

    Returns
    -------
    Table
        Of the datasets with any value. The highest mean of each dataset, shots and metric is best,
        if methods differ as printed.
    """
    records = summary.to_dict("records")
    by_key = {(r["dataset"], r["method"], r["shots"]): r for r in records}
    counts = sorted({int(key[2]) for key in by_key})
    fields = [(metric, count) for metric in metrics for count in counts]
    rows: list[list[str]] = []
    best: set[tuple[int, int]] = set()
    level: set[tuple[int, int]] = set()
    valued = {r["dataset"] for r in records if any(r[f"{name}_n"] for name in metrics)}
    for dataset in sorted({str(key[0]) for key in by_key} & valued):
        ran = [m for m in methods if any((dataset, m, count) in by_key for count in counts)]
        first = len(rows)
        seeds = {
            name: max(r[f"{name}_n"] for r in records if r["dataset"] == dataset)
            for name in metrics
        }
        rows += [
            [dataset if method == ran[0] else "", method]
            + [
                _mean(
                    by_key.get((dataset, method, count)),
                    metric,
                    seeds[metric],
                    (method, dataset, count) in copied,
                )
                for metric, count in fields
            ]
            for method in ran
        ]
        for column, (metric, count) in enumerate(fields, start=2):
            cells = [by_key.get((dataset, method, count)) for method in ran]
            means = [percent(float(c[f"{metric}_mean"])) if c else NOTHING for c in cells]
            best |= {(first + i, column) for i in best_places(means, metric)}
            close = (near or {}).get(metric, set())
            level |= {
                (first + i, column) for i, m in enumerate(ran) if (dataset, count, m) in close
            }
    groups = [(f"{TITLES[metric]} %", len(counts)) for metric in metrics]
    columns = ["dataset", "method", *(aggregate.shots_title(count) for _, count in fields)]
    return Table(title, columns, rows, names=2, groups=groups, best=best, near=level)


def categories(
    results: pd.DataFrame,
    metric: str,
    methods: Sequence[str],
    copied: Collection[Group] = (),
) -> list[Table]:
    """For each dataset and number of shots: categories down, methods across, over the seeds."""
    tables = []
    for (dataset, count), group in results.groupby(["dataset", "shots"]):
        ran = [method for method in methods if method in set(group["method"])]
        same = {m for m, d, k in copied if (d, k) == (dataset, count)}
        cells = group.groupby(["category", "method"])[metric].agg(["mean", "std"])
        values = {key: (row["mean"], row["std"]) for key, row in cells.to_dict("index").items()}
        rows, best = [], set()
        for i, category in enumerate(sorted(set(group["category"]))):
            pairs = [values.get((category, method), (math.nan, math.nan)) for method in ran]
            shown = [spread(*pair, m in same) for m, pair in zip(ran, pairs, strict=True)]
            rows.append([category, *shown])
            best |= {(i, j + 1) for j in best_places([percent(pair[0]) for pair in pairs], metric)}
        title = f"{dataset}, {aggregate.shots_title(int(str(count)))}"
        tables.append(Table(title, ["category", *ran], rows, best=best))
    return tables


def leader(summary: pd.DataFrame, uses: dict[str, str]) -> str | None:
    """The method to hold against the others: O2N where it ran, else the highest mean AUROC."""
    means = summary.groupby("method")["image_auroc_mean"].mean().dropna()
    if len(means) < 2:
        return None
    ours = sorted(name for name in means.index if uses.get(name, name) == "o2n")
    return str(ours[0] if ours else means.idxmax())


def against(comparison: pd.DataFrame, copied: Collection[Group] = ()) -> Table:
    """Our means beside printed ones; the frame of ``harness.results.published.compare``."""
    rows: dict[tuple[Any, ...], list[str]] = {}
    metrics = [name for name in TITLES if name in set(comparison["metric"])]
    for row in comparison.to_dict("records"):
        printed = "" if row["printed_as"] == row["method"] else f" as {row['printed_as']}"
        key = (row["dataset"], row["shots"], row["method"], row["table"])
        source = row["table"].replace("_table", " table ") + printed
        blank = [row["dataset"], str(row["shots"]), row["method"], source]
        cells = rows.setdefault(key, blank + [NOTHING] * 3 * len(metrics))
        start = 4 + 3 * metrics.index(row["metric"])
        cells[start : start + 3] = (
            spread(
                row["ours"],
                row["ours_std"],
                (row["method"], row["dataset"], row["shots"]) in copied,
            ),
            spread(row["published"], row["published_std"]),
            published.WITHHELD if row["withheld"] else points(row["difference"]),
        )
    heads = ["dataset", "shots", "method", "printed", *["ours", "theirs", "diff."] * len(metrics)]
    groups = [(f"{TITLES[metric]} %", 3) for metric in metrics]
    return Table(AGAINST, heads, [rows[key] for key in sorted(rows)], names=4, groups=groups)


def data(results: pd.DataFrame) -> Table:
    """What the queries were: how many, and how many of them anomalous."""
    rows = []
    for dataset, group in results.groupby("dataset"):
        per = group.drop_duplicates("category")[["n_normal", "n_anomalous"]]
        share = per["n_anomalous"] / (per["n_normal"] + per["n_anomalous"])
        low, high = (f"{value:.3f}" for value in (share.min(), share.max()))
        extent = low if low == high else f"{share.mean():.3f} ({low} to {high})"
        normal, anomalous = int(per["n_normal"].sum()), int(per["n_anomalous"].sum())
        rows.append([str(dataset), str(len(per)), str(normal), str(anomalous), extent])
    columns = ["dataset", "categories", "normal", "anomalous", "prevalence (AUPRC of chance)"]
    return Table("Queries", columns, rows)


def failures(failed: pd.DataFrame) -> Table:
    """The cells that have no result, and why in one line."""
    rows = [
        [
            row["method"],
            f"{row['dataset']}/{row['category']}",
            str(row["shots"]),
            str(row["seed"]),
            f"{row['task']}: {_line(row['error'])}",
        ]
        for row in failed.to_dict("records")
    ]
    return Table("Failed", ["method", "category", "shots", "seed", "why"], rows, names=5)


def _line(text: object) -> str:
    return " ".join(str(text).split())


def figure(value: float) -> str:
    """A quantity to three digits or so: "0.52", "12.3", "1,204"."""
    if math.isnan(value):
        return NOTHING
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}" if value < 10 else f"{value:.1f}"


def _mean(row: Any, metric: str, most: int, copied: bool) -> str:
    """Cell of the headline table; marked where it is over fewer seeds than others have."""
    if not row:
        return NOTHING
    text = spread(float(row[f"{metric}_mean"]), float(row[f"{metric}_std"]), copied)
    if not row[f"{metric}_n"] and metric.startswith(
        "pixel_"
    ):  # a method without maps lacks nothing
        return text
    return text + (INCOMPLETE if row[f"{metric}_n"] < most else "")


def best_places(printed: Iterable[str], metric: str) -> list[int]:
    """Places of the best printed figures, none when all are the same or there is only one."""
    values = [math.nan if text == NOTHING else float(text) for text in printed]
    defined = [value for value in values if not math.isnan(value)]
    if len(set(defined)) < 2:
        return []
    best = max(defined) if RECORDS[metric].higher_is_better else min(defined)
    return [i for i, value in enumerate(values) if value == best]

"""A sweep as one HTML page that opens from disk: charts, pictures and style inside, no network.

Sizes are bounded: curves and histograms are per dataset, pictures stop at a number of bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.reporting import caveats, certainty, tables
from harness.reporting.page import curves, plots, queries, spending
from harness.reporting.page.plots import Line
from harness.reporting.page.templates import template
from harness.results import aggregate, published
from harness.results.folder import copies
from harness.results.metrics import FAMILIES, family

if TYPE_CHECKING:
    import pandas as pd

    from harness.results.folder.reader import SweepFolder


def page(
    sweep: SweepFolder, comparison: pd.DataFrame | None, drawn: curves.Drawings | None = None
) -> str:
    """The page of a sweep.

    Parameters
    ----------
    sweep : what was read of its folder
    comparison : frame of ``harness.results.published.compare``, or None
    drawn : what ``curves.drawings`` gives, where it is at hand
    """
    from harness.results.folder.reader import DEFINITIONS

    leader = tables.leader(sweep.summary, sweep.uses)
    differences = None
    if leader:
        differences = certainty.differences(sweep, leader, nearest=False)
    drawn = curves.drawings(sweep) if drawn is None else drawn
    pictures, left_out = queries.panels(sweep)
    return template("report.html.j2").render(
        sweep=sweep,
        keys={name: plots.key(i) for i, name in enumerate(sweep.methods)},
        dashes=plots.DASHES,
        headlines=_headlines(sweep),
        near=certainty.meaning(sweep, "shaded:"),
        trends=_trends(sweep),
        differences=differences,
        intervals=certainty.intervals(sweep),
        ranks=certainty.ranked(sweep),
        diagram=certainty.diagram(sweep.ranks) if sweep.ranks else None,
        uncertain=certainty.remarks(sweep),
        comparison=None if comparison is None else tables.against(comparison, sweep.copies),
        caveat=published.CAVEAT,
        withheld=[] if comparison is None else published.withheld(comparison),
        trivial=caveats.trivial(sweep),
        spreads=[*caveats.copied(sweep), *copies.sources(sweep.summary, sweep.config)],
        sources=sorted(set([] if comparison is None else comparison["source"])),
        curves=curves.figures(sweep, drawn),
        histograms=_histograms(sweep, drawn),
        pictures=pictures,
        left_out=left_out,
        categories=tables.categories(sweep.results, "image_auroc", sweep.methods, sweep.copies),
        failures=sweep.failed.to_dict("records"),
        data=tables.data(sweep.results),
        costs=spending.table(sweep),
        cost_charts=spending.charts(sweep),
        environment=list(_flat(sweep.environment)),
        definitions=DEFINITIONS,
        statuses=_statuses(sweep),
    )


def _headlines(sweep: SweepFolder) -> list[tables.Table]:
    near = certainty.near(sweep)
    reported = [(name, tables.reported(sweep.summary, family(name))) for name in FAMILIES]
    return [
        tables.headline(sweep.summary, metrics, sweep.methods, title, near, sweep.copies)
        for title, metrics in reported
        if metrics
    ]


def _trends(sweep: SweepFolder) -> list[dict[str, str]]:
    """For each dataset with several numbers of shots, AUROC against them."""
    charts = []
    for dataset, group in sweep.summary.groupby("dataset"):
        shots = sorted({int(count) for count in group["shots"]})
        if len(shots) < 2:
            continue
        lines = []
        for colour, method in enumerate(sweep.methods):
            rows = group[group["method"] == method].sort_values("shots")
            if len(rows):
                lines.append(
                    Line(
                        method,
                        colour,
                        np.array([shots.index(int(count)) for count in rows["shots"]], float),
                        rows["image_auroc_mean"].to_numpy(float),
                        np.where(
                            [
                                (method, dataset, int(count)) in sweep.copies
                                for count in rows["shots"]
                            ],
                            np.nan,
                            rows["image_auroc_std"].to_numpy(float),
                        ),
                    )
                )
        chart = plots.trend(lines, [str(count) for count in shots], "AUROC %")
        if chart:
            charts.append({"title": str(dataset), "svg": chart})
    return charts


def _histograms(sweep: SweepFolder, drawn: curves.Drawings) -> list[dict[str, Any]]:
    """Scores of normal and of anomalous queries, cells pooled."""
    most = {dataset: max(k[1] for k in drawn if k[0] == dataset) for dataset, _, _ in drawn}
    keys = [key for key in drawn if len(drawn) <= curves.FEW or key[1] == most[key[0]]]
    return [
        {
            "dataset": dataset,
            "shots": shots,
            "title": aggregate.shots_title(shots),
            "method": method,
            "svg": plots.histogram(
                np.concatenate(drawn[dataset, shots, method].normal),
                np.concatenate(drawn[dataset, shots, method].anomalous),
            ),
        }
        for dataset, shots, method in sorted(
            keys, key=lambda key: (*key[:2], sweep.methods.index(key[2]))
        )
    ]


def _statuses(sweep: SweepFolder) -> list[tuple[str, int]]:
    """Why values are undefined, and in how many cells."""
    reasons = sweep.results.loc[sweep.results["status"] != "ok", "status"]
    return sorted((str(reason), int(count)) for reason, count in reasons.value_counts().items())


def _flat(tree: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Nested names and values as ("versions.numpy", "2.4")."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from _flat(value, f"{name}.{key}" if name else str(key))
    elif isinstance(tree, list):
        yield name, ", ".join(map(str, tree))
    else:
        yield name, str(tree)

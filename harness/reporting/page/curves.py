"""ROC and precision-recall curves of a sweep: for its page, and as pictures of their own."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from harness.reporting.page import plots, queries
from harness.reporting.page.plots import Line
from harness.results import aggregate

if TYPE_CHECKING:
    from harness.results.folder.reader import SweepFolder

RUNS = 24  # most lines of single seeds in one chart
FEW = 40  # charts up to which every number of shots has its own
SHOWN = 1000  # most scores of a kind that a cell adds to a histogram
#: Of the lines c0 to c9, as in the page on white.
COLOURS = "#2360bf #bf4a14 #157a51 #8a3fb5 #8a6500 #b52a5c #0c7484 #74543a #565d69 #4f7a10"
ROW = 16  # height of a line of the legend
Curve = NDArray[np.float64]


@dataclass
class Drawing:
    """What is left to draw of the cells of one (dataset, shots, method)."""

    curves: dict[int, list[tuple[Curve, Curve]]] = field(default_factory=dict)  # by seed
    prevalences: list[float] = field(default_factory=list)
    normal: list[NDArray[np.float64]] = field(default_factory=list)
    anomalous: list[NDArray[np.float64]] = field(default_factory=list)


Drawings = dict[tuple[str, int, str], Drawing]  # by dataset, shots and method


def drawings(sweep: SweepFolder) -> Drawings:
    """Curves and standardised scores of every cell that has them, read one file at a time.

    Scores are in units of the normal queries' deviation in their cell, so that categories and seeds
    can share an axis; of a large cell some evenly spaced ones will do.
    """
    drawn: Drawings = {}
    for row in sweep.results.to_dict("records"):
        try:
            scored = queries.read_scores(queries.file_of(sweep, "predictions", row, "csv"))
        except (OSError, ValueError, IndexError):
            continue  # nothing to draw; the table of results stands without it
        labels, scores = scored.labels, scored.scores
        if not np.isfinite(scores).all() or labels.all() or not labels.any():
            continue
        place = drawn.setdefault((row["dataset"], int(row["shots"]), row["method"]), Drawing())
        pair = plots.roc(labels, scores), plots.precision_recall(labels, scores)
        place.curves.setdefault(int(row["seed"]), []).append(pair)
        place.prevalences.append(float(labels.mean()))
        normal = scores[~labels]
        standard = (scores - normal.mean()) / (float(normal.std()) or 1.0)
        place.normal.append(standard[~labels][:: 1 + len(normal) // SHOWN])
        place.anomalous.append(standard[labels][:: 1 + int(labels.sum()) // SHOWN])
    return drawn


def figures(sweep: SweepFolder, drawn: Drawings) -> list[dict[str, str]]:
    """ROC and precision-recall curves per dataset and shots, averaged as the metrics are."""
    figures = []
    places = sorted({key[:2] for key in drawn})
    for dataset, shots in places:
        lines: tuple[list[Line], list[Line]] = ([], [])
        chance: list[float] = []
        for colour, method in enumerate(sweep.methods):
            place = drawn.get((dataset, shots, method))
            if place is None:
                continue
            seeds = list(place.curves.values())
            few = 1 < len(seeds) <= RUNS // len(sweep.methods) and len(places) <= FEW // 3
            for which in (0, 1):
                runs = [np.mean([cell[which] for cell in cells], axis=0) for cells in seeds]
                mean = np.mean(runs, axis=0)
                shown = tuple(runs) if few else ()
                lines[which].append(Line(method, colour, plots.GRID, mean, runs=shown))
            chance += place.prevalences
        figures.append(
            {
                "dataset": str(dataset),
                "shots": str(shots),
                "title": aggregate.shots_title(shots),
                "roc": plots.curves(lines[0], "false positive rate", "true positive rate"),
                "pr": plots.curves(lines[1], "recall", "precision", float(np.mean(chance))),
            }
        )
    return figures


def files(sweep: SweepFolder, drawn: Drawings) -> dict[str, str]:
    """The curves as SVG files that stand alone, by the path to keep them under.

    Parameters
    ----------
    sweep : what was read of its folder
    drawn : of ``drawings``
    """
    out = {}
    for figure in figures(sweep, drawn):
        place = figure["dataset"], int(figure["shots"])
        methods = [(i, m) for i, m in enumerate(sweep.methods) if (*place, m) in drawn]
        stem = re.sub(r"[^\w.+=-]", "_", f"{figure['dataset']}_{figure['title']}")
        for kind in ("roc", "pr"):
            title = f"{figure['dataset']}, {figure['title']}"
            out[f"curves/{stem}_{kind}.svg"] = _alone(figure[kind], title, methods)
    return out


def _alone(svg: str, title: str, methods: list[tuple[int, str]]) -> str:
    """A chart with the style and the legend that it has in the page."""
    height = 222 + ROW * (len(methods) + 1)
    style = [
        "text { font: 11px sans-serif; fill: #222; }",
        "path.grid { stroke: #ddd; fill: none; } .ground { fill: none; }",
        ".chance { stroke: #666; stroke-dasharray: 3 4; fill: none; }",
        ".line, .run { fill: none; stroke-width: 2; }",
        ".run { stroke-width: .8; opacity: .35; }",
    ]
    for i, (colour, dash) in enumerate(zip(COLOURS.split(), plots.DASHES, strict=True)):
        style.append(f".c{i} {{ stroke: {colour}; stroke-dasharray: {dash or 'none'}; }}")
        style.append(f".dot.c{i} {{ fill: {colour}; stroke: none; }}")
    rows = [f'<text x="8" y="13">{escape(title)}</text>']
    for row, (place, method) in enumerate(methods):
        y = 222 + ROW * (row + 1) + 6
        name = f"c{place % plots.COLOURS}"
        rows.append(f'<path class="line {name}" d="M8,{y}H38"/>{plots.mark(place, 23, y)}')
        rows.append(f'<text x="46" y="{y + 4}">{escape(method)}</text>')
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 260 {height}" width="780">'
    frame = f'<rect width="260" height="{height}" fill="#fff"/>'
    chart = svg.replace("<svg ", f'<svg y="{ROW}" width="260" height="222" ', 1)
    return f"{head}<style>{' '.join(style)}</style>{frame}{chart}{''.join(rows)}</svg>\n"

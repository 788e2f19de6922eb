"""A sweep as one HTML page that opens from disk: charts, pictures and style inside, no network.

Sizes are bounded: curves and histograms are per dataset, pictures stop at a number of bytes.
"""

from __future__ import annotations

import csv
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from harness.reporting import certainty, plots, tables
from harness.reporting.plots import Line
from harness.results import aggregate, published

if TYPE_CHECKING:
    import pandas as pd

    from harness.results.reader import SweepFolder

GALLERY_BYTES = 4_000_000
RUNS = 24  # most lines of single seeds in one chart
FEW = 40  # charts up to which every number of shots has its own
SHOWN = 1000  # most scores of a kind that a cell adds to a histogram
Curve = NDArray[np.float64]


def page(sweep: SweepFolder, comparison: pd.DataFrame | None) -> str:
    """The page of a sweep; ``comparison`` is the frame of ``harness.results.published.compare``."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    from harness.results.reader import DEFINITIONS

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,  # names come from files and configs
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    leader = tables.leader(sweep.summary, sweep.uses)
    differences = None
    if leader:
        differences = certainty.differences(sweep, leader, nearest=False)
    drawn = _drawn(sweep)
    pictures, left_out = _gallery(sweep)
    return environment.get_template("report.html.j2").render(
        sweep=sweep,
        colours={name: i % plots.COLOURS for i, name in enumerate(sweep.methods)},
        headlines=_headlines(sweep),
        trends=_trends(sweep),
        differences=differences,
        intervals=certainty.intervals(sweep),
        ranks=certainty.ranked(sweep),
        diagram=certainty.diagram(sweep.ranks) if sweep.ranks else None,
        uncertain=certainty.remarks(sweep),
        comparison=None if comparison is None else tables.against(comparison),
        caveat=published.CAVEAT,
        sources=sorted(set([] if comparison is None else comparison["source"])),
        curves=_curves(sweep, drawn),
        histograms=_histograms(sweep, drawn),
        pictures=pictures,
        left_out=left_out,
        categories=tables.categories(sweep.results, "image_auroc", sweep.methods),
        failures=sweep.failed.to_dict("records"),
        data=tables.data(sweep.results),
        times=tables.times(sweep.timings) if len(sweep.timings) else None,
        environment=list(_flat(sweep.environment)),
        definitions=DEFINITIONS,
        statuses=_statuses(sweep),
    )


def _headlines(sweep: SweepFolder) -> list[tables.Table]:
    parts = [
        ("Whole images", ["image_auroc", "image_auprc"]),
        ("Pixels", ["pixel_auroc", "pixel_aupro"]),
        ("With a threshold chosen by the labels", ["image_f1_max", "pixel_f1_max"]),
    ]
    near = certainty.near(sweep)
    reported = [(title, tables.reported(sweep.summary, metrics)) for title, metrics in parts]
    return [
        tables.headline(sweep.summary, metrics, sweep.methods, title, near)
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
                        rows["image_auroc_std"].to_numpy(float),
                    )
                )
        chart = plots.trend(lines, [str(count) for count in shots], "AUROC %")
        if chart:
            charts.append({"title": str(dataset), "svg": chart})
    return charts


@dataclass
class _Drawn:
    """What is left to draw of the cells of one (dataset, shots, method)."""

    curves: dict[int, list[tuple[Curve, Curve]]] = field(default_factory=dict)  # by seed
    prevalences: list[float] = field(default_factory=list)
    normal: list[NDArray[np.float64]] = field(default_factory=list)
    anomalous: list[NDArray[np.float64]] = field(default_factory=list)


def _drawn(sweep: SweepFolder) -> dict[tuple[str, int, str], _Drawn]:
    """Curves and standardised scores of every cell that has them, read one file at a time.

    Scores are in units of the normal queries' deviation in their cell, so that categories and seeds
    can share an axis; of a large cell some evenly spaced ones will do.
    """
    drawn: dict[tuple[str, int, str], _Drawn] = {}
    for row in sweep.results.to_dict("records"):
        try:
            labels, scores = _scores(_file(sweep, "predictions", row, "csv"))
        except (OSError, ValueError, IndexError):
            continue  # nothing to draw; the table of results stands without it
        if not np.isfinite(scores).all() or labels.all() or not labels.any():
            continue
        place = drawn.setdefault((row["dataset"], int(row["shots"]), row["method"]), _Drawn())
        pair = plots.roc(labels, scores), plots.precision_recall(labels, scores)
        place.curves.setdefault(int(row["seed"]), []).append(pair)
        place.prevalences.append(float(labels.mean()))
        normal = scores[~labels]
        standard = (scores - normal.mean()) / (float(normal.std()) or 1.0)
        place.normal.append(standard[~labels][:: 1 + len(normal) // SHOWN])
        place.anomalous.append(standard[labels][:: 1 + int(labels.sum()) // SHOWN])
    return drawn


def _scores(path: Path) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Labels and scores of a cell. The csv module alone: a sweep has thousands of short files."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.reader(file)
        heads = next(rows, [])
        label, score = heads.index("label"), heads.index("score")
        pairs = [(row[label] == "1", float(row[score])) for row in rows]
    labels, scores = zip(*pairs, strict=True)
    return np.array(labels, np.bool_), np.array(scores, np.float64)


def _curves(sweep: SweepFolder, drawn: dict[tuple[str, int, str], _Drawn]) -> list[dict[str, str]]:
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
                "dataset": dataset,
                "title": aggregate.shots_title(shots),
                "roc": plots.curves(lines[0], "false positive rate", "true positive rate"),
                "pr": plots.curves(lines[1], "recall", "precision", float(np.mean(chance))),
            }
        )
    return figures


def _histograms(
    sweep: SweepFolder, drawn: dict[tuple[str, int, str], _Drawn]
) -> list[dict[str, Any]]:
    """Scores of normal and of anomalous queries, cells pooled."""
    most = {dataset: max(k[1] for k in drawn if k[0] == dataset) for dataset, _, _ in drawn}
    keys = [key for key in drawn if len(drawn) <= FEW or key[1] == most[key[0]]]
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


def _gallery(sweep: SweepFolder) -> tuple[list[dict[str, Any]], int]:
    """Pictures of the most and least anomalous queries, and how many cells there was no room for.

    One seed and the largest number of shots of each category, datasets taking turns, so that a
    large sweep shows something of each.
    """
    cells: dict[tuple[str, str], list[Any]] = {}
    for row in sweep.results.to_dict("records"):
        if _file(sweep, "gallery", row, "npz").is_file():
            cells.setdefault((row["dataset"], row["category"]), []).append(row)
    turns: dict[str, list[tuple[str, str]]] = {}
    for key in sorted(cells):
        turns.setdefault(key[0], []).append(key)
    room, left_out, groups = GALLERY_BYTES, 0, []
    for key in (key for turn in zip_longest(*turns.values()) for key in turn if key):
        shots = max(row["shots"] for row in cells[key])
        seed = min(row["seed"] for row in cells[key] if row["shots"] == shots)
        methods = []
        for row in cells[key]:
            if (row["shots"], row["seed"]) != (shots, seed):
                continue
            if room <= 0:
                left_out += 1
                continue
            shown = _pictures(sweep, row)
            room -= sum(len(uri) for tile in shown["tiles"] for _, uri in tile["images"])
            methods.append(shown)
        if methods:
            methods.sort(key=lambda m: sweep.methods.index(m["method"]))
            title = f"{key[0]} / {key[1]}, {aggregate.shots_title(shots)}, seed {seed}"
            groups.append({"dataset": key[0], "title": title, "methods": methods})
    return groups, left_out


def _pictures(sweep: SweepFolder, row: Any) -> dict[str, Any]:
    """Tiles of one cell: each the query, its map, its personalized image, its branches' maps."""
    shown: dict[str, Any] = {"method": row["method"], "tiles": [], "scale": None, "problem": ""}
    try:
        with np.load(_file(sweep, "gallery", row, "npz"), allow_pickle=False) as archive:
            arrays = dict(archive)
        table = aggregate.read_csv(_file(sweep, "predictions", row, "csv"))
        index = arrays["index"].astype(np.int64)
        queries = table.iloc[index].to_dict("records")
        pictures = arrays["image"]
        heats = {name: arrays[name] for name in arrays if name == "map" or name.startswith("part.")}
    except (OSError, ValueError, KeyError, IndexError, BadZipFile, zlib.error) as error:
        shown["problem"] = f"pictures not readable: {' '.join(str(error).split())}"
        return shown
    limits = {name: _limits(heat) for name, heat in heats.items()}
    shown["scale"] = [f"{value:.3g}" for value in limits["map"]] if "map" in limits else None
    ranks = table["score"].rank(ascending=False, method="first").to_numpy(float)[index]
    for i in np.argsort(ranks):
        query = queries[i]
        mask = arrays["mask"][i] if "mask" in arrays else None
        images = [("query", plots.picture(pictures[i], mask))]
        images += [
            (name.removeprefix("part."), plots.overlay(pictures[i], heat[i], *limits[name]))
            for name, heat in heats.items()
        ]
        if "personalized" in arrays:
            images.insert(1, ("personalized", plots.picture(arrays["personalized"][i])))
        top = ranks[i] <= len(table) / 2
        anomalous = int(query["label"]) == 1
        shown["tiles"].append(
            {
                "images": images,
                "name": query["query"],
                "kind": query["defect"] if anomalous else "normal",
                "anomalous": anomalous,
                "wrong": anomalous != top,
                "top": bool(top),
                "rank": "–" if math.isnan(ranks[i]) else f"{ranks[i]:.0f}",
                "of": len(table),
                "score": f"{query['score']:.4g}",
            }
        )
    return shown


def _limits(heat: NDArray[np.float32]) -> tuple[float, float]:
    """The scale of a cell's maps, the same for all of them: from the bulk to the top."""
    finite = heat[np.isfinite(heat)]
    if not finite.size:
        return 0.0, 1.0
    return float(np.percentile(finite, 2)), float(np.percentile(finite, 99.8))


def _statuses(sweep: SweepFolder) -> list[tuple[str, int]]:
    """Why values are undefined, and in how many cells."""
    said = sweep.results.loc[sweep.results["status"] != "ok", "status"]
    return sorted((str(reason), int(count)) for reason, count in said.value_counts().items())


def _file(sweep: SweepFolder, kind: str, row: Any, suffix: str) -> Path:
    where = sweep.path / kind / row["method"] / row["dataset"] / row["category"]
    return Path(where / f"k{row['shots']}_s{row['seed']}.{suffix}")


def _flat(found: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Nested names and values as ("versions.numpy", "2.4")."""
    if isinstance(found, dict):
        for key, value in found.items():
            yield from _flat(value, f"{name}.{key}" if name else str(key))
    elif isinstance(found, list):
        yield name, ", ".join(map(str, found))
    else:
        yield name, str(found)

"""Queries worth looking at: where methods are most confidently wrong, beside where they are right.

The same queries for all methods side by side: for each category at the largest number of shots, of
one seed, the normal queries that rank highest and the anomalous ones that rank lowest in any
method's eyes, and one of each kind that all rank well.
"""

from __future__ import annotations

import csv
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from harness.reporting.page import plots
from harness.results import aggregate

if TYPE_CHECKING:
    from harness.results.folder.reader import SweepFolder

ROOM = 5_000_000  # bytes of pictures in a page
MISTAKES, SUCCESSES = 2, 1  # of normal queries and of anomalous ones each, in a category
#: What maps of a method's own parts show, under the names that several methods use.
EXPLAINED = {
    "S_P": "difference from the query's one-to-normal image",
    "S_N": "distance to the nearest patches of the anomaly-free images",
    "S_text": "likeness to sentences about damage",
}
ROWS, COLUMNS = ("top", "middle", "bottom"), ("left", "centre", "right")


@dataclass(frozen=True)
class Scored:
    """A cell's queries as its table has them: N names, kinds of defect, labels and scores."""

    names: list[str]
    defects: list[str]
    labels: NDArray[np.bool_]
    scores: NDArray[np.float64]

    def confusion(self) -> NDArray[np.float64]:
        """Share of the other kind on the wrong side of each query, ties half: 0 is right, 1 wrong.

        The mean over the anomalous queries is 1 - AUROC, and so it is over the normal ones.
        """
        shares = np.full(len(self.scores), np.nan)
        for kind in (False, True):
            others = np.sort(self.scores[self.labels != kind])
            mine = self.scores[self.labels == kind]
            if len(others):
                below = np.searchsorted(others, mine, "left") / len(others)
                upto = np.searchsorted(others, mine, "right") / len(others)
                middle = (below + upto) / 2
                shares[self.labels == kind] = 1 - middle if kind else middle
        return shares


@dataclass(frozen=True)
class _Seen:
    """What one method made of a category's queries."""

    method: str
    scored: Scored
    confusion: Mapping[str, float]  # name of a query -> share
    arrays: Mapping[str, NDArray[Any]]  # the gallery
    place: Mapping[str, int]  # name of a query -> its row in the gallery
    coarse: Mapping[str, int]  # name of a query -> its row among the coarse maps


def read_scores(path: Path) -> Scored:
    """A per-query table. The csv module alone: a sweep has thousands of short files.

    Raises
    ------
    OSError, ValueError, IndexError
        When it is not there, or not such a table.
    """
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.reader(file)
        heads = next(rows, [])
        at = [heads.index(name) for name in ("query", "defect", "label", "score")]
        columns = list(zip(*([row[i] for i in at] for row in rows), strict=True))
    names, defects, labels, scores = columns
    return Scored(
        list(names),
        list(defects),
        np.array([label == "1" for label in labels], np.bool_),
        np.array(scores, np.float64),
    )


def file_of(sweep: SweepFolder, kind: str, row: Any, suffix: str) -> Path:
    """Path of a cell's file of a kind (predictions, gallery)."""
    cell = f"{row['method']}/{row['dataset']}/{row['category']}/k{row['shots']}_s{row['seed']}"
    return Path(f"{sweep.path}/{kind}/{cell}.{suffix}")  # thousands: joining names is slower


def panels(sweep: SweepFolder) -> tuple[list[dict[str, Any]], int]:
    """A panel for each category, and how many categories there was no room for.

    Datasets take turns, so that a large sweep shows something of each.
    """
    groups: dict[tuple[str, str], list[Any]] = {}
    for row in sweep.results.to_dict("records"):
        groups.setdefault((row["dataset"], row["category"]), []).append(row)
    turns: dict[str, list[tuple[str, str]]] = {}
    for key in sorted(groups):
        turns.setdefault(key[0], []).append(key)
    room, left_out, shown = ROOM, 0, []
    for key in (key for turn in zip_longest(*turns.values()) for key in turn if key):
        rows = [r for r in groups[key] if file_of(sweep, "gallery", r, "npz").is_file()]
        if not rows:
            continue
        if room <= 0:
            left_out += 1
            continue
        panel = _panel(sweep, rows)
        room -= sum(len(tile["uri"]) for query in panel["queries"] for tile in query["tiles"])
        shown.append(panel)
    return shown, left_out


def _panel(sweep: SweepFolder, rows: list[Any]) -> dict[str, Any]:
    shots = max(row["shots"] for row in rows)
    seed = min(row["seed"] for row in rows if row["shots"] == shots)
    chosen = [row for row in rows if (row["shots"], row["seed"]) == (shots, seed)]
    chosen.sort(key=lambda row: sweep.methods.index(row["method"]))
    dataset, category = chosen[0]["dataset"], chosen[0]["category"]
    title = f"{dataset} / {category}, {aggregate.shots_title(shots)}, seed {seed}"
    panel: dict[str, Any] = {"dataset": dataset, "title": title, "queries": [], "support": []}
    panel |= {"problems": [], "parts": []}
    seen = []
    for row in chosen:
        try:
            seen.append(_read(sweep, row))
        except (OSError, ValueError, KeyError, IndexError, BadZipFile, zlib.error) as error:
            reason = " ".join(str(error).split())
            panel["problems"].append(f"{row['method']}: pictures not readable: {reason}")
    if not seen:
        return panel
    support: Any = next((s.arrays["support"] for s in seen if "support" in s.arrays), ())
    panel["support"] = [
        {"uri": plots.picture(image, side=96), "alt": f"reference image {i} of {category}, normal"}
        for i, image in enumerate(support, 1)
    ]
    panel["queries"] = [_query(seen, name, wrong) for name, wrong in _chosen(seen)]
    parts = {n.removeprefix("part.") for s in seen for n in s.arrays if n.startswith("part.")}
    panel["parts"] = [(name, EXPLAINED.get(name, "")) for name in sorted(parts)]
    return panel


def _read(sweep: SweepFolder, row: Any) -> _Seen:
    with np.load(file_of(sweep, "gallery", row, "npz"), allow_pickle=False) as archive:
        arrays = dict(archive)
    scored = read_scores(file_of(sweep, "predictions", row, "csv"))
    names = scored.names
    place = {names[i]: n for n, i in enumerate(arrays["index"])}
    coarse = {names[i]: n for n, i in enumerate(arrays.get("all.index", ()))}
    confusion = dict(zip(names, scored.confusion().tolist(), strict=True))
    return _Seen(row["method"], scored, confusion, arrays, place, coarse)


def _chosen(seen: list[_Seen]) -> list[tuple[str, bool]]:
    """Names of the queries to show, mistakes first; whether each is one."""
    first = seen[0].scored
    label = dict(zip(first.names, first.labels.tolist(), strict=True))
    pictured = dict.fromkeys(n for s in seen for n in s.place if n in label)
    shares = {
        name: [s.confusion[name] for s in seen if np.isfinite(s.confusion.get(name, np.nan))]
        for name in pictured
    }
    worst = {name: max(values, default=0.0) for name, values in shares.items()}
    mean = {name: float(np.mean(values)) if values else 0.0 for name, values in shares.items()}
    mistakes, successes = [], []
    for kind in (False, True):
        mine = [name for name in pictured if label[name] is kind]
        wrong = sorted((n for n in mine if worst[n] > 0), key=lambda n: (-mean[n], n))
        fooling = wrong[:1]  # the one that most methods mistake, then those that one mistakes most
        wrong = sorted((n for n in wrong if n not in fooling), key=lambda n: (-worst[n], n))
        mistakes += fooling + wrong[: MISTAKES - len(fooling)]
        right = sorted((n for n in mine if n not in mistakes), key=lambda n: (mean[n], worst[n], n))
        successes += right[:SUCCESSES]
    return [(name, True) for name in mistakes] + [(name, False) for name in successes]


def _query(seen: list[_Seen], name: str, wrong: bool) -> dict[str, Any]:
    """A query with what each method sees in it."""
    holder = next(s for s in seen if name in s.place)
    place = holder.place[name]
    pixels = holder.arrays["image"][place]
    index = holder.scored.names.index(name)
    anomalous = bool(holder.scored.labels[index])
    kind = holder.scored.defects[index] if anomalous else "normal"
    mask = holder.arrays["mask"][place] if anomalous and "mask" in holder.arrays else None
    tiles = [_tile(plots.picture(pixels), "query", f"query {name}, {kind}")]
    if mask is not None and mask.any():
        truth = f"{name} with the defect outlined, at the {_where(mask.astype(np.float32))}"
        tiles.append(_tile(plots.picture(pixels, mask), "ground truth", truth))
    for each in seen:
        tiles += _tiles(each, name, pixels, mask, anomalous)
    return {"name": name, "kind": kind, "anomalous": anomalous, "wrong": wrong, "tiles": tiles}


def _tiles(
    seen: _Seen,
    name: str,
    pixels: NDArray[np.uint8],
    mask: NDArray[np.bool_] | None,
    anomalous: bool,
) -> Iterator[dict[str, Any]]:
    """What a method makes of a query: its verdict, its map, then what its parts say."""
    share = seen.confusion.get(name, float("nan"))
    verdict = _verdict(share, anomalous)
    arrays, place = seen.arrays, seen.place.get(name)
    low, high = arrays.get("limits", (0.0, 1.0))
    heat = None
    if place is not None and "map" in arrays:
        heat, ends = arrays["map"][place], (float(low), float(high))
        if "limits" not in arrays:
            ends = _limits(arrays["map"])
    elif name in seen.coarse:
        heat, ends = arrays["all.map"][seen.coarse[name]].astype(np.float32), (0.0, 255.0)
    labels = {"of": "", "method": seen.method, "verdict": verdict, "wrong": bool(share > 0.5)}
    if heat is None:
        makes = "map" in arrays or "all.map" in arrays
        blank = "map not kept" if makes else "makes no maps"
        yield {"uri": "", "label": seen.method, "alt": "", "blank": blank, **labels}
    else:
        alt = f"map of {seen.method} over {name}: highest at the {_where(heat)}{_hit(heat, mask)}"
        yield {**_tile(plots.overlay(pixels, heat, *ends), seen.method, alt), **labels}
    if place is None:
        return
    if "personalized" in arrays:
        rebuilt = arrays["personalized"][place]
        alt = f"one-to-normal image that {seen.method} compares {name} with"
        yield _tile(plots.picture(rebuilt), "one-to-normal", alt, seen.method)
    for part in (n for n in arrays if n.startswith("part.") and n not in ("part.scores",)):
        heat, short = arrays[part][place], part.removeprefix("part.")
        alt = f"map of {seen.method}'s part {short} over {name}: highest at the {_where(heat)}"
        yield _tile(plots.overlay(pixels, heat, *_limits(arrays[part])), short, alt, seen.method)


def _tile(uri: str, label: str, alt: str, of: str = "") -> dict[str, Any]:
    return {
        "uri": uri,
        "label": label,
        "alt": alt,
        "of": of,
        "method": "",
        "verdict": "",
        "wrong": False,
    }


def _verdict(share: float, anomalous: bool) -> str:
    """Where a query ranks, said by what is on the wrong side of it."""
    side, others = ("below", "normal") if anomalous else ("above", "anomalous")
    if np.isnan(share):
        return "no rank"
    if share == 0:
        return f"{'above' if anomalous else 'below'} all {others}"
    return f"{side} {100 * share:.0f} % of {others}" if share >= 0.005 else f"{side} few {others}"


def _where(heat: NDArray[np.float32]) -> str:
    """In words, where a map is highest: "top left", "centre"."""
    finite = np.where(np.isfinite(heat), heat, -np.inf)
    peak = finite >= finite.max()
    y, x = (float(np.mean(axis)) for axis in np.nonzero(peak))
    row = ROWS[min(2, int(3 * y / heat.shape[0]))]
    column = COLUMNS[min(2, int(3 * x / heat.shape[1]))]
    if (row, column) == ("middle", "centre"):
        return "centre"
    return column if row == "middle" else row if column == "centre" else f"{row} {column}"


def _hit(heat: NDArray[np.float32], mask: NDArray[np.bool_] | None) -> str:
    """Whether a map is highest within the defect."""
    if mask is None:
        return ""
    y, x = np.unravel_index(int(np.nanargmax(heat)), heat.shape)
    at = (
        int((y + 0.5) * mask.shape[0] / heat.shape[0]),
        int((x + 0.5) * mask.shape[1] / heat.shape[1]),
    )
    return ", within the defect" if mask[at] else ", outside the defect"


def _limits(heat: NDArray[np.float32]) -> tuple[float, float]:
    """The scale of a cell's maps, the same for all of them: from the bulk to the top."""
    finite = heat[np.isfinite(heat)]
    if not finite.size:
        return 0.0, 1.0
    return float(np.percentile(finite, 2)), float(np.percentile(finite, 99.8))

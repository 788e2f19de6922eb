"""How far a mean or a difference may be off: intervals over seeds and over queries.

Two things are drawn by chance: the supports (with whatever else a seed decides), and the queries.
Every seed meets the same queries, so a spread over seeds knows nothing of them: Student's t over
three seeds covers the truth in 80 to 90 of 100 simulated sweeps, over five in 64 to 80, where
queries matter most. So the queries of each category are drawn anew, with replacement and within
each kind, one draw for all seeds and methods (they are paired), and the spread that this gives is
added to the spread over seeds. Seeds themselves are not redrawn, as three of them allow ten
different draws: they come in by Student's t. Seeds and queries are crossed, as readers and cases
are in reader studies (Dorfman, Berbaum and Metz 1992; Gallas 2006): what a seed and a query do
together is in both spreads and is taken out of one.

Queries that show one physical thing (tiles of a picture, slices of a patient) are alike, and are
drawn together or not at all: what is drawn are the things.

``python -m benchmarks.coverage`` simulates how often these intervals hold the truth.

Not in them: that categories stand for other categories, and that some datasets show one image as
a query of several.
"""

from __future__ import annotations

import csv
import hashlib
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.results.aggregate import CELL, GROUP, seed_means

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]
DRAWS = 500  # of the queries: enough for a deviation, which is all that is read off them
LEVEL = 0.95
TINY = 1e-9  # a deviation below this is rounding
TILE = re.compile(r"@\d+,\d+,\d+,\d+$")  # what ``Sample.name`` ends in, of a tile


class Interval(NamedTuple):
    """A mean over seeds and how sure it is; NaN where one seed, or no spread at all, cannot tell.

    Attributes
    ----------
    low, high : ends of the interval that covers the truth with a chance of ``LEVEL``
    p : chance of a mean at least as far from 0, were the truth 0; two-sided
    """

    mean: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class Runs:
    """Means over categories, one for each (method, dataset, shots, seed), and their redraws.

    Attributes
    ----------
    frame : the frame of ``results.seed_means``: R rows
    redrawn : (DRAWS, R) the same with the queries drawn anew; NaN where there are no predictions
    """

    frame: pd.DataFrame
    redrawn: Floats

    def of(self, method: str, dataset: str, shots: int) -> tuple[list[int], Floats, Floats]:
        """Seeds, values (n,) and redraws (DRAWS, n) of one row of the summary."""
        rows = self._rows.get((method, dataset, shots), {})
        places = list(rows.values())
        return list(rows), self.frame["value"].to_numpy(float)[places], self.redrawn[:, places]

    @cached_property
    def _rows(self) -> dict[tuple[str, str, int], dict[int, int]]:
        """(method, dataset, shots) -> seed -> row of the frame."""
        rows: dict[tuple[str, str, int], dict[int, int]] = {}
        runs = self.frame[[*GROUP, "seed"]].itertuples(index=False, name=None)
        for i, (method, dataset, shots, seed) in enumerate(runs):
            rows.setdefault((method, dataset, shots), {})[seed] = i
        return rows

    def mean(self, method: str, dataset: str, shots: int) -> Interval:
        """Interval of a mean, within 0..1."""
        _, values, redrawn = self.of(method, dataset, shots)
        return of_share(interval(values, redrawn))

    def difference(self, a: str, b: str, dataset: str, shots: int) -> Interval:
        """Interval of method ``a`` minus ``b`` over the seeds that both have."""
        seeds_a, values_a, redrawn_a = self.of(a, dataset, shots)
        seeds_b, values_b, redrawn_b = self.of(b, dataset, shots)
        both = sorted(set(seeds_a) & set(seeds_b))
        i, j = [seeds_a.index(seed) for seed in both], [seeds_b.index(seed) for seed in both]
        return interval(values_a[i] - values_b[j], redrawn_a[:, i] - redrawn_b[:, j])


def interval(values: Floats, redrawn: Floats) -> Interval:
    """Interval of the mean of ``values`` over seeds and queries.

    Parameters
    ----------
    values : (n,) one for each seed
    redrawn : (B, n) the same with the queries drawn anew, the same draw in a row; all NaN when
        there are none, and then the interval is over the seeds alone

    Returns
    -------
    Interval
        By Student's t. Its degrees of freedom are n - 1 times the whole variance over that of the
        seeds, which alone is known so badly. (Satterthwaite would square that ratio; on simulated
        sweeps of three seeds his intervals cover 92 to 95 %, these 94 to 97 %.)
    """
    from scipy.special import stdtr, stdtrit

    n = len(values)
    mean = float(values.mean()) if n else math.nan
    nothing = Interval(mean, math.nan, math.nan, math.nan)
    if n < 2:
        return nothing
    of_seeds = float(values.var(ddof=1)) / n
    variance: float = of_seeds + _of_queries(values, redrawn)
    if variance < TINY**2:
        return nothing  # nothing varied: these data cannot say how sure they are
    freedom = min((n - 1) * variance / max(of_seeds, TINY**2), 1e6)
    error = math.sqrt(variance)
    reach = float(stdtrit(freedom, (1 + LEVEL) / 2)) * error
    return Interval(mean, mean - reach, mean + reach, float(2 * stdtr(freedom, -abs(mean) / error)))


def of_share(interval: Interval) -> Interval:
    """The interval of a mean of shares, taken over to the scale of log-odds: within 0..1, and
    farther from the mean on the side where there is room.
    """
    centre = interval.mean
    if not 0 < centre < 1 or math.isnan(interval.low):
        return interval._replace(p=math.nan)
    slope = centre * (1 - centre)
    low, high = (
        1 / (1 + (1 - centre) / centre * math.exp(min((centre - end) / slope, 700.0)))
        for end in (interval.low, interval.high)
    )
    return Interval(centre, low, high, math.nan)


def _of_queries(values: Floats, redrawn: Floats) -> float:
    """Variance of the mean over draws of the queries, as far as it is the same for all seeds."""
    moved = redrawn - values
    if np.isnan(moved).any():
        return 0.0
    whole = float(moved.mean(axis=1).var(ddof=1))
    of_single_seeds = float(moved.var(axis=1, ddof=1).mean()) / moved.shape[1]
    shared: float = max(whole - of_single_seeds, 0.0)
    return shared  # the latter is in the spread over seeds already


def runs(
    results: pd.DataFrame,
    folder: Path | None,
    metric: str,
    expected: pd.DataFrame | None = None,
) -> Runs:
    """A sweep's means over categories with their redraws.

    Parameters
    ----------
    results : frame of ``results.results_frame``
    folder : a sweep's folder, with ``predictions/`` in it; of runs without, there are no redraws
    metric : one of ``harness.metrics.METRICS``; redraws are for those in ``METRIC``
    expected : as in ``results.seed_means``
    """
    return several(results, folder, [metric], expected)[metric]


def several(
    results: pd.DataFrame,
    folder: Path | None,
    metrics: Sequence[str],
    expected: pd.DataFrame | None = None,
) -> dict[str, Runs]:
    """``runs`` of several metrics, each table of predictions read and sorted once."""
    sums = {}
    for metric in metrics:
        means = seed_means(results, metric, expected)
        keys = means[[*GROUP, "seed"]].itertuples(index=False, name=None)
        needed = results.dropna(subset=[metric]).groupby([*GROUP, "seed"]).size()
        sums[metric] = _Sum(means, {key: i for i, key in enumerate(keys)}, needed.to_dict())
    redrawn = {metric: each for metric, each in sums.items() if metric in METRIC}
    if folder is not None and redrawn:
        for _, group in results[CELL].groupby(["dataset", "category"]):
            rows = list(group.itertuples(index=False, name="Row"))
            for row, values in _redraw(folder, rows, list(redrawn)):
                for metric, each in redrawn.items():
                    each.add((row.method, row.dataset, row.shots, row.seed), values[metric])
    return {metric: each.runs() for metric, each in sums.items()}


class _Sum:
    """Redraws of runs, added up over categories."""

    def __init__(
        self, means: pd.DataFrame, column: dict[Any, int], needed: Mapping[Any, int]
    ) -> None:
        self._means, self._column = means, column
        self._needed = np.array([needed[key] for key in column], np.int64)
        self._had = np.zeros(len(column), np.int64)
        self._sums = np.zeros((DRAWS, len(column)))

    def add(self, run: tuple[str, str, int, int], values: Floats) -> None:
        """A category of a run; of runs that are not whole there is no mean."""
        if run in self._column:
            self._sums[:, self._column[run]] += values
            self._had[self._column[run]] += 1

    def runs(self) -> Runs:
        """Means of the runs of which every category was added, NaN for the others."""
        redrawn = np.full(self._sums.shape, np.nan)
        whole = self._had == self._needed
        redrawn[:, whole] = self._sums[:, whole] / self._needed[whole]
        return Runs(self._means, redrawn)


def _redraw(
    folder: Path, rows: list[Any], metrics: list[str]
) -> Iterator[tuple[Any, dict[str, Floats]]]:
    """Redraws of each cell of one category; all cells with the same queries share the draw."""
    draws: dict[bytes, tuple[NDArray[np.float32], float]] = {}
    for row in rows:
        cell = f"{row.method}/{row.dataset}/{row.category}/k{row.shots}_s{row.seed}.csv"
        try:
            queries, labels, scores, groups = predictions(folder / "predictions" / cell)
        except (OSError, ValueError, IndexError):
            continue  # as if there were no predictions: the seeds alone are left
        if not np.isfinite(scores).all() or labels.all() or not labels.any():
            continue
        order = np.argsort(queries, kind="stable")  # sweeps may list the same queries differently
        labels, scores, groups = labels[order], scores[order], groups[order]
        digest = hashlib.sha256("\n".join(queries[order]).encode() + labels.tobytes())
        if len(set(groups)) < len(groups):
            digest.update("\n".join(groups).encode())
        key = digest.digest()
        if key not in draws:
            once = np.ones((len(labels), 1), np.float32)  # the queries as they are, then redrawn
            drawn = weights(labels, int.from_bytes(key[:8]), groups=groups)
            draws[key] = np.hstack([once, drawn]), short_of(labels, groups)
        counts, stretch = draws[key]
        parts = ranked(labels, scores, counts)
        redrawn = {metric: METRIC[metric](*parts) for metric in metrics}
        yield row, {m: v[0] + stretch * (v[1:] - v[0]) for m, v in redrawn.items()}


def predictions(
    path: Path,
) -> tuple[NDArray[np.str_], NDArray[np.bool_], Floats, NDArray[np.str_]]:
    """Names, labels, scores and groups of a cell's queries, (N,) each, from its table.

    A query of no known group is one of its own; in a table from before groups were written, tiles
    go by the picture that their names begin with.

    Raises
    ------
    OSError, ValueError, IndexError
        When there is none, or it is damaged.
    """
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.reader(file)
        heads = next(rows, [])
        query, label, score = (heads.index(name) for name in ("query", "label", "score"))
        group = heads.index("group") if "group" in heads else None
        table = [
            (
                row[query],
                row[label] == "1",
                float(row[score]),
                (TILE.sub("", row[query]) if group is None else row[group]) or row[query],
            )
            for row in rows
        ]
    names, labels, scores, groups = zip(*table, strict=True)
    return (
        np.array(names),
        np.array(labels, np.bool_),
        np.array(scores, np.float64),
        np.array(groups),
    )


def weights(
    labels: NDArray[np.bool_],
    seed: int,
    draws: int = DRAWS,
    groups: NDArray[np.str_] | None = None,
) -> NDArray[np.float32]:
    """How often each query is drawn, when as many groups as there are are drawn with replacement.

    Those that hold an anomalous query and those that hold none are drawn apart, or, where every
    group holds one, those with a normal query and those without: so a draw always has both.

    Parameters
    ----------
    labels : (N,) True for anomalous
    seed, draws : of the generator; how many draws
    groups : (N,) equal where queries are drawn together; default each is a group

    Returns
    -------
    float32 ndarray of shape (N, draws)
    """
    rng = np.random.default_rng(seed)
    place, anomalous, normal = _held(labels, groups)
    first = ~normal if anomalous.all() else anomalous
    counts = np.zeros((len(anomalous), draws), np.float32)
    for stratum in (first, ~first):
        if n := int(stratum.sum()):
            counts[stratum] = rng.multinomial(n, np.full(n, 1 / n), size=draws).T
    return counts[place]


def short_of(labels: NDArray[np.bool_], groups: NDArray[np.str_] | None = None) -> float:
    """By what redraws are to be stretched: n draws of n have (n - 1) / n of the variance that they
    stand for; n is of the kind of query that is in fewer groups. 1 where that is in one group only.
    """
    _, anomalous, normal = _held(labels, groups)
    few = min(int(anomalous.sum()), int(normal.sum()))
    return math.sqrt(few / (few - 1)) if few > 1 else 1.0


def _held(
    labels: NDArray[np.bool_], groups: NDArray[np.str_] | None
) -> tuple[NDArray[np.intp], NDArray[np.bool_], NDArray[np.bool_]]:
    """The group of each query, (N,); whether each group holds an anomalous, a normal one, (G,)."""
    if groups is None or len(set(groups)) == len(groups):
        return np.arange(len(labels)), labels, ~labels
    names, place = np.unique(groups, return_inverse=True)
    held = np.zeros((2, len(names)), np.bool_)
    held[labels.astype(np.intp), place] = True
    return place, held[1], held[0]


def auroc(anomalous: NDArray[np.float32], normal: NDArray[np.float32]) -> Floats:
    """(B,) AUROC of weighted queries, ties counted half; of what ``ranked`` returns."""
    below = np.cumsum(normal, axis=0)
    totals = below[-1].astype(np.float64)
    below -= normal / 2
    area = np.einsum("sb,sb->b", anomalous, below, dtype=np.float64)
    return np.asarray(area / (anomalous.sum(axis=0) * totals), np.float64)


def auprc(anomalous: NDArray[np.float32], normal: NDArray[np.float32]) -> Floats:
    """(B,) average precision of weighted queries; of what ``ranked`` returns."""
    caught = np.cumsum(anomalous[::-1], axis=0)
    flagged = caught + np.cumsum(normal[::-1], axis=0)
    total = caught[-1].astype(np.float64)
    precision = np.divide(caught, np.maximum(flagged, 1e-6, out=flagged), out=caught)
    area = np.einsum("sb,sb->b", anomalous[::-1], precision, dtype=np.float64)
    return np.asarray(area / total, np.float64)


def ranked(
    labels: NDArray[np.bool_], scores: Floats, drawn: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Weights of anomalous and of normal queries at each distinct score, lowest first: (S, B)."""
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=-np.inf))
    sorted_draws, kind = drawn[order], labels[order, None].astype(np.float32)
    anomalous = sorted_draws * kind
    parts = anomalous, sorted_draws - anomalous
    if len(starts) == len(order):
        return parts
    return np.add.reduceat(parts[0], starts, axis=0), np.add.reduceat(parts[1], starts, axis=0)


METRIC: Mapping[str, Callable[[NDArray[np.float32], NDArray[np.float32]], Floats]] = {
    "image_auroc": auroc,
    "image_auprc": auprc,
}

"""Which methods can be told apart: paired differences, corrected for how many one looks at.

Within a dataset and number of shots, every pair of methods is compared on the same supports and
queries, and the chances are corrected for all pairs (Holm), so that the best method may be picked
by the same figures. Over datasets, each of which counts once, there are Wilcoxon's signed ranks of
every pair (Holm again), Friedman's test, and Nemenyi's critical difference of mean ranks (Demsar,
JMLR 2006).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.results.aggregate import seed_means
from harness.results.intervals import LEVEL, Runs
from harness.results.metrics import RECORDS

if TYPE_CHECKING:
    import pandas as pd

ALPHA = 1 - LEVEL
PAIRED_COLUMNS = [
    *("a", "b", "dataset", "shots", "metric", "n_seeds"),
    *("mean", "std", "low", "high", "p", "p_holm"),
    *("wins", "ties", "losses"),
]


def pairs_frame(
    results: pd.DataFrame,
    runs: Mapping[str, Runs],
    among: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Every pair of methods on the same supports and queries, per (dataset, shots) and metric.

    Parameters
    ----------
    results : frame of ``aggregate.results_frame``
    runs : metric -> what ``intervals.runs`` makes of the results
    among : methods whose pairs are wanted, in the order in which the first is ``a``; default all,
        by name. The chances are corrected for all pairs all the same.

    Returns
    -------
    frame with ``PAIRED_COLUMNS``
        ``mean`` and ``std`` (ddof 1) of ``a`` minus ``b`` over the seeds that both have in full;
        ``low`` and ``high`` its 95 % interval over seeds and queries; ``p`` the chance of such a
        difference, were there none, ``p_holm`` the same corrected for all pairs of this dataset,
        shots and metric. ``wins`` counts the categories where ``a`` is higher, averaged over those
        seeds. NaN: one seed, or no spread at all, cannot tell.

    Raises
    ------
    ValueError
        When a method is not in the results.
    """
    import pandas as pd

    known = sorted(set(results["method"]))
    for name in among or ():
        if name not in known:
            raise ValueError(f"no results of method {name!r}, only {known}")
    order = dict.fromkeys([*(among or ()), *known])
    rows = []
    for metric, measured in runs.items():
        gaps = _by_category(results, metric, measured)
        for place, group in measured.frame.groupby(["dataset", "shots"]):
            dataset, shots = str(place[0]), int(str(place[1]))
            present = set(group["method"])
            methods = [name for name in order if name in present]
            for a, b in itertools.combinations(methods, 2):
                seeds_a, values_a, _ = measured.of(a, dataset, shots)
                seeds_b, values_b, _ = measured.of(b, dataset, shots)
                both = sorted(set(seeds_a) & set(seeds_b))
                if not both:
                    continue
                change = values_a[[seeds_a.index(s) for s in both]]
                change = change - values_b[[seeds_b.index(s) for s in both]]
                std = float(change.std(ddof=1)) if len(both) > 1 else math.nan
                sure = measured.difference(a, b, dataset, shots)
                gap = _gap(gaps, (dataset, shots), a, b, both)
                wins = int((gap > 0).sum()), int((gap == 0).sum()), int((gap < 0).sum())
                spread = (sure.mean, std, sure.low, sure.high, sure.p, math.nan)
                rows.append((a, b, dataset, shots, metric, len(both), *spread, *wins))
    frame = pd.DataFrame(rows, columns=PAIRED_COLUMNS)
    for _, group in frame.groupby(["dataset", "shots", "metric"]):
        frame.loc[group.index, "p_holm"] = holm(group["p"].to_numpy(float))
    if among:
        frame = frame[frame["a"].isin(among) & frame["b"].isin(among)]
    return frame.sort_values(["dataset", "shots", "metric", "a", "b"], ignore_index=True)


def paired_frame(results: pd.DataFrame, a: str, b: str, runs: Mapping[str, Runs]) -> pd.DataFrame:
    """Method ``a`` minus method ``b`` alone: the rows of ``pairs_frame`` for these two.

    Raises
    ------
    ValueError
        When a method is not in the results, or both are the same.
    """
    if a == b:
        raise ValueError(f"expected two methods to compare, got {a!r} twice")
    return pairs_frame(results, runs, [a, b])


def holm(chances: np.ndarray) -> np.ndarray:
    """Chances corrected for how many there are, by Holm; NaN stays and counts for none.

    By numpy alone: every sweep ends with this, and statsmodels takes half a second to import.
    """
    out = np.full(len(chances), np.nan)
    defined = np.flatnonzero(~np.isnan(chances))
    rising = defined[np.argsort(chances[defined], kind="stable")]
    scaled = chances[rising] * np.arange(len(rising), 0, -1)
    out[rising] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return out


def near_best(pairs: pd.DataFrame, metric: str) -> set[tuple[str, int, str]]:
    """(dataset, shots, method) of those that cannot be told from the best, itself among them.

    The best is the method with the best mean; a method is told from it when the corrected
    chance of their difference is below 5 %. Where nothing can be tested (one seed), there are none.
    """
    near: set[tuple[str, int, str]] = set()
    for (dataset, shots), group in pairs[pairs["metric"] == metric].groupby(["dataset", "shots"]):
        rows: list[dict[Hashable, Any]] = group.to_dict("records")
        if all(math.isnan(row["p"]) for row in rows):
            continue
        beaten = dict.fromkeys([row[side] for row in rows for side in ("a", "b")], 0)
        for row in rows:
            first = (row["mean"] > 0) == RECORDS[metric].higher_is_better
            beaten[row["b"] if first else row["a"]] += row["mean"] != 0
        best = min(beaten, key=lambda name: beaten[name])
        separated = {
            row["b"] if row["a"] == best else row["a"]
            for row in rows
            if best in (row["a"], row["b"]) and row["p_holm"] < ALPHA
        }
        near |= {(str(dataset), int(str(shots)), name) for name in beaten if name not in separated}
    return near


@dataclass(frozen=True)
class Ranks:
    """Methods over datasets, each dataset counting once by its mean over seeds and shots.

    Attributes
    ----------
    mean_ranks : method -> its rank (1 is best, ties share), averaged over the datasets; best first
    datasets : those in which every one of these methods has a value at the same shots
    critical_difference : of mean ranks, by Nemenyi; a smaller one does not tell two methods apart
    friedman : chance of ranks so different, were all methods alike; NaN below three methods
    groups : methods that no critical difference tells apart, the largest such sets only
    pairs : frame with the columns a, b, median, p, p_holm: Wilcoxon's signed ranks of a - b
    """

    metric: str
    mean_ranks: Mapping[str, float]
    datasets: tuple[str, ...]
    critical_difference: float
    friedman: float
    groups: tuple[tuple[str, ...], ...]
    pairs: pd.DataFrame

    @property
    def least(self) -> float:
        """The smallest chance that so many datasets allow Wilcoxon's test before correction."""
        return float(2.0 ** (1 - len(self.datasets)))


def ranks(
    results: pd.DataFrame, metric: str = "image_auroc", expected: pd.DataFrame | None = None
) -> Ranks | None:
    """Mean ranks over datasets; None with fewer than two methods or three datasets to rank on.

    Shots at which a method lacks a value are left out of a dataset for all methods; datasets that
    then have none are left out.
    """
    import pandas as pd
    from scipy import stats

    means = seed_means(results, metric, expected)
    table = means.pivot_table(index=["dataset", "shots"], columns="method", values="value")
    whole = table.dropna()
    if whole.empty:
        return None
    table = whole.groupby("dataset").mean()
    count, width = table.shape
    if count < 3 or width < 2:
        return None
    places = table.rank(axis=1, ascending=not RECORDS[metric].higher_is_better)
    mean_ranks = places.mean().sort_values(kind="stable")
    friedman = math.nan
    if width > 2:
        friedman = float(stats.friedmanchisquare(*(table[m] for m in table.columns)).pvalue)
    q = float(stats.studentized_range.ppf(LEVEL, width, np.inf)) / math.sqrt(2)
    difference = q * math.sqrt(width * (width + 1) / (6 * count))
    rows = []
    for a, b in itertools.combinations(mean_ranks.index, 2):
        change = (table[a] - table[b]).to_numpy(float)
        alike = not np.abs(change).any()
        p = math.nan if alike else float(stats.wilcoxon(change).pvalue)
        rows.append((a, b, float(np.median(change)), p, math.nan))
    pairs = pd.DataFrame(rows, columns=["a", "b", "median", "p", "p_holm"])
    pairs["p_holm"] = holm(pairs["p"].to_numpy(float))
    return Ranks(
        metric,
        {str(name): float(rank) for name, rank in mean_ranks.items()},
        tuple(map(str, table.index)),
        difference,
        friedman,
        _groups(mean_ranks, difference),
        pairs,
    )


def _groups(mean_ranks: pd.Series[float], difference: float) -> tuple[tuple[str, ...], ...]:
    """Runs of neighbouring methods within one critical difference, none inside another."""
    names, values = list(map(str, mean_ranks.index)), mean_ranks.to_numpy(float)
    spans: list[tuple[int, int]] = []
    for first in range(len(names)):
        last = int(np.searchsorted(values, values[first] + difference, side="right"))
        if last - first > 1 and (not spans or last > spans[-1][1]):
            spans.append((first, last))
    return tuple(tuple(names[first:last]) for first, last in spans)


def _by_category(
    results: pd.DataFrame, metric: str, runs: Runs
) -> dict[tuple[str, str, int, int], dict[str, float]]:
    """(method, dataset, shots, seed) -> category -> value, of the runs that are whole."""
    run = ["method", "dataset", "shots", "seed"]
    cells = results.dropna(subset=[metric]).merge(runs.frame[run], on=run)
    values: dict[tuple[str, str, int, int], dict[str, float]] = {}
    for *key, category, value in cells[[*run, "category", metric]].itertuples(index=False):
        values.setdefault((key[0], key[1], key[2], key[3]), {})[category] = value
    return values


def _gap(
    values: Mapping[tuple[str, str, int, int], Mapping[str, float]],
    place: tuple[str, int],
    a: str,
    b: str,
    seeds: list[int],
) -> np.ndarray:
    """Difference by category, averaged over the seeds."""
    gaps = []
    for category in values[a, *place, seeds[0]]:
        pairs = [(values[a, *place, s], values[b, *place, s]) for s in seeds]
        gaps.append(
            [x[category] - y[category] for x, y in pairs if category in x and category in y]
        )
    return np.array([float(np.mean(gap)) for gap in gaps if gap])

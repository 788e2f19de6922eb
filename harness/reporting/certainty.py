"""What a sweep can and cannot tell: paired differences, ranks over datasets, their diagram."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any

from harness.reporting.tables import NOTHING, TITLES, Table, percent, points
from harness.results import significance

if TYPE_CHECKING:
    from harness.results.folder.reader import SweepFolder

NEAR = "~"
METRIC = "image_auroc"
WIDTH, ROW, MARGIN = 640, 18, 150  # of the diagram, in pixels


def near(sweep: SweepFolder) -> dict[str, set[tuple[str, int, str]]]:
    """Metric -> (dataset, shots, method) of those that cannot be told from the best."""
    return {metric: significance.near_best(sweep.pairs, metric) for metric in sweep.runs}


def meaning(sweep: SweepFolder, shown: str) -> str:
    """What it means that a figure is ``shown`` as not told from the best; "" where none is.

    Only some metrics are tested: elsewhere a figure that is not shown so was not told apart.
    """
    tested = [TITLES[metric] for metric, places in near(sweep).items() if places]
    return f"{shown} not told from it, tested of image {' and '.join(tested)}" if tested else ""


def differences(sweep: SweepFolder, a: str, nearest: bool) -> Table:
    """``a`` minus the other methods in AUROC points, on the same supports and queries.

    Parameters
    ----------
    sweep : SweepFolder
    a : name of a method
    nearest : bool
        Only the other method with the highest mean, for each dataset and number of shots.
    """
    pairs = sweep.pairs[sweep.pairs["metric"] == METRIC]
    rows: dict[tuple[str, int], list[tuple[float, str, list[str]]]] = {}
    for row in pairs.to_dict("records"):
        if a in (row["a"], row["b"]):
            other = row["b"] if row["a"] == a else row["a"]
            turned = row if row["a"] == a else _turned(row)
            body = [row["dataset"], str(row["shots"]), other, *_difference(turned)]
            rows.setdefault((row["dataset"], row["shots"]), []).append(
                (turned["mean"], other, body)  # the least difference is to the best other
            )
    shown = []
    for place in sorted(rows):
        ordered = sorted(rows[place])
        chosen = ordered[:1] if nearest else sorted(ordered, key=lambda row: row[1])
        shown += [body for _, _, body in chosen]
    columns = ["dataset", "shots", "against", "difference", "95 % interval", "p", "seeds"]
    return Table(
        f"{a} minus {'the best other method' if nearest else 'each other method'}, AUROC points",
        [*columns, "categories won-tied-lost"],
        shown,
        names=3,
    )


def intervals(sweep: SweepFolder, metric: str = METRIC) -> Table:
    """Mean and 95 % interval of every method, dataset and number of shots, in percent."""
    runs = sweep.runs[metric]
    keys = runs.frame[["dataset", "shots", "method"]].drop_duplicates()
    order = {name: i for i, name in enumerate(sweep.methods)}
    rows = []
    for dataset, shots, method in sorted(
        keys.itertuples(index=False, name=None), key=lambda key: (*key[:2], order[key[2]])
    ):
        interval = runs.mean(method, dataset, shots)
        seeds = len(runs.of(method, dataset, shots)[0])
        ends = NOTHING
        if not math.isnan(interval.low):
            ends = f"{percent(interval.low)} to {percent(interval.high)}"
        rows.append([dataset, str(shots), method, percent(interval.mean), ends, str(seeds)])
    columns = ["dataset", "shots", "method", f"{TITLES[metric]} %", "95 % interval", "seeds"]
    return Table(f"Intervals of {TITLES[metric]}", columns, rows, names=3)


def ranked(sweep: SweepFolder) -> Table | None:
    """Mean ranks over datasets, and each method against the best one; None with too few."""
    ranks = sweep.ranks
    if ranks is None:
        return None
    best, *_ = ranks.mean_ranks
    against = {row["b"]: row for row in ranks.pairs.to_dict("records") if row["a"] == best}
    together = [set(group) for group in ranks.groups if best in group]
    rows = []
    for name, rank in ranks.mean_ranks.items():
        row = against.get(name)
        apart = "" if name == best else "no" if any(name in group for group in together) else "yes"
        middle, p = (
            (NOTHING, NOTHING) if row is None else (points(-row["median"]), _p(row["p_holm"]))
        )
        rows.append([name, f"{rank:.2f}", middle, p, apart])
    title = (
        f"Ranks over {len(ranks.datasets)} datasets, critical difference "
        f"{ranks.critical_difference:.2f}, Friedman p {_p(ranks.friedman)}"
    )
    columns = ["method", "mean rank", f"median to {best}", "Wilcoxon p", "beyond it"]
    return Table(title, columns, rows)


def corrected(sweep: SweepFolder) -> list[str]:
    """What p and an interval of a table of differences stand for; nothing where neither is."""
    tested = sweep.pairs[sweep.pairs["metric"] == METRIC]["p"].notna().any()
    line = "p is corrected for all pairs of a dataset and shots (Holm), an interval is of its pair."
    return [line] if tested else []


def remarks(sweep: SweepFolder) -> list[str]:
    """What this many seeds and datasets cannot show, in words; a line each."""
    lines = []
    seeds = sweep.runs[METRIC].frame.groupby(["method", "dataset", "shots"]).size()
    few = int(seeds.min()) if len(seeds) else 0
    if few == 1:
        lines.append("One seed shows no spread: no interval, no comparison.")
    elif 1 < few <= 5:
        pairs = sweep.pairs[sweep.pairs["metric"] == METRIC].groupby(["dataset", "shots"]).size()
        most = int(pairs.max()) if len(pairs) else 0
        stricter = f", {_reach(few, most):.1f} when corrected for {most} pairs" if most > 1 else ""
        lines.append(
            f"{few} seeds show differences above {_reach(few):.1f} of their deviations between "
            f"seeds{stricter}. Not told apart does not mean alike."
        )
    if few > 1:
        import numpy as np

        if np.isnan(sweep.runs[METRIC].redrawn).any():
            lines.append(
                "Some predictions are missing: there, intervals are over the seeds alone and too "
                "narrow."
            )
    if sweep.ranks is not None and sweep.ranks.least > significance.ALPHA:
        count, least = len(sweep.ranks.datasets), sweep.ranks.least
        lines.append(f"{count} datasets allow no Wilcoxon p below {least:.2g}.")
    return lines


def diagram(ranks: significance.Ranks) -> str:
    """Critical-difference diagram as inline SVG: best to the left, bars join what is not apart."""
    from html import escape

    names = list(ranks.mean_ranks)
    most = len(names)
    span = WIDTH - 2 * MARGIN

    def x(rank: float) -> float:
        return MARGIN + (rank - 1) / max(most - 1, 1) * span

    half = (most + 1) // 2
    axis = 46
    bars = axis + 12
    top = bars + 8 * len(ranks.groups) + 8
    height = top + ROW * max(half, most - half) + 6
    out = [
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" class="chart ranks" '
        'fill="currentColor" stroke="none"><title>'
        f"Mean ranks over {len(ranks.datasets)} datasets; bars join methods within one critical "
        f"difference of {ranks.critical_difference:.2f}</title>"
    ]
    line = 'stroke="currentColor" stroke-width="{}"'
    out.append(f'<path d="M{x(1):.1f} {axis}H{x(most):.1f}" {line.format(1)}/>')
    for tick in range(1, most + 1):
        out.append(f'<path d="M{x(tick):.1f} {axis - 5}V{axis}" {line.format(1)}/>')
        out.append(f'<text x="{x(tick):.1f}" y="{axis - 9}" text-anchor="middle">{tick}</text>')
    end = x(1 + ranks.critical_difference)
    out.append(
        f'<path d="M{x(1):.1f} 10v6M{x(1):.1f} 13H{end:.1f}M{end:.1f} 10v6" fill="none" '
        f"{line.format(1.5)}/>"
    )
    out.append(f'<text x="{end + 6:.1f}" y="17">CD {ranks.critical_difference:.2f}</text>')
    for i, group in enumerate(ranks.groups):
        first, last = (ranks.mean_ranks[name] for name in (group[0], group[-1]))
        y = bars + 8 * i
        out.append(f'<path d="M{x(first) - 3:.1f} {y}H{x(last) + 3:.1f}" {line.format(4)}/>')
    for i, name in enumerate(names):
        left = i < half
        row = i if left else most - 1 - i
        y, at = top + ROW * row + 6, x(ranks.mean_ranks[name])
        edge = MARGIN - 6 if left else WIDTH - MARGIN + 6
        anchor = "end" if left else "start"
        out.append(f'<path d="M{at:.1f} {axis}V{y - 4}H{edge}" fill="none" {line.format(0.8)}/>')
        text = f"{escape(name[:22])} {ranks.mean_ranks[name]:.2f}"
        out.append(
            f'<text x="{edge + (-4 if left else 4)}" y="{y}" text-anchor="{anchor}">{text}</text>'
        )
    return "".join([*out, "</svg>"])


def _difference(row: Mapping[Hashable, Any]) -> list[str]:
    interval = NOTHING
    if not math.isnan(row["low"]):
        interval = f"{points(row['low'])} to {points(row['high'])}"
    std = "" if math.isnan(row["std"]) else f" ± {percent(row['std'])}"
    won = f"{row['wins']}-{row['ties']}-{row['losses']}"
    return [points(row["mean"]) + std, interval, _p(row["p_holm"]), str(row["n_seeds"]), won]


def _turned(row: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
    """The row of ``b`` minus ``a``."""
    flipped: dict[Hashable, Any] = {"mean": -row["mean"], "low": -row["high"], "high": -row["low"]}
    return {**row, **flipped, "wins": row["losses"], "losses": row["wins"]}


def _p(value: float) -> str:
    return NOTHING if math.isnan(value) else "<0.001" if value < 0.001 else f"{value:.3f}"


def _reach(seeds: int, pairs: int = 1) -> float:
    """The least mean over so many seeds, in their deviations, with a chance below 5 % by Student's
    t after the strictest correction for so many pairs.
    """
    from scipy.special import stdtrit

    return float(stdtrit(seeds - 1, 1 - significance.ALPHA / 2 / pairs) / math.sqrt(seeds))

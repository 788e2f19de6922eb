"""Runs that are copies of one another, and where a spread comes from.

A method that neither reads its support nor trains by the seed (zero-shot; one trained once for all
seeds that ignores its support) gives the same scores with every seed. Its standard deviation, 0, is
no measure of anything: tables show "–" for it.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from harness.results import aggregate
from harness.results.folder import integrity

if TYPE_CHECKING:
    import pandas as pd

Group = tuple[str, str, int]  # method, dataset, shots


def copies(timings: pd.DataFrame) -> dict[Group, int]:
    """Groups whose every score is the same in all seeds, with how many seeds those are.

    Parameters
    ----------
    timings : frame of ``timings.csv``
        Tables of predictions are compared by its digests. Folders from before there were any have
        no copies that anyone knows of.
    """
    column = integrity.column("predictions")
    if column not in timings:
        return {}
    same: dict[Group, int] = {}
    for (method, dataset, shots), group in timings.groupby(aggregate.GROUP):
        seeds = group["seed"].nunique()
        digests = group[column].fillna("").astype(str)
        per_category = digests.groupby(group["category"]).nunique()
        if seeds > 1 and (digests != "").all() and (per_category == 1).all():
            same[str(method), str(dataset), int(str(shots))] = int(seeds)
    return same


def sources(summary: pd.DataFrame, config: dict[str, Any]) -> list[str]:
    """Spread by training beside that by supports, where a method ran trained both ways.

    Of one method under two labels, with ``training: once`` and without, the second varies by
    support and training, the first by support alone; what is left is training's share, if the two
    are independent. In lines, of image AUROC.
    """
    entries = [e for e in config.get("methods", []) if isinstance(e, dict) and "use" in e]
    by_key = {(r["method"], r["dataset"], r["shots"]): r for r in summary.to_dict("records")}
    lines = []
    for once in (e for e in entries if e.get("training") == "once"):
        for each in (e for e in entries if e.get("training", "per-seed") == "per-seed"):
            if _alike(once) != _alike(each):
                continue
            names = [str(e.get("label") or e["use"]) for e in (each, once)]
            for method, dataset, shots in by_key:
                pair = [by_key.get((name, dataset, shots)) for name in names]
                if method == names[0] and pair[0] and pair[1]:
                    lines += _line(names, str(dataset), int(shots), *pair)
    return lines


def _alike(entry: dict[str, Any]) -> str:
    """An entry but for its label and how often it trains."""
    rest = {name: value for name, value in entry.items() if name not in ("label", "training")}
    return json.dumps(rest, sort_keys=True, default=str)


def _line(names: list[str], dataset: str, shots: int, each: Any, once: Any) -> list[str]:
    both, support = (float(row["image_auroc_std"]) for row in (each, once))
    if math.isnan(both) or math.isnan(support):
        return []
    training = math.sqrt(max(both**2 - support**2, 0.0))
    figures = [f"{100 * value:.1f}" for value in (both, support, training)]
    return [
        f"{dataset}, {aggregate.shots_title(shots)}: AUROC of {names[0]} spreads by {figures[0]} "
        f"over supports and trainings, of {names[1]} (trained once) by {figures[1]} over supports "
        f"alone; {figures[2]} are left for training"
    ]

"""Sweeps beside each other: what changed in their shared cells, what differs in what they ran.

The first sweep is what the others are held against. A cell is shared when both have its method,
dataset, category, shots and seed; queries are paired by their names.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.results.aggregate import CELL, names
from harness.results.folder import reader
from harness.results.intervals import Interval, interval, runs
from harness.results.metrics import RECORDS, compared
from harness.results.significance import holm

if TYPE_CHECKING:
    import pandas as pd

    from harness.results.folder.reader import SweepFolder

METRICS = tuple(compared())
NOTHING = "–"  # a setting that one sweep lacks
IDLE = (
    "name",
    "description",
    "time_limit",
    "attempts",
    "keep_models",
    "memory",
)  # of a config: no matter to results


@dataclass(frozen=True)
class Change:
    """A mean of shared cells in two sweeps, as shares; ``sure`` is of the second minus the first.

    ``seeds`` counts those that both have with every shared category.
    """

    metric: str
    method: str
    dataset: str
    shots: int
    before: float
    after: float
    sure: Interval
    p_holm: float
    seeds: int

    @property
    def gain(self) -> float:
        """By how much the second is better; below 0 where it is worse."""
        return RECORDS[self.metric].gain(self.sure.mean)


@dataclass(frozen=True)
class Comparison:
    """One sweep held against another; see ``compare``."""

    names: tuple[str, str]
    shared: int
    same: int  # shared cells whose every figure is equal
    changes: list[Change]
    new: list[str]  # cells, in words
    lost: list[str]
    failed: list[str]  # of the lost, those that the second tried
    differing: list[tuple[str, str, str]]  # setting, before, after
    fallen: list[Change] = field(default_factory=list)

    @property
    def frame(self) -> pd.DataFrame:
        """The changes, a row each: shares, the interval's ends, chances."""
        import pandas as pd

        rows = [
            {
                **{name: value for name, value in change.__dict__.items() if name != "sure"},
                "difference": change.sure.mean,
                **{name: getattr(change.sure, name) for name in ("low", "high", "p")},
            }
            for change in self.changes
        ]
        return pd.DataFrame(rows)


def compare(folders: Sequence[Path], fail_below: float | None = None) -> list[Comparison]:
    """Each sweep after the first, held against the first.

    Parameters
    ----------
    folders : two or more sweeps' folders
    fail_below : most points (1 is one per cent) that a mean may be worse by; its sign is no
        matter. Shared groups that are worse by more are ``fallen``; without it, none are.

    Raises
    ------
    ValueError
        When there are fewer than two folders, or two have no cell in common.
    FileNotFoundError, ValueError
        As ``reader.load``.
    """
    if len(folders) < 2:
        raise ValueError(f"compare takes two or more sweeps' folders, got {len(folders)}")
    first, *others = [reader.load(Path(folder)) for folder in folders]
    return [_compare(first, other, fail_below) for other in others]


def _compare(a: SweepFolder, b: SweepFolder, fail_below: float | None) -> Comparison:
    both = a.results[CELL].merge(b.results[CELL], on=CELL)
    if both.empty:
        raise ValueError(
            f"{a.path} and {b.path} have no cell in common: methods {names(a.methods)} and "
            f"{names(b.methods)}, datasets {names(a.results['dataset'])} and "
            f"{names(b.results['dataset'])}"
        )
    shared = [sweep.results.merge(both, on=CELL).sort_values(CELL) for sweep in (a, b)]
    figures = [frame[list(METRICS)].to_numpy(float) for frame in shared]
    equal = (figures[0] == figures[1]) | ((figures[0] != figures[0]) & (figures[1] != figures[1]))
    changes = [change for metric in METRICS for change in _changes(a, b, shared, metric)]
    cells = [set(sweep.results[CELL].itertuples(index=False, name=None)) for sweep in (a, b)]
    tried = set(b.failed[CELL].itertuples(index=False, name=None)) if len(b.failed) else set()
    most = math.inf if fail_below is None else abs(fail_below) / 100
    return Comparison(
        (str(a.path), str(b.path)) if a.name == b.name else (a.name, b.name),
        len(both),
        int(equal.all(axis=1).sum()),
        changes,
        _cells(cells[1] - cells[0]),
        _cells(cells[0] - cells[1]),
        _cells(tried & cells[0] - cells[1]),
        list(_differing(a, b)),
        [change for change in changes if change.gain < -most - 1e-12],
    )


def _changes(
    a: SweepFolder, b: SweepFolder, shared: Sequence[pd.DataFrame], metric: str
) -> list[Change]:
    """Of each (method, dataset, shots) with a value in both, corrected for how many there are."""
    if any(frame[metric].isna().all() for frame in shared):
        return []
    measured = [
        runs(frame, sweep.path, metric, frame[CELL])
        for sweep, frame in zip((a, b), shared, strict=True)
    ]
    changes = []
    keys = measured[0].frame[["method", "dataset", "shots"]].drop_duplicates()
    for method, dataset, shots in keys.itertuples(index=False, name=None):
        parts = [each.of(method, dataset, shots) for each in measured]
        seeds = sorted(set(parts[0][0]) & set(parts[1][0]))
        if not seeds:
            continue
        (x, drawn_x), (y, drawn_y) = (
            (values[at], redrawn[:, at])
            for had, values, redrawn in parts
            if (at := [had.index(seed) for seed in seeds])
        )
        sure = interval(y - x, drawn_y - drawn_x)
        means = float(x.mean()), float(y.mean())
        changes.append(Change(metric, method, dataset, shots, *means, sure, math.nan, len(seeds)))
    import numpy as np

    corrected = holm(np.array([change.sure.p for change in changes]))
    return [
        Change(**{**change.__dict__, "p_holm": float(p)})
        for change, p in zip(changes, corrected, strict=True)
    ]


def _cells(cells: set[tuple[Hashable, ...]]) -> list[str]:
    """Cells in words, gathered by method, dataset and shots."""
    groups: dict[tuple[Any, ...], list[str]] = {}
    for method, dataset, category, shots, seed in sorted(cells, key=str):
        words = f"{category} seed {seed}" if category != dataset else f"seed {seed}"
        groups.setdefault((method, dataset, shots), []).append(words)
    return [
        f"{method}, {dataset}, {shots} shots: {names(each)}"
        for (method, dataset, shots), each in groups.items()
    ]


def _differing(a: SweepFolder, b: SweepFolder) -> Iterator[tuple[str, str, str]]:
    """What differs in config, environment (code and libraries), data and supports."""
    described = [
        {
            **{
                f"config {name}": value
                for key, values in sweep.config.items()
                if key not in IDLE
                for name, value in _flat(key, values)
            },
            **{
                f"environment {name}": value
                for key, values in sweep.environment.items()
                if key not in ("format", "data")
                for name, value in _flat(key, values)
            },
            **dict(_data(sweep)),
        }
        for sweep in (a, b)
    ]
    for name in dict.fromkeys([*described[0], *described[1]]):
        before, after = (each.get(name, NOTHING) for each in described)
        if before != after:
            yield name, before, after
    supports = [reader.supports(sweep.path) for sweep in (a, b)]
    other = [
        where
        for where, drawn in supports[0].items()
        if any(x != y for x, y in zip(drawn, supports[1].get(where, []), strict=False))
    ]
    if other:
        yield "support images", f"as drawn for {names(other)}", "others"
    keys = [
        sweep.timings.set_index(CELL)["key"].to_dict() if "key" in sweep.timings else {}
        for sweep in (a, b)
    ]
    both = [cell for cell in keys[0] if cell in keys[1]]
    changed = sum(keys[0][cell] != keys[1][cell] for cell in both)
    if changed:
        yield "code, data or settings", f"keys of {len(both)} cells", f"{changed} of them others"


def _data(sweep: SweepFolder) -> Iterator[tuple[str, str]]:
    for name, digest in (sweep.environment.get("data") or {}).items():
        yield f"data {name}", str(digest)[:16]
    per = sweep.results.drop_duplicates(["dataset", "category"])
    for row in per.to_dict("records"):
        counts = f"{row['n_normal']} normal, {row['n_anomalous']} anomalous"
        yield f"queries {row['dataset']}/{row['category']}", counts


def _flat(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """Dotted names and words of everything in a nested value; lists of entries by their labels."""
    if isinstance(value, dict) and value:
        for key, each in value.items():
            yield from _flat(f"{name}.{key}", each)
    elif isinstance(value, list) and any(isinstance(each, dict) for each in value):
        for i, each in enumerate(value):
            label = each.get("label") or each.get("use") if isinstance(each, dict) else None
            yield from _flat(f"{name}[{label or i}]", each)
    elif value not in (None, {}, []):
        yield name, str(value)

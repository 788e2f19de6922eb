"""Rows of results to frames, and means with their spread.

How runs are averaged: a metric is averaged over the categories of a dataset within a seed, without
weights; those means are then averaged over the seeds, with the sample standard deviation (ddof 1).
A seed enters only with every category, so that no two means are over different sets: seeds that
lack a cell, or a value in one, are left out of the mean and named. Categories that ran and where no
method has a value (no masks, one class only) do not count for that metric.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import amount
from harness.results.metrics import METRICS

if TYPE_CHECKING:
    import pandas as pd

FORMAT = 2  # of a sweep's folder; 1 is that of folders that do not say
CELL = ["method", "dataset", "category", "shots", "seed"]
GROUP = ["method", "dataset", "shots"]
NEEDED = [*CELL, "n_normal", "n_anomalous"]  # of a row of results, of whatever format
#: what stands beside a result: defect regions lost by resizing, support images that leak, and the
#: strongest trivial statistic of the queries with its AUROC
BESIDE = ["n_vanished", "support_leaks", "trivial", "trivial_auroc"]
RESULT_COLUMNS = [*NEEDED, *METRICS, *BESIDE, "status"]
SUMMARY_COLUMNS = [
    *GROUP,
    "n_seeds",
    "n_categories",
    "n_cells",
    "complete",
    *(f"{metric}_{statistic}" for metric in METRICS for statistic in ("mean", "std", "n")),
    "missing",
]
_WORDS = {"method", "dataset", "category", "status", "missing", "trivial"}
_WORDS |= {"task", "error", "traceback", "query", "defect", "group", "metric"}


def shots_title(count: int) -> str:
    """Heading of a number of shots."""
    return amount(count, "shot")


def results_frame(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Rows of cells as a sorted frame: integers, floats with NaN where undefined, words.

    Parameters
    ----------
    rows : mappings with the names of ``RESULT_COLUMNS``
        Metrics may be None or left out. An optional column that is left out is empty.

    Raises
    ------
    ValueError
        When a cell comes twice, or a column is unknown or needed and missing.
    """
    import pandas as pd

    rows = [dict(row) for row in rows]
    needed = [*CELL, "n_normal", "n_anomalous", "status"]
    for row in rows:
        missing = [name for name in needed if name not in row]
        unknown = sorted(set(row) - set(RESULT_COLUMNS))
        if missing or unknown:
            raise ValueError(f"a row of results lacks {missing} and has unknown {unknown}: {row}")
    frame = pd.DataFrame(rows, columns=RESULT_COLUMNS)
    frame[list(METRICS)] = frame[list(METRICS)].astype("float64")
    for name in ("shots", "seed", "n_normal", "n_anomalous"):
        frame[name] = frame[name].astype("int64")
    for name in ("n_vanished", "support_leaks"):
        frame[name] = frame[name].astype("Int64")
    frame["trivial"] = frame["trivial"].fillna("").astype(str)
    frame["trivial_auroc"] = frame["trivial_auroc"].astype("float64")
    twice = frame[frame.duplicated(CELL)]
    if len(twice):
        raise ValueError(f"the cell {tuple(twice.iloc[0][CELL])} has more than one result")
    return frame.sort_values(CELL, ignore_index=True)


def csv_text(frame: pd.DataFrame) -> str:
    r"""A frame as CSV, byte for byte the same for the same values.

    Floats are the shortest digits that read back exactly, undefined values are empty, lines end in
    a bare newline whatever the platform.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(frame.columns)
    for row in frame.itertuples(index=False, name=None):
        writer.writerow(["" if _empty(value) else _plain(value) for value in row])
    return buffer.getvalue()


def read_csv(path: Path, columns: Sequence[str] = (), optional: Sequence[str] = ()) -> pd.DataFrame:
    """A CSV of this project; names stay words ("001", "NA", "nan"), floats are read exactly.

    Parameters
    ----------
    path : Path
    columns : names that must be there
    optional : names that are there too, empty where the file is from before they were

    Raises
    ------
    FileNotFoundError
        When there is no such file.
    ValueError
        When it is not a CSV, or lacks a column.
    """
    import pandas as pd

    try:
        with path.open(newline="", encoding="utf-8") as file:
            names = next(csv.reader(file), [])
        frame = pd.read_csv(
            path,
            dtype=dict.fromkeys(_WORDS, str),
            keep_default_na=False,
            na_values={name: ["", "nan"] for name in names if name not in _WORDS},
            float_precision="round_trip",
            encoding="utf-8",
        )
    except FileNotFoundError:
        raise
    except (ValueError, OSError, csv.Error) as error:
        raise ValueError(f"{path}: not readable as CSV: {' '.join(str(error).split())}") from error
    lacking = [name for name in columns if name not in frame.columns]
    if lacking:
        raise ValueError(f"{path}: expected the column {lacking[0]}, got {', '.join(names)}")
    for name in optional:
        if name not in frame.columns:
            frame[name] = "" if name in _WORDS else math.nan
    return frame


def grid(cells: pd.DataFrame) -> pd.DataFrame:
    """The cells one expects, seeing these: for every (method, dataset, shots) among them, each
    category and seed that any method has of that dataset.
    """
    groups = cells[GROUP].drop_duplicates()
    categories = cells[["dataset", "category"]].drop_duplicates()
    seeds = cells[["dataset", "seed"]].drop_duplicates()
    return groups.merge(categories, on="dataset").merge(seeds, on="dataset")[CELL]


def seed_means(
    results: pd.DataFrame, metric: str, expected: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Mean of a metric over the categories, for each (method, dataset, shots, seed) that has all.

    Parameters
    ----------
    results : frame of ``results_frame``
    metric : one of ``METRICS``
    expected : frame with the columns of ``CELL``, the cells there should be; default ``grid``

    Returns
    -------
    frame with the columns method, dataset, shots, seed, value, sorted
    """
    import pandas as pd

    run = [*GROUP, "seed"]
    expected = grid(results) if expected is None else expected
    defined = results.dropna(subset=[metric]).sort_values(CELL)
    place = ["dataset", "category"]
    never = results.groupby(place)[metric].count().eq(0).rename("never").reset_index()
    cells = expected[CELL].merge(never[never["never"]], on=place, how="left")
    needed = cells[cells["never"].isna()].groupby(run).size().rename("needed")
    had = defined.groupby(run)[metric].agg(value="mean", had="size")
    means = pd.concat([had, needed], axis=1, join="inner").sort_index()
    return means.loc[means["had"] == means["needed"], ["value"]].reset_index()


def summary_frame(results: pd.DataFrame, expected: pd.DataFrame | None = None) -> pd.DataFrame:
    """One row per (method, dataset, shots): see the module's text for what enters a mean.

    Parameters
    ----------
    results : frame of ``results_frame``
    expected : frame with the columns of ``CELL``, the cells there should be; default ``grid``

    Returns
    -------
    frame with ``SUMMARY_COLUMNS``
        ``n_seeds`` counts the seeds that have every category, ``n_cells`` the cells there are,
        ``complete`` is False where a cell or a value is missing, ``missing`` says which.
        ``<metric>_n`` counts the seeds in that metric's mean. The std of one seed is undefined.
    """
    import pandas as pd

    expected = (grid(results) if expected is None else expected)[CELL].drop_duplicates()
    cells = expected.merge(results, on=CELL, how="left", indicator="found")
    cells["found"] = cells["found"] == "both"
    spread: dict[str, dict[Any, dict[Hashable, Any]]] = {}
    for metric in METRICS:
        means = seed_means(results, metric, expected).groupby(GROUP)
        over_seeds = means.agg(mean=("value", "mean"), std=("value", "std"), n=("value", "size"))
        spread[metric] = over_seeds.to_dict("index")
    counting = {
        metric: set(
            results.dropna(subset=[metric])[["dataset", "category"]].itertuples(
                index=False, name=None
            )
        )
        for metric in METRICS
    }
    rows = []
    for key, group in cells.groupby(GROUP):
        seeds = group.groupby("seed")["found"].all()
        missing = _missing(group, counting)
        row: dict[str, Any] = dict(zip(GROUP, key, strict=True))
        row |= {
            "n_seeds": int(seeds.sum()),
            "n_categories": group["category"].nunique(),
            "n_cells": int(group["found"].sum()),
            "complete": not missing,
            "missing": missing,
        }
        for metric in METRICS:
            values = spread[metric].get(key, {"mean": math.nan, "std": math.nan, "n": 0})
            row |= {f"{metric}_{name}": value for name, value in values.items()}
        rows.append(row)
    return pd.DataFrame(rows, columns=SUMMARY_COLUMNS)


def _missing(group: pd.DataFrame, counting: dict[str, set[tuple[str, str]]]) -> str:
    """What a row of the summary lacks: cells, then values others have in the same categories."""
    absent: dict[int, list[str]] = {}
    holes: dict[tuple[str, int], list[str]] = {}
    for cell in group.to_dict("records"):
        if not cell["found"]:
            absent.setdefault(cell["seed"], []).append(cell["category"])
            continue
        for metric in METRICS:
            counts = (cell["dataset"], cell["category"]) in counting[metric]
            if counts and math.isnan(cell[metric]):
                holes.setdefault((metric, cell["seed"]), []).append(cell["category"])
    parts = [f"seed {seed}: {names(absent[seed])}" for seed in sorted(absent)]
    for metric in METRICS:  # a method that makes no maps at all lacks none
        if metric.startswith("pixel_") and group[metric].isna().all():
            holes = {hole: names for hole, names in holes.items() if hole[0] != metric}
    parts += [
        f"{metric} undefined in seed {seed}: {names(holes[metric, seed])}"
        for metric, seed in sorted(holes, key=lambda hole: (METRICS.index(hole[0]), hole[1]))
    ]
    return "; ".join(parts)


def names(values: Iterable[str], most: int = 3) -> str:
    """Sorted names in a few words: "bottle, cable, pill and 2 more"."""
    ordered = sorted(set(values))
    rest = len(ordered) - most
    return ", ".join(ordered[:most]) + (f" and {rest} more" if rest > 0 else "")


def _empty(value: object) -> bool:
    import pandas as pd

    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))


def _plain(value: Any) -> str:
    """Python's own shortest form, also of numpy's numbers."""
    value = value.item() if hasattr(value, "item") else value
    return repr(value) if isinstance(value, float) else str(value)

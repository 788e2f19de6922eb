"""One static page over all sweeps of a storage: every mean beside every other, to sort and filter.

Sweeps differ in queries, supports and models: a row says which, and links to its sweep's report.
"""

from __future__ import annotations

import contextlib
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from harness.errors import one_line
from harness.planning.models import SMALL
from harness.reporting.tables import INCOMPLETE, TITLES, spread
from harness.results.folder import integrity, reader
from harness.results.metrics import IMAGES, METRICS, PIXELS, family
from harness.storage.store import Store

PAGE = "leaderboard.html"
READ = (
    *("results.csv", "summary.csv", "failures.csv", "sweep.yaml", "environment.json"),
    *("timings.csv", integrity.MANIFEST),  # by which damage is known
)
SHOWN = (*family(IMAGES), *family(PIXELS))


@dataclass(frozen=True)
class Row:
    """A method on a dataset at a number of shots in one sweep; metrics as (mean, words)."""

    sweep: str
    link: str
    method: str
    dataset: str
    shots: int
    profile: str
    seeds: int
    queries: int
    commit: str
    metrics: dict[str, tuple[float, str]]


def rows(store: Store) -> tuple[list[Row], list[str]]:
    """Every row of every sweep's summary; and, a line each, the sweeps that cannot be read."""
    collected, problems = [], []
    for name in store.folders("results.csv"):
        try:
            with tempfile.TemporaryDirectory() as copy:  # of little: predictions may be far away
                try:
                    for file in READ:
                        with contextlib.suppress(FileNotFoundError):
                            (Path(copy) / file).write_bytes(store.read(f"{name}/{file}"))
                    collected += _rows(name, Path(copy))
                except (OSError, ValueError, KeyError) as error:
                    where = one_line(error).replace(copy, store.path(name))
                    problems.append(f"{name}: {where}")
        except OSError as error:
            problems.append(f"{name}: {one_line(error)}")
    return collected, problems


def _rows(name: str, folder: Path) -> list[Row]:
    sweep = reader.load(folder)
    counts = sweep.results.drop_duplicates(["dataset", "category"])
    counts = counts.assign(n=counts["n_normal"] + counts["n_anomalous"])
    queries = counts.groupby("dataset")["n"].sum()
    profiles = {str(entry.get("label") or entry["use"]): entry for entry in _entries(sweep.config)}
    out = []
    for row in sweep.summary.to_dict("records"):
        metrics = {}
        for metric in SHOWN:
            mean, std = float(row[f"{metric}_mean"]), float(row[f"{metric}_std"])
            if not math.isnan(mean):
                mark = "" if row["complete"] else INCOMPLETE
                copied = (row["method"], row["dataset"], int(row["shots"])) in sweep.copies
                metrics[metric] = (mean, spread(mean, std, copied) + mark)
        if not metrics:
            continue
        out.append(
            Row(
                sweep.name,
                f"{quote(name)}/report.html",
                row["method"],
                row["dataset"],
                int(row["shots"]),
                profile(sweep.config, profiles.get(row["method"], {})),
                int(row["n_seeds"]),
                int(queries[row["dataset"]]),
                str(sweep.environment.get("commit", ""))[:10],
                metrics,
            )
        )
    return out


def _entries(config: dict[str, Any]) -> list[dict[str, Any]]:
    return [e for e in config.get("methods", []) if isinstance(e, dict) and "use" in e]


def profile(config: dict[str, Any], entry: dict[str, Any]) -> str:
    """Profile of a method: "micro" where it or its generator runs on a small model, one that comes
    with the project or in a package, "random" on weights drawn at random, else "full".

    Parameters
    ----------
    config : a sweep's config as a mapping
    entry : of the method in it
    """
    from harness import config as sweeps

    generator = (config.get("generators") or {}).get(entry.get("generator") or "")
    kinds = [("method", entry)] + ([("generator", generator)] if generator else [])
    named: set[str] = set()
    for kind, each in kinds:
        params = each.get("params") or {}
        values = [params.get("encoder"), params.get("base")]
        try:  # what the plug-in makes of them knows the defaults
            plugin = sweeps.build(kind, each["use"], params)
            values += [getattr(plugin, "encoder", None), getattr(plugin, "base", None)]
        except Exception:  # an old sweep's plug-in may be gone: its config has to do
            values.append(None)
        for value in values:
            named |= set(map(str, value.values())) if isinstance(value, dict) else {str(value)}
    if named & set(SMALL):
        return "micro"
    return "random" if any(value.startswith("random:") for value in named) else "full"


def page(rows: list[Row], problems: list[str]) -> str:
    """The page of what ``rows`` found, as HTML that needs no network."""
    from harness.reporting.page.templates import template

    shown = [m for m in METRICS if any(m in row.metrics for row in rows)]
    choices = {
        "dataset": sorted({row.dataset for row in rows}),
        "shots": sorted({row.shots for row in rows}),
        "profile": sorted({row.profile for row in rows}),
        "method": sorted({row.method for row in rows}),
    }
    ordered = sorted(
        rows, key=lambda row: (row.dataset, row.shots, -row.metrics.get(SHOWN[0], (0.0, ""))[0])
    )
    return template("leaderboard.html.j2").render(
        rows=ordered, problems=problems, choices=choices, metrics=shown, titles=TITLES
    )

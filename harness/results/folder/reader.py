"""What a sweep left in its folder, read for its report; and what its figures mean."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import amount
from harness.results import aggregate, intervals, significance
from harness.results.folder import copies, integrity, repetition, seal
from harness.results.folder.accounting import WORK_S
from harness.results.metrics import RECORDS

if TYPE_CHECKING:
    import pandas as pd

_OF_IMAGES = {metric.definition for metric in RECORDS.values() if not metric.pixels}
DEFINITIONS = {
    "Figures": "Percent: a metric per category, averaged over the categories of a dataset within a "
    "seed, then mean ± sample standard deviation (n - 1) over the seeds. A seed that lacks a "
    "category is not in the mean.",
    **{metric.title: metric.definition for metric in RECORDS.values() if not metric.pixels},
    "Pixel metrics": "Over all pixels of a category's queries, normal ones included. Masks are "
    "what is above 0, maps are stretched over the image. Only where there are both.",
    **{m.title: m.definition for m in RECORDS.values() if m.definition not in _OF_IMAGES},
    "Scores": "Ranked as the method gave them: never squashed, clamped or normalised.",
    "Intervals": "95 %, over the seeds and over the queries: the queries are drawn anew, paired "
    "over seeds and methods, those that show one thing together, and the seeds come in by "
    "Student's t. They speak of other supports and other queries of these categories, not of other "
    "categories.",
    "Differences": "On the same support images and queries. p is the chance of such a difference, "
    "were there none, corrected for all pairs of methods of that dataset and shots (Holm); an "
    "interval stands for its pair alone.",
    "Few seeds": "One seed shows no spread, so there is no interval. Three show a difference of "
    "about two and a half deviations between seeds, five one of one and a quarter; correction for "
    "many pairs asks for more. Not told apart does not mean alike.",
    "Ranks": "Datasets count once each. Nemenyi's critical difference of mean ranks, and "
    "Wilcoxon's signed ranks corrected for all pairs (Holm): fewer than six datasets can never "
    "show p < 0.05.",
}


@dataclass(frozen=True)
class SweepFolder:
    """What a sweep left behind; frames are empty where a file is absent."""

    path: Path
    results: pd.DataFrame
    failed: pd.DataFrame
    timings: pd.DataFrame
    costs: pd.DataFrame
    config: dict[str, Any]
    config_text: str
    environment: dict[str, Any]
    notes: list[dict[str, str]]
    audit: repetition.Audit | None = None

    @property
    def name(self) -> str:
        """The sweep's name."""
        return str(self.config.get("name") or self.path.resolve().name)

    @cached_property
    def expected(self) -> pd.DataFrame:
        """The cells there should be, as far as results and failures tell."""
        import pandas as pd

        cells = [self.results[aggregate.CELL], self.failed[aggregate.CELL]]
        return aggregate.grid(pd.concat([c for c in cells if len(c)] or cells[:1]))

    @cached_property
    def summary(self) -> pd.DataFrame:
        """The sweep's own summary, which knows the plan. Made anew where it is absent, and where
        cells failed, as a category that failed for every method leaves no trace in the results.
        """
        path = self.path / "summary.csv"
        if not len(self.failed) and path.is_file():
            summary = aggregate.read_csv(path)
            if set(aggregate.SUMMARY_COLUMNS) <= set(summary.columns):
                return summary  # else it is from before some metric
        return aggregate.summary_frame(self.results, self.expected)

    @cached_property
    def copies(self) -> dict[copies.Group, int]:
        """(method, dataset, shots) whose seeds all gave the same scores: how many seeds."""
        return copies.copies(self.timings)

    @cached_property
    def runs(self) -> dict[str, intervals.Runs]:
        """Image metrics with their queries drawn anew, by metric: what intervals are made of."""
        return intervals.several(self.results, self.path, list(intervals.METRIC), self.expected)

    @cached_property
    def pairs(self) -> pd.DataFrame:
        """Every pair of methods; see ``significance.pairs_frame``."""
        return significance.pairs_frame(self.results, self.runs)

    @cached_property
    def ranks(self) -> significance.Ranks | None:
        """Mean ranks in image AUROC over datasets, None where there are too few."""
        return significance.ranks(self.results, "image_auroc", self.expected)

    @property
    def uses(self) -> dict[str, str]:
        """Label of each method and dataset -> name of its plug-in."""
        entries = [*self.config.get("methods", []), *self.config.get("datasets", [])]
        return {
            str(entry.get("label") or entry["use"]): str(entry["use"])
            for entry in entries
            if isinstance(entry, dict) and "use" in entry
        }

    @cached_property
    def methods(self) -> list[str]:
        """Methods with a result or a failure, in the order of the config, then by name."""
        present = set(self.results["method"]) | set(self.failed["method"])
        order = [name for name in self.uses if name in present]
        return order + sorted(present - set(order))

    @property
    def gaps(self) -> list[str]:
        """What is missing, one line for each row of the summary that lacks something."""
        return [
            f"{row['method']}, {row['dataset']}, "
            f"{aggregate.shots_title(row['shots'])}: {row['missing']}"
            for row in self.summary.to_dict("records")
            if row["missing"]
        ]

    @property
    def counts(self) -> str:
        """The size of the sweep in one line."""
        sizes = {
            "cell": len(self.results),
            "method": len(self.methods),
            "dataset": self.results["dataset"].nunique(),
            "seed": self.results["seed"].nunique(),
        }
        words = [amount(n, word) for word, n in sizes.items()]
        words[0] += f" finished, {len(self.failed)} failed" if len(self.failed) else " finished"
        return ", ".join(words)


def load(folder: Path) -> SweepFolder:
    """Read a sweep's folder, of this format or an older one, whose missing columns are empty.

    Raises
    ------
    FileNotFoundError
        When it is no sweep's folder.
    ValueError
        When a file is damaged, or the folder's format is newer than this code.
    """
    import yaml

    if not (folder / "results.csv").is_file():
        raise FileNotFoundError(f"{folder}: expected a sweep's folder, with results.csv in it")
    integrity.check(folder)
    environment = _json(folder / "environment.json", {})
    written = environment.get("format", 1)
    if not isinstance(written, int) or written > aggregate.FORMAT:
        raise ValueError(
            f"{folder / 'environment.json'}: format: written by a newer version of this project, "
            f"expected at most {aggregate.FORMAT}, got {written}; bring the checkout up to date"
        )
    results = aggregate.read_csv(folder / "results.csv", aggregate.NEEDED, aggregate.RESULT_COLUMNS)
    timings = _optional(
        folder / "timings.csv", ["fit_s", *WORK_S, "encode_s", "images_per_s", "peak_mb"]
    )
    if seal.DIGEST in timings:  # a row without its timing was not written to its end
        results = results.merge(timings[aggregate.CELL], on=aggregate.CELL)
        timings = timings[[name for name in timings if not str(name).endswith(seal.DIGEST)]]
    text = _read(folder / "sweep.yaml")
    try:
        config = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"{folder / 'sweep.yaml'}: {' '.join(str(error).split())}") from error
    return SweepFolder(
        path=folder,
        results=results,
        failed=_optional(folder / "failures.csv", ["task", "error", "traceback"]),
        timings=timings,
        costs=_optional(folder / "costs.csv", ["total_ms"], aggregate.GROUP),
        config=config if isinstance(config, dict) else {},
        config_text=text,
        environment=environment,
        notes=[
            {"method": str(note.get("method", "")), "note": str(note.get("note", ""))}
            for note in _json(folder / "notes.json", [])
            if isinstance(note, dict)
        ],
        audit=_audit(folder / repetition.FILE),
    )


def _audit(path: Path) -> repetition.Audit | None:
    try:
        return repetition.read(_read(path))
    except ValueError as error:
        raise ValueError(f"{path}: {error}; to repeat the audit writes it anew") from error


def supports(folder: Path) -> dict[str, list[str]]:
    """By "dataset/category seed s": names of the support images, in the order they were drawn."""
    return {
        f"{dataset}/{category} seed {seed}": drawn
        for dataset, categories in _json(folder / "support.json", {}).items()
        for category, seeds in categories.items()
        for seed, drawn in seeds.items()
    }


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _json(path: Path, default: Any) -> Any:
    text = _read(path)
    try:
        contents = json.loads(text) if text else default
    except ValueError as error:
        raise ValueError(f"{path}: not readable as JSON: {error}") from error
    return contents if isinstance(contents, type(default)) else default


def _optional(path: Path, columns: list[str], key: Sequence[str] = aggregate.CELL) -> pd.DataFrame:
    """A table of what ``key`` names, with these columns at least; empty where there is no file."""
    import pandas as pd

    if not path.is_file():
        return pd.DataFrame(columns=[*key, *columns])
    return aggregate.read_csv(path, key, columns)

"""Queries that show one physical thing are drawn together: against a naive bootstrap of things."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from benchmarks import coverage
from harness.results import intervals
from harness.results.folder.reader import load
from tests.folders import folder_of_a_sweep
from tests.sweeps import Runner, rows, sweep

THINGS = np.repeat([f"thing {i}" for i in range(20)], 5)


def scored(mixed: bool) -> tuple[np.ndarray, np.ndarray]:
    """Labels and scores of five views of each thing, which are alike."""
    rng = np.random.default_rng(0)
    labels = np.arange(100) % 5 == 0 if mixed else np.arange(100) < 40
    return labels, rng.normal(size=20).repeat(5) + 0.3 * rng.normal(size=100) + labels


def naive(labels: np.ndarray, scores: np.ndarray, mixed: bool, draws: int) -> np.ndarray:
    """AUROC and average precision of things drawn with replacement: (draws, 2)."""
    rng = np.random.default_rng(1)
    kinds = [range(20)] if mixed else [range(8), range(8, 20)]
    drawn = []
    for _ in range(draws):
        chosen = np.concatenate([rng.choice(kind, len(kind)) for kind in kinds])
        at = np.concatenate([np.arange(5 * thing, 5 * thing + 5) for thing in chosen])
        seen = labels[at], scores[at]
        drawn.append((roc_auc_score(*seen), average_precision_score(*seen)))
    return np.array(drawn)


@pytest.mark.parametrize("mixed", [False, True], ids=["of one kind", "of both kinds"])
def test_redraws_spread_as_those_of_whole_things(mixed: bool) -> None:
    labels, scores = scored(mixed)
    drawn = intervals.weights(labels, 0, 3000, THINGS)
    assert (drawn.reshape(20, 5, -1) == drawn.reshape(20, 5, -1)[:, :1]).all()
    assert (drawn.sum(axis=0) == 100).all()
    parts = intervals.ranked(labels, scores, drawn)
    expected = naive(labels, scores, mixed, 400).std(axis=0)
    alone = intervals.ranked(labels, scores, intervals.weights(labels, 0, 3000))
    for metric, spread in zip(("image_auroc", "image_auprc"), expected, strict=True):
        together = intervals.METRIC[metric](*parts).std()
        # 400 draws know a deviation to 3.5 %
        assert together == pytest.approx(spread, rel=0.14)
        if not mixed:
            assert together > 1.5 * intervals.METRIC[metric](*alone).std()


def test_an_interval_is_wider_where_a_folder_says_that_queries_are_alike(tmp_path: Path) -> None:
    folder = folder_of_a_sweep(tmp_path, {"good": 2.0, "plain": 0.8}, {"toys": ["x"]})
    before = load(folder).runs["image_auroc"]
    for path in folder.glob("predictions/**/*.csv"):
        with path.open(newline="") as file:
            head, *lines = csv.reader(file)
        # alike by their scores, which are as different as they were
        order = sorted(lines, key=lambda line: (line[1], float(line[-1])))
        for place, line in enumerate(order):
            line.append(f"thing {place // 4}")
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([[*head, "group"], *lines])
    after = load(folder).runs["image_auroc"]
    assert (after.frame["value"] == before.frame["value"]).all()
    for method in ("good", "plain"):
        narrow, wide = (runs.redrawn.std(axis=0) for runs in (before, after))
        assert (wide > 1.3 * narrow).all(), method


def test_a_sweep_writes_what_its_dataset_says(run_sweep: Runner, tmp_path: Path) -> None:
    dataset = {"use": "toys.data:Views", "label": "views"}
    assert run_sweep(sweep(datasets=[dataset])) == 0
    table = tmp_path / "runs/toy/predictions/Near/views/ant"
    groups = {row["query"]: row["group"] for row in rows(table, "k2_s0.csv")}
    assert groups["ant/good/004"] == groups["ant/square/005"] == "thing 2"
    assert len(set(groups.values())) == 5


def test_coverage_where_tiles_taken_for_pictures_fail() -> None:
    """100 intervals that cover 95 % hold the truth at least 88 times, but for 1 in 400 seeds."""
    shares = coverage.coverage(coverage.WORLDS[-2], 5, 100, np.random.default_rng(0))
    assert shares["mean"] >= 0.88
    assert shares["difference"] >= 0.88
    assert shares["tiles apart"] < 0.85

"""Runs that are copies of one another show no spread, and the reason, in every format."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from harness.reporting.page.leaderboard import _rows
from harness.reporting.report import render
from harness.results.aggregate import CELL, csv_text, results_frame
from harness.results.folder import reader
from harness.results.folder.copies import copies

FIGURES = {"zero": (0.7, 0.7, 0.7), "perfect": (1.0, 1.0, 1.0), "each": (0.5, 0.6, 0.7)}
FIGURES |= {"once": (0.58, 0.6, 0.62)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four methods over three seeds: only ``zero`` has the same table of predictions in all."""
    rows = [
        {"method": method, "dataset": "elpv", "category": category, "shots": 2, "seed": seed}
        | {"n_normal": 3, "n_anomalous": 4, "status": "ok", "image_auroc": auroc}
        for method, figures in FIGURES.items()
        for seed, auroc in enumerate(figures)
        for category in ("mono", "poly")
    ]
    timings = [
        {name: row[name] for name in CELL}
        | {"predictions_digest": f"9-{row['category'] if row['method'] == 'zero' else i}"}
        for i, row in enumerate(rows)
    ]
    (tmp_path / "results.csv").write_text(csv_text(results_frame(rows)))
    (tmp_path / "timings.csv").write_text(csv_text(pd.DataFrame(timings)))
    methods = [{"use": "zero"}, {"use": "perfect"}, {"use": "coop", "label": "each"}]
    methods += [{"use": "coop", "label": "once", "training": "once"}]
    config = {"name": "s", "methods": methods, "datasets": [{"use": "elpv"}]}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "environment.json").write_text(json.dumps({}))
    return tmp_path


def test_only_what_is_the_same_in_all_seeds_is_copied(folder: Path) -> None:
    assert reader.load(folder).copies == {("zero", "elpv", 2): 3}
    path = folder / "timings.csv"
    one = path.read_text()
    for row in ("zero,elpv,mono,2,1,9-mono", "zero,elpv,mono,2,1,"):
        path.write_text(one.replace("zero,elpv,mono,2,1,9-mono", row.replace("9-mono", "9-other")))
        assert reader.load(folder).copies == {}, "another table, or none that is known"
    timings = pd.read_csv(path)
    assert copies(timings.drop(columns="predictions_digest")) == {}
    assert copies(timings[timings["seed"] == 0]) == {}, "one seed copies nothing"


@pytest.mark.parametrize("format", ["text", "markdown", "latex", "html"])
def test_every_format_leaves_the_spread_out_and_says_why(folder: Path, format: str) -> None:
    text = render(folder, format)
    plain = " ".join(text.split())
    assert "copies of one run" in plain
    assert "the same in all 3 seeds" in plain
    if format == "latex":
        assert r"70.0}{\scriptsize\,$\pm$\,--}" in text
        assert r"100.0}{\scriptsize\,$\pm$\,0.0}" in text
    else:
        assert "70.0 ± –" in text
        assert "70.0 ± 0.0" not in text
        assert "100.0 ± 0.0" in text
    # sample deviations: 10 points over both, 2 over supports, sqrt(100 - 4) left
    assert "spreads by 10.0 over supports and trainings" in plain
    assert f"by 2.0 over supports alone; {10 * math.sqrt(0.96):.1f} are left" in plain


def test_csv_and_leaderboard(folder: Path) -> None:
    frame = reader.load(folder).summary.set_index("method")
    assert frame.loc["zero", "image_auroc_std"] == 0.0
    np.testing.assert_allclose(frame.loc["each", "image_auroc_std"], 0.1)
    shown = {row.method: row.metrics["image_auroc"][1] for row in _rows("s", folder)}
    assert shown == {
        "zero": "70.0 ± –",
        "perfect": "100.0 ± 0.0",
        "each": "60.0 ± 10.0",
        "once": "60.0 ± 2.0",
    }

"""Sweeps as the engine leaves them on disk, with scores drawn at random: no pixels, quick."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from sklearn.metrics import average_precision_score, roc_auc_score

from harness.results.aggregate import CELL, csv_text, results_frame, summary_frame

QUERIES = 40


def folder_of_a_sweep(
    folder: Path,
    skills: Mapping[str, float],
    datasets: Mapping[str, Sequence[str]] | None = None,
    *,
    shots: Sequence[int] = (2,),
    seeds: int = 3,
    environment: Mapping[str, Any] | None = None,
    methods: Sequence[Mapping[str, Any]] | None = None,
    failing: Sequence[tuple[str, str, str, int, int]] = (),
) -> Path:
    """Write one; a method's skill is how far apart it draws the scores of the two kinds.

    The same method of the same skill draws the same scores in every folder.
    """
    datasets = datasets or {"toys": ["x", "y"]}
    rows, timings, failed = [], [], []
    for method, (dataset, categories), k, s in product(
        skills, datasets.items(), shots, range(seeds)
    ):
        for category in categories:
            cell = (method, dataset, category, k, s)
            key = dict(zip(CELL, cell, strict=True))
            if cell in failing:
                failed.append(key | {"task": "predict", "error": "RuntimeError: no", "key": "k"})
                continue
            seed = [sum(map(ord, word)) for word in (method, dataset, category)]
            rng = np.random.default_rng([*seed, k, s])
            labels = np.arange(QUERIES) % 3 == 0
            scores = rng.normal(size=QUERIES) + skills[method] * (1 + k / 8) * labels
            path = folder / "predictions" / method / dataset / category / f"k{k}_s{s}.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            defects = np.where(labels, "scratch", "good")
            names = [f"{defect}/{i:03d}.png" for i, defect in enumerate(defects)]
            table = {"query": names, "label": labels.astype(int), "defect": defects}
            path.write_text(csv_text(pd.DataFrame(table | {"score": scores})))
            sizes = {"n_normal": int((~labels).sum()), "n_anomalous": int(labels.sum())}
            values = {
                "image_auroc": roc_auc_score(labels, scores),
                "image_auprc": average_precision_score(labels, scores),
            }
            rows.append(key | sizes | values | {"status": "ok"})
            timings.append(key | {"key": f"{skills[method]}", "fit_s": 0.1, "predict_s": 0.5})
    results = results_frame(rows)
    (folder / "results.csv").write_text(csv_text(results))
    (folder / "summary.csv").write_text(csv_text(summary_frame(results)))
    (folder / "timings.csv").write_text(csv_text(pd.DataFrame(timings)))
    if failed:
        (folder / "failures.csv").write_text(csv_text(pd.DataFrame(failed)))
    config = {
        "name": folder.name,
        "datasets": [{"use": name} for name in datasets],
        "methods": list(methods or [{"use": name} for name in skills]),
        "shots": list(shots),
        "seeds": list(range(seeds)),
    }
    (folder / "sweep.yaml").write_text(yaml.safe_dump(config))
    facts = {"format": 2, "commit": "0123abcd" * 5, "versions": {"numpy": np.__version__}}
    (folder / "environment.json").write_text(json.dumps(facts | dict(environment or {})))
    support = {
        d: {c: {str(s): [f"{s}.png"] for s in range(seeds)} for c in names}
        for d, names in datasets.items()
    }
    (folder / "support.json").write_text(json.dumps(support))
    return folder

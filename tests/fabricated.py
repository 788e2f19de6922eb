"""A made-up sweep's folder, as the engine leaves one, with scores drawn at random."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from harness.results import metrics
from harness.results.aggregate import CELL, csv_text, results_frame
from harness.results.folder.accounting import PARTS, costs_text

SIDE = 48
SKILL = {"padim": 0.6, "patchcore": 1.4, "o2n": 2.0}  # of the made-up methods


def texture(rng: np.random.Generator, anomalous: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A picture, the mask of its blotch, and a blurry map of where the blotch is."""
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    shade = 0.5 + 0.2 * np.sin(9 * x + rng.random()) + 0.15 * np.cos(7 * y + rng.random())
    away = np.hypot(x - rng.uniform(0.3, 0.7), y - rng.uniform(0.3, 0.7))
    mask = (away < 0.13) & anomalous
    picture = np.stack([shade, 0.9 * shade, 0.7 * shade], -1)
    picture[mask] *= 0.4
    noisy = picture + rng.normal(0, 0.03, picture.shape)
    heat = np.exp(-((away / 0.2) ** 2)) * anomalous + rng.random((SIDE, SIDE)) * 0.3
    return (np.clip(noisy, 0, 1) * 255).astype(np.uint8), mask, heat.astype(np.float32)


def shown_queries(
    rng: np.random.Generator, labels: np.ndarray, scores: np.ndarray
) -> dict[str, np.ndarray]:
    """A gallery: the four most and the four least anomalous queries."""
    index = np.argsort(-scores)[[0, 1, 2, 3, -4, -3, -2, -1]]
    art = [texture(rng, bool(labels[i])) for i in index]
    image, mask, heat = (np.stack(part) for part in zip(*art, strict=True))
    return {"index": index, "image": image, "mask": mask, "map": heat}


def fabricate(
    folder: Path,
    datasets: dict[str, list[str]],
    methods: dict[str, float] = SKILL,
    shots: tuple[int, ...] = (2, 4),
    seeds: int = 2,
    queries: int = 60,
    failing: tuple[str, str, str, int, int] | None = None,
) -> Path:
    """Write a sweep's folder as the engine does, with scores drawn at random."""
    rows, timings, failed = [], [], []
    grid = product(methods, datasets, shots, range(seeds))
    cells = [(m, d, category, k, s) for m, d, k, s in grid for category in datasets[d]]
    for cell in cells:
        method, dataset, category, count, seed = cell
        key = dict(zip(CELL, cell, strict=True))
        if cell == failing:
            trace = 'File "x.py", line 1\n<script>alert(1)</script>'
            why = {"task": "predict", "error": "RuntimeError: a <b>matrix</b>,\nsingular"}
            failed.append(key | why | {"traceback": trace})
            continue
        rng = np.random.default_rng([len(rows), count, seed])
        labels = np.arange(queries) % 3 != 0
        skill = methods[method] * (1 + 0.1 * count) / 2
        scores = (rng.normal(size=queries) + skill * labels).astype(np.float32)
        gallery = shown_queries(rng, labels, scores)
        masks = [None] * queries
        maps = np.zeros((queries, SIDE, SIDE), np.float32)
        for place, mask, heat in zip(*(gallery[n] for n in ("index", "mask", "map")), strict=True):
            masks[place], maps[place] = mask, heat
        values = metrics.evaluate(labels, scores, maps, None if dataset == "elpv" else masks)
        sizes = {"n_normal": int((~labels).sum()), "n_anomalous": int(labels.sum())}
        rows.append(key | sizes | values)
        figures = {"fit_s": 0.4 * count, "predict_s": 1.5, "encode_s": 2.25, "queries": queries}
        timings.append(key | figures | {"images_per_s": 16.0, "peak_mb": 812.5})
        where = f"{method}/{dataset}/{category}/k{count}_s{seed}"
        table = folder / f"predictions/{where}.csv"
        table.parent.mkdir(parents=True, exist_ok=True)
        kinds = np.where(labels, "scratch", "good")
        frame = {"query": [f"{kind}/{i:03d}.png" for i, kind in enumerate(kinds)]}
        frame |= {"label": labels.astype(int), "defect": kinds, "score": scores}
        table.write_text(csv_text(pd.DataFrame(frame)))
        if seed == 0:
            if dataset == "elpv":
                del gallery["mask"]
            if method == "o2n":
                gallery |= {"personalized": gallery["image"][:, ::-1], "part.pool": gallery["map"]}
            archive = folder / f"gallery/{where}.npz"
            archive.parent.mkdir(parents=True, exist_ok=True)
            np.savez(archive, **gallery)
    (folder / "results.csv").write_text(csv_text(results_frame(rows)))
    (folder / "timings.csv").write_text(csv_text(pd.DataFrame(timings)))
    (folder / "costs.csv").write_text(costs_text(costs(rows)))
    if failed:
        (folder / "failures.csv").write_text(csv_text(pd.DataFrame(failed)))
    config = {"name": "toys", "description": "made up", "shots": list(shots)}
    config |= {"datasets": [{"use": d} for d in datasets], "methods": [{"use": m} for m in methods]}
    (folder / "sweep.yaml").write_text(yaml.safe_dump(config))
    environment = {"git": "abc123", "versions": {"numpy": np.__version__}}
    (folder / "environment.json").write_text(json.dumps(environment))
    notes = [{"method": "o2n", "note": "tiny models, not the paper's"}]
    (folder / "notes.json").write_text(json.dumps(notes))
    return folder


def costs(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    """Costs per query that grow with the shots, a tenth of them on a GPU."""
    priced = []
    for method, dataset, shots in sorted({(r["method"], r["dataset"], r["shots"]) for r in rows}):
        parts = {f"{part}_ms": 0.0 for part in PARTS}
        parts |= {"encode_ms": 12.5, "predict_ms": 2.0 * int(str(shots)), "read_ms": 0.5}
        total = sum(parts.values())
        row = {"method": method, "dataset": dataset, "shots": shots, "cells": 2, "queries": 120}
        priced.append({**row, "unknown_tasks": 0, **parts, "total_ms": total})
    return [row | {"total_gpu_ms": row["total_ms"] / 10} for row in priced]

"""Time and memory of the metrics on one thread, beside scikit-learn.

    OMP_NUM_THREADS=1 python benchmarks/metrics.py

Prints the best of five of each: image AUROC and average precision of a million scores, all image
metrics together, AUPRO of 50 maps of 256 x 256, and all pixel metrics of 200 such maps with the
memory they take on top of the maps and masks.
"""

from __future__ import annotations

import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness.results import metrics


def best_of(run: Callable[[], object], times: int = 5) -> float:
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def toy_maps(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, masks with two rectangles in two thirds of them, and maps that see them dimly."""
    rng = np.random.default_rng(0)
    masks = np.zeros((count, 256, 256), bool)
    for mask in masks[: 2 * count // 3]:
        for _ in range(2):
            top, left = rng.integers(0, 200, 2)
            mask[top : top + rng.integers(10, 50), left : left + rng.integers(10, 50)] = True
    maps = rng.random(masks.shape, dtype=np.float32) + np.float32(0.3) * masks
    return masks.any(axis=(1, 2)), masks, maps


def main() -> None:
    rng = np.random.default_rng(0)
    labels = rng.random(1_000_000) < 0.5
    scores = rng.normal(size=labels.size) + labels
    rows = [
        ("AUROC, 1e6 scores", best_of(lambda: metrics.image_auroc(labels, scores))),
        ("  scikit-learn", best_of(lambda: roc_auc_score(labels, scores))),
        ("average precision, 1e6 scores", best_of(lambda: metrics.image_auprc(labels, scores))),
        ("  scikit-learn", best_of(lambda: average_precision_score(labels, scores))),
        ("all image metrics, 1e6 scores", best_of(lambda: metrics.evaluate(labels, scores))),
    ]
    _, masks, maps = toy_maps(50)
    rows.append(("AUPRO, 50 maps of 256 x 256", best_of(lambda: metrics.aupro(masks, maps))))
    anomalous, masks, maps = toy_maps(200)
    run = lambda: metrics.evaluate(anomalous, anomalous, maps, masks)  # noqa: E731
    rows.append(("all pixel metrics, 200 maps", best_of(run, 3)))
    for name, seconds in rows:
        print(f"{name:32s} {seconds:6.3f} s")
    tracemalloc.start()
    run()
    peak = tracemalloc.get_traced_memory()[1] / 2**20
    print(f"{'  its memory, beyond the input':32s} {peak:6.0f} MiB")


if __name__ == "__main__":
    main()

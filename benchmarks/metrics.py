"""Metrics beside scikit-learn and torchmetrics: equal values, and never slower than the faster.

    python -m benchmarks.metrics [--quick]

AUROC, average precision and F1-max of a million scores; AUPRO of 50 and of 600 maps of 256 x 256
against a plain implementation that evaluates the curve at every threshold by sorting; one thread,
processor seconds. torchmetrics, and anomalib's AUPRO, take part where they are installed:
`make bench-peer` measures them in anomalib's environment.
"""

from __future__ import annotations

import importlib.util
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from benchmarks.figures import Figures, figure, interleaved, main, ratio
from harness.results import metrics

MAPS = (50, 600)


def toy_maps(count: int, seed: int = 0) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Labels, masks with two rectangles in two thirds of them, and maps that see them dimly."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((count, 256, 256), bool)
    for mask in masks[: 2 * count // 3]:
        for _ in range(2):
            top, left = rng.integers(0, 200, 2)
            mask[top : top + rng.integers(10, 50), left : left + rng.integers(10, 50)] = True
    maps = rng.random(masks.shape, dtype=np.float32) + np.float32(0.3) * masks
    return np.asarray(masks.any(axis=(1, 2))), masks, maps


def plain_aupro(masks: NDArray[Any], maps: NDArray[Any], limit: float = 0.3) -> float:
    """AUPRO by its definition: one pass over all pixels from the highest score down."""
    components, weights = 0, np.zeros(masks.shape, np.float64)
    for mask, weight in zip(masks, weights, strict=True):
        labels, count = ndimage.label(mask, np.ones((3, 3)))
        sizes = np.bincount(labels.ravel(), minlength=count + 1)
        weight[mask] = 1 / sizes[labels[mask]]
        components += count
    order = np.argsort(-maps.ravel(), kind="stable")
    scores = maps.ravel()[order]
    ends = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)
    overlap = np.cumsum(weights.ravel()[order])[ends] / components
    false = np.cumsum(~masks.ravel()[order])[ends] / (~masks).sum()
    overlap, false = np.append(0, overlap), np.append(0, false)
    inside = false <= limit
    x = np.append(false[inside], limit)
    y = np.append(overlap[inside], np.interp(limit, false, overlap))
    return float(np.trapezoid(y, x) / limit)


def plain_f1(labels: NDArray[Any], scores: NDArray[Any]) -> float:
    """F1-max from scikit-learn's curve."""
    precision, recall, _ = precision_recall_curve(labels, scores)
    total = precision + recall
    return float(np.max(2 * precision * recall / np.where(total > 0, total, 1)))


def others(labels: NDArray[Any], scores: NDArray[Any]) -> dict[str, dict[str, Callable[[], float]]]:
    """Other libraries' versions of each metric of images, by library."""
    truth = torch.from_numpy(labels.astype(np.int64))
    values = torch.from_numpy(scores)
    table: dict[str, dict[str, Callable[[], float]]] = {
        "AUROC": {"scikit-learn": lambda: float(roc_auc_score(labels, scores))},
        "average precision": {
            "scikit-learn": lambda: float(average_precision_score(labels, scores))
        },
        "F1-max": {"scikit-learn": lambda: plain_f1(labels, scores)},
    }
    if importlib.util.find_spec("torchmetrics"):
        from torchmetrics.functional import classification as theirs

        # It squashes scores outside 0..1 by a sigmoid, which makes ties; within, it does not.
        squeezed = (values - values.min()) / (values.max() - values.min())
        table["AUROC"]["torchmetrics"] = lambda: float(theirs.binary_auroc(squeezed, truth))
        table["average precision"]["torchmetrics"] = lambda: float(
            theirs.binary_average_precision(squeezed, truth)
        )
    return table


def overlaps(masks: NDArray[Any], maps: NDArray[Any]) -> dict[str, Callable[[], float]]:
    """Other versions of AUPRO."""
    table: dict[str, Callable[[], float]] = {"plain": lambda: plain_aupro(masks, maps)}
    if importlib.util.find_spec("anomalib"):
        from anomalib.metrics.aupro import _AUPRO

        truth, values = torch.from_numpy(masks).int(), torch.from_numpy(maps)

        def theirs() -> float:
            metric = _AUPRO(fpr_limit=0.3)
            metric.update(values, truth)
            return float(metric.compute())

        table["anomalib"] = theirs
    return table


def measure(quick: bool) -> Figures:
    """Every metric beside the others."""
    torch.set_num_threads(1)
    repeats = 2 if quick else 5
    rng = np.random.default_rng(0)
    labels = rng.random(1_000_000) < 0.5
    scores = rng.normal(size=labels.size) + labels
    table: Figures = {}
    ours: dict[str, Callable[[], float]] = {
        "AUROC": lambda: metrics.image_auroc(labels, scores),
        "average precision": lambda: metrics.image_auprc(labels, scores),
        "F1-max": lambda: metrics.image_f1_max(labels, scores),
    }
    for name, rivals in others(labels, scores).items():
        table |= beside(f"{name} of 1e6 scores", ours[name], rivals, repeats)
    for count in MAPS[:1] if quick else MAPS:
        _, masks, maps = toy_maps(count)
        # few repeats of the large one: each other version takes a minute there
        times = 1 if count > 100 else repeats
        rivals = overlaps(masks, maps)
        run = lambda masks=masks, maps=maps: metrics.aupro(masks, maps)  # noqa: E731
        table |= beside(f"AUPRO of {count} maps of 256 x 256", run, rivals, times)
    anomalous, masks, maps = toy_maps(200)

    def every() -> object:
        return metrics.evaluate(anomalous, anomalous, maps, masks)

    table["all pixel metrics of 200 maps"] = figure(interleaved({"": every}, repeats)[""], "s")
    tracemalloc.start()
    every()
    peak = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    table["all pixel metrics of 200 maps: memory beyond the input"] = figure(peak, "MB")
    return table


def beside(
    name: str, ours: Callable[[], float], rivals: dict[str, Callable[[], float]], repeats: int
) -> Figures:
    """Seconds of ours, and of others by ours, with how far apart the values are."""
    seconds = interleaved({"harness": ours, **rivals}, repeats, warm=repeats > 1)
    value = ours()
    table = {name: figure(seconds["harness"], "s")}
    for rival, run in rivals.items():
        note = f"values differ by {abs(run() - value):.1g}"
        table[f"{name}, {rival} / harness"] = ratio(
            seconds[rival], seconds["harness"], note, "higher"
        )
    return table


if __name__ == "__main__":
    main(__doc__, measure)

"""From predictions to a cell's row, its per-query table and its gallery of telling queries."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.data import images as rules
from harness.interface import Arrays, Image, Prediction, Sample
from harness.results import metrics
from harness.storage.store import Store

SIDE = 256  # longest side of a gallery picture, pixels


def predicted(given: Prediction, gallery: int, masks: bool) -> Arrays:
    """What is stored of a shard: scores, parts, and maps as far as anything will read them.

    All maps are kept where the category has masks, otherwise those of the ``gallery`` most and
    least anomalous queries of the shard.
    """
    arrays: Arrays = {"scores": given.scores}
    arrays |= {f"part.{name}": values for name, values in given.parts.items()}
    keep = extremes(given.scores, gallery)
    arrays["gallery.index"] = keep
    if given.maps is not None:
        if masks:
            arrays["maps"] = given.maps
        else:
            arrays["gallery.map"] = given.maps[keep]
    arrays |= {f"gallery.part.{name}": m[keep] for name, m in given.part_maps.items()}
    return arrays


def extremes(scores: NDArray[np.float32], n: int) -> NDArray[np.int64]:
    """Indices of the ``n`` highest scores, highest first, then of the ``n`` lowest, lowest last.

    Ties go by position; a query is listed once; scores that are not finite are left out.
    """
    order = np.argsort(-scores, kind="stable")
    order = order[np.isfinite(scores[order])]
    if len(order) <= 2 * n:
        return order
    return np.concatenate([order[:n], order[len(order) - n :]])


def evaluate(
    parts: Sequence[Arrays],
    samples: Sequence[Sample],
    images: Sequence[Image],
    mask_of: Callable[[Sample], NDArray[np.bool_] | None],
    size: int,
    gallery: int,
) -> tuple[Arrays, dict[str, Any]]:
    """Metrics of a cell and what the report shows of it.

    Parameters
    ----------
    parts : shards as ``predicted`` left them, in the order of ``samples``
    samples, images : N queries
    mask_of : defect mask of a sample
    size : height and width at which pixel metrics are computed; masks are made boolean at their own
        size, then resized nearest, maps bilinear

    Returns
    -------
    arrays, meta : scores, parts and gallery; ``row`` of metrics and the queries' names and labels
    """
    scores = np.concatenate([p["scores"] for p in parts])
    labels = np.array([s.label for s in samples])
    names = [n for n in parts[0] if n.startswith("part.")]
    arrays: Arrays = {"scores": scores}
    arrays |= {name: np.concatenate([p[name] for p in parts]) for name in names}
    maps = masks = None
    if all("maps" in p for p in parts):
        stacked = [rules.resize_maps(p["maps"], (size, size)) for p in parts]
        maps = np.concatenate(stacked)
        found = [mask_of(s) for s in samples]
        masks = [None if m is None else rules.resize_mask(m, (size, size)) for m in found]
        if all(m is None for m in masks):
            masks = None
    row = metrics.evaluate(labels, scores, maps, masks)
    arrays |= _gallery(parts, scores, images, mask_of, samples, gallery)
    anomalous = int(labels.sum())
    meta = {
        "row": {"n_normal": len(labels) - anomalous, "n_anomalous": anomalous, **row},
        "names": [s.name for s in samples],
        "labels": labels.tolist(),
        "defects": [s.defect for s in samples],
    }
    return arrays, meta


def _gallery(
    parts: Sequence[Arrays],
    scores: NDArray[np.float32],
    images: Sequence[Image],
    mask_of: Callable[[Sample], NDArray[np.bool_] | None],
    samples: Sequence[Sample],
    n: int,
) -> Arrays:
    """The most and least anomalous queries: pictures, maps, masks, all of one size."""
    chosen = extremes(scores, n)
    if not len(chosen):
        return {}
    first = images[int(chosen[0])].pixels
    shrink = min(1.0, SIDE / max(first.shape[:2]))
    size = (max(1, round(first.shape[0] * shrink)), max(1, round(first.shape[1] * shrink)))
    out: Arrays = {"gallery.index": chosen}
    pictures = [rules.resize(images[int(i)].pixels, size) for i in chosen]
    out["gallery.image"] = np.stack(pictures)
    offsets = np.cumsum([0, *(len(p["scores"]) for p in parts)])
    rows = []  # of each chosen query: its shard and its place among what the shard kept
    for i in chosen:
        shard = int(np.searchsorted(offsets, i, side="right")) - 1
        kept = np.flatnonzero(parts[shard]["gallery.index"] == i - offsets[shard])
        rows.append((shard, int(i - offsets[shard]), int(kept[0])))
    for name in [k for k in parts[0] if k.startswith("gallery.part.")]:
        kept_maps = np.stack([parts[s][name][k] for s, _, k in rows])
        out[name] = rules.resize_maps(kept_maps, size)
    if "maps" in parts[0]:
        out["gallery.map"] = rules.resize_maps(
            np.stack([parts[s]["maps"][j] for s, j, _ in rows]), size
        )
    elif "gallery.map" in parts[0]:
        kept_maps = np.stack([parts[s]["gallery.map"][k] for s, _, k in rows])
        out["gallery.map"] = rules.resize_maps(kept_maps, size)
    if "gallery.personalized" in parts[0]:
        made = [parts[s]["gallery.personalized"][k] for s, _, k in rows]
        out["gallery.personalized"] = np.stack([rules.resize(p, size) for p in made])
    masks = [mask_of(samples[int(i)]) for i in chosen]
    if any(m is not None for m in masks):
        empty = np.zeros(size, dtype=bool)
        resized = [empty if m is None else rules.resize_mask(m, size) for m in masks]
        out["gallery.mask"] = np.stack(resized)
    return out


def publish(store: Store, cell: str, arrays: Mapping[str, Any], meta: Mapping[str, Any]) -> None:
    """Write a cell's per-query table and gallery into a sweep's folder.

    Parameters
    ----------
    cell : "<sweep>/{}/<method>/<dataset>/<category>/k<shots>_s<seed>", {} standing for the folder
    """
    names = sorted(n for n in arrays if n.startswith("part."))
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["query", "label", "defect", "score", *names])
    columns = [arrays["scores"], *(arrays[n] for n in names)]
    about = zip(meta["names"], meta["labels"], meta["defects"], strict=True)
    for i, (name, label, defect) in enumerate(about):
        writer.writerow([name, label, defect, *(_shortest(c[i]) for c in columns)])
    store.write(cell.format("predictions") + ".csv", table.getvalue().encode())
    gallery = {n.removeprefix("gallery."): a for n, a in arrays.items() if n.startswith("gallery.")}
    if gallery:
        packed = io.BytesIO()
        np.savez(packed, **gallery)
        store.write(cell.format("gallery") + ".npz", packed.getvalue())


def _shortest(value: np.float32) -> str:
    """The shortest text that reads back as the same float32: "nan" and "inf" are said as such."""
    return repr(float(str(value)))

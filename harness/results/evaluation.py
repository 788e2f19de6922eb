"""From predictions to a cell's row, and what the report shows of its queries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.data import images as rules
from harness.data import shortcuts
from harness.interface import Arrays, Image, Prediction, Sample
from harness.results import metrics

SIDE = 256  # longest side of a gallery picture, pixels
SMALL = 64  # height and width of the maps that are kept to look at
THUMB = 128  # longest side of a personalized image that is kept to look at
SUPPORTS = 8  # most support images in a gallery
LEVELS = 100  # most queries of a kind (mistaken or right, normal or anomalous) with a coarse map


def predicted(
    prediction: Prediction, personalized: NDArray[np.uint8] | None, gallery: int, masks: bool
) -> Arrays:
    """What is stored of a shard: scores, parts, and maps as far as anything will read them.

    All maps are kept where the category has masks. Which queries will be worth looking at is not
    known without their labels: of all of them there is something small, unless ``gallery`` is 0.
    """
    arrays: Arrays = {"scores": prediction.scores}
    arrays |= {f"part.{name}": values for name, values in prediction.parts.items()}
    if prediction.maps is not None and masks:
        arrays["maps"] = prediction.maps
    if gallery:
        if prediction.maps is not None:
            arrays["small.map"] = rules.resize_maps(prediction.maps, (SMALL, SMALL))
        for name, maps in prediction.part_maps.items():
            arrays[f"small.part.{name}"] = rules.resize_maps(maps, (SMALL, SMALL))
        if personalized is not None:
            size = _within(personalized.shape[1:3], THUMB)
            arrays["small.personalized"] = np.stack([rules.resize(p, size) for p in personalized])
    return arrays


def telling(
    scores: NDArray[np.float32], labels: NDArray[np.int64], n: int
) -> list[NDArray[np.int64]]:
    """Indices of the queries worth looking at, in four lists of at most ``n``, most telling first.

    Mistakes: normal ones with the highest scores, anomalous ones with the lowest. Successes:
    anomalous ones with the highest, normal ones with the lowest. A query is in one list; ties go by
    position; scores that are not finite are left out.
    """
    order = np.argsort(-scores, kind="stable")
    order = order[np.isfinite(scores[order])]
    normal, anomalous = order[labels[order] == 0], order[labels[order] == 1]
    lists = []
    for falling, rising in ((normal, anomalous), (anomalous, normal)):
        # Of few there is half for each, so that none is a mistake and a success.
        lists.append(falling[: min(n, -(-len(falling) // 2))])
        lists.append(rising[::-1][: min(n, len(rising) // 2)])
    return lists


def evaluate(
    parts: Sequence[Arrays],
    samples: Sequence[Sample],
    images: Sequence[Image],
    mask_of: Callable[[Sample], NDArray[np.bool_] | None],
    size: int,
    gallery: int,
    support: Sequence[Image] = (),
    statistics: Sequence[shortcuts.Values] = (),
) -> tuple[Arrays, dict[str, Any]]:
    """Metrics of a cell and what the report shows of it.

    Parameters
    ----------
    parts : shards as ``predicted`` left them, in the order of ``samples``
    samples, images : N queries
    mask_of : defect mask of a sample
    size : height and width at which pixel metrics are computed; masks are made boolean at their own
        size, then resized nearest, maps bilinear
    statistics : of each query, trivial ones: see ``harness.data.shortcuts``

    Returns
    -------
    arrays, meta : scores, parts and gallery; ``row`` of metrics and the queries' names and labels,
        and of what physical thing each is
    """
    scores = np.concatenate([p["scores"] for p in parts])
    labels = np.array([s.label for s in samples])
    names = [n for n in parts[0] if n.startswith("part.")]
    arrays: Arrays = {"scores": scores}
    arrays |= {name: np.concatenate([p[name] for p in parts]) for name in names}
    maps = masks = None
    lost: int | None = None
    if all("maps" in p for p in parts):
        stacked = [rules.resize_maps(p["maps"], (size, size)) for p in parts]
        maps = np.concatenate(stacked)
        originals = [mask_of(s) for s in samples]
        masks = [None if m is None else rules.resize_mask(m, (size, size)) for m in originals]
        if all(m is None for m in masks):
            masks = None
        else:
            regions = [vanished(m, (size, size)) for m in originals if m is not None]
            lost, all_regions = (sum(counts) for counts in zip(*regions, strict=True))
    elif any(s.mask is not None for s in samples):
        # what they mark is not looked at without maps, only that maps are what is missing
        masks = [None if s.mask is None else np.ones((1, 1), np.bool_) for s in samples]
    row = metrics.evaluate(labels, scores, maps, masks)
    if lost:
        reason = f"{lost} of {all_regions} defect regions vanish at {size} x {size} pixels"
        row["status"] = reason if row["status"] == "ok" else f"{row['status']}; {reason}"
    row["n_vanished"] = lost
    name, strength = "", None
    if statistics:
        name, strength = shortcuts.strongest(labels, shortcuts.table(statistics))
    row |= {"trivial": name, "trivial_auroc": strength}
    arrays |= _gallery(parts, scores, labels, images, mask_of, samples, gallery, support)
    anomalous = int(labels.sum())
    meta = {
        "row": {"n_normal": len(labels) - anomalous, "n_anomalous": anomalous, **row},
        "names": [s.name for s in samples],
        "labels": labels.tolist(),
        "defects": [s.defect for s in samples],
        "groups": [s.group or (s.image if s.box else "") for s in samples],
    }
    return arrays, meta


def vanished(mask: NDArray[np.bool_], size: tuple[int, int]) -> tuple[int, int]:
    """How many 8-connected regions of a mask have no pixel left at ``size``, and how many it has.

    Parameters
    ----------
    mask : bool ndarray of shape (h, w)
    size : (height, width), to which it is resized by ``resize_mask``
    """
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    if not rows.size:
        return 0, 0
    from scipy.ndimage import label

    # Only the part that is marked: most masks are nearly empty.
    top, left = rows[0], columns[0]
    marked = mask[top : rows[-1] + 1, left : columns[-1] + 1]
    regions, count = label(marked, structure=np.ones((3, 3), np.bool_))
    whole = np.zeros(mask.shape, regions.dtype)
    whole[top : rows[-1] + 1, left : columns[-1] + 1] = regions
    kept = np.bincount(rules.resize_mask(whole, size).ravel(), minlength=count + 1)
    return int(np.count_nonzero(kept[1:] == 0)), int(count)


def _gallery(
    parts: Sequence[Arrays],
    scores: NDArray[np.float32],
    labels: NDArray[np.int64],
    images: Sequence[Image],
    mask_of: Callable[[Sample], NDArray[np.bool_] | None],
    samples: Sequence[Sample],
    n: int,
    support: Sequence[Image],
) -> Arrays:
    """Mistakes and successes: pictures, masks, maps, personalized images; the support beside them;
    and a coarse map of every query that another method may want to be compared on.
    """
    chosen = np.concatenate(telling(scores, labels, -(-n // 2)))
    if not len(chosen):
        return {}
    size = _within(images[int(chosen[0])].pixels.shape[:2], SIDE)
    out: Arrays = {"gallery.index": chosen}
    pictures = [rules.resize(images[int(i)].pixels, size) for i in chosen]
    out["gallery.image"] = np.stack(pictures)
    if support:
        shown = [rules.resize(image.pixels, size) for image in support[:SUPPORTS]]
        out["gallery.support"] = np.stack(shown)
    for name in [k for k in parts[0] if k.startswith("small.")]:
        kept = np.concatenate([p[name] for p in parts])
        out[name.replace("small.", "gallery.")] = kept[chosen]
        if name == "small.map":
            out |= _coarse(kept, np.concatenate(telling(scores, labels, LEVELS)))
    masks = [mask_of(samples[int(i)]) for i in chosen]
    if any(m is not None for m in masks):
        empty = np.zeros(size, dtype=bool)
        resized = [empty if m is None else rules.resize_mask(m, size) for m in masks]
        out["gallery.mask"] = np.stack(resized)
    return out


def _coarse(maps: NDArray[np.float32], index: NDArray[np.int64]) -> Arrays:
    """Maps in 256 levels from the bulk to the top of all, with the values of the two ends."""
    finite = maps[np.isfinite(maps)]
    low, high = np.percentile(finite, [2, 99.8]) if finite.size else (0.0, 1.0)
    scaled = (np.nan_to_num(maps[index], nan=low) - low) / (high - low if high > low else 1.0)
    levels = (255 * np.clip(scaled, 0, 1)).round().astype(np.uint8)
    limits = np.array([low, high], np.float64)
    return {"gallery.all.index": index, "gallery.all.map": levels, "gallery.limits": limits}


def _within(shape: Sequence[int], side: int) -> tuple[int, int]:
    """Height and width shrunk to at most ``side``."""
    shrink = min(1.0, side / max(shape))
    return max(1, round(shape[0] * shrink)), max(1, round(shape[1] * shrink))

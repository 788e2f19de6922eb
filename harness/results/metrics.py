"""How well scores and maps tell anomalous from normal: exact, on raw scores, numpy in, float out.

Definitions, anomalous being the positive class and a higher score more anomalous:

* AUROC: share of (anomalous, normal) pairs ranked the right way round, ties counted half.
* AUPRC: average precision, the sum over thresholds of the rise in recall times the precision there.
  Not the trapezoid under the precision-recall curve, which interpolates where nothing can be had.
* F1-max: the highest F1 over all thresholds. It picks its threshold by the labels: a bound.
* Pixel AUROC, AP, F1-max: the same over all pixels of all images of a category, normal ones too.
* AUPRO (Bergmann et al., IJCV 2021): the overlap of each 8-connected component of the masks,
  averaged over the components, against the false positive rate over all normal pixels, integrated
  up to a limit with linear interpolation exactly there, and divided by the limit.

Scores are only ranked, in the precision they come in: never squashed, clamped or normalised. What
is not defined (one class only, no masks, constant maps for AUPRO, scores that are not finite)
raises ``Undefined``; nothing becomes 0.5 or 0, and a score that is not finite is never ranked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

FPR_LIMIT = 0.3  # of AUPRO, as in the MVTec AD papers


class Undefined(ValueError):
    """The metric has no value for these scores; the message is the reason, on one line."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """Where each of P anomalous scores stands among all scores, from the lowest of them up.

    Every metric here is a function of these counts: normal scores matter only through how many of
    them lie above an anomalous one.
    """

    above: NDArray[np.int64]  # (P,) normal scores strictly above it
    reach: NDArray[np.int64]  # (P,) normal scores at or above it
    recalled: NDArray[np.int64]  # (P,) anomalous scores at or above it, itself included
    order: NDArray[np.int64]  # (P,) its place among the anomalous scores as they came
    normals: int
    #: of pixels: (N, H, W) masks, whose anomalous pixels are those ranked; of images: None
    marked: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class Metric:
    """A figure of every cell. It is a column of the results, and a mean and more of the summary."""

    name: str  # its column; "image_" or "pixel_" and what it is
    title: str  # in tables
    of: Callable[[Ranking], float]  # raises Undefined where it has no value
    definition: str  # for readers of a report
    family: str | None = None  # under which it is shown; None: in files only
    pixels: bool = False  # over pixels: needs maps and masks
    higher_is_better: bool = True
    prevalence: bool = False  # moves with the share of anomalous among what is ranked

    def gain(self, difference: float) -> float:
        """A difference of two values as what is won by it: above 0 where the first is better."""
        return difference if self.higher_is_better else -difference


def image_auroc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Area under the ROC curve, 0..1, ties counted half.

    Parameters
    ----------
    labels : array of shape (N,), 0 normal, 1 anomalous
    scores : array of shape (N,), any finite range

    Raises
    ------
    Undefined
        When there is one class only, or a score is not finite.
    ValueError
        When shapes or labels are wrong.
    """
    return _auroc(_rank_images(labels, scores))


def image_auprc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Average precision, 0..1; a constant score gives the prevalence. See ``image_auroc``."""
    return _average_precision(_rank_images(labels, scores))


def image_f1_max(labels: ArrayLike, scores: ArrayLike) -> float:
    """The highest F1 over all thresholds, 0..1. See ``image_auroc``."""
    return _f1_max(_rank_images(labels, scores))


def pixel_auroc(masks: ArrayLike, maps: ArrayLike) -> float:
    """Area under the ROC curve over all pixels, 0..1.

    Parameters
    ----------
    masks : array of shape (N, H, W), above 0 where anomalous; all 0 for a normal image
    maps : array of shape (N, H, W), any finite range

    Raises
    ------
    Undefined
        When all pixels are of one class, or a value is not finite.
    ValueError
        When shapes are wrong.
    """
    return _auroc(_rank_pixels(*_pixels(masks, maps)))


def pixel_ap(masks: ArrayLike, maps: ArrayLike) -> float:
    """Average precision over all pixels, 0..1. See ``pixel_auroc``."""
    return _average_precision(_rank_pixels(*_pixels(masks, maps)))


def pixel_f1_max(masks: ArrayLike, maps: ArrayLike) -> float:
    """The highest F1 over all thresholds and pixels, 0..1. See ``pixel_auroc``."""
    return _f1_max(_rank_pixels(*_pixels(masks, maps)))


def aupro(masks: ArrayLike, maps: ArrayLike, limit: float = FPR_LIMIT) -> float:
    """Normalised area under the per-region overlap curve, 0..1, exact for any scores and ties.

    Parameters
    ----------
    masks : array of shape (N, H, W), above 0 where anomalous; all 0 for a normal image
    maps : array of shape (N, H, W), any finite range
    limit : float in (0, 1]
        False positive rate up to which the curve is integrated.

    Raises
    ------
    Undefined
        When all pixels are of one class, the maps are constant, or a value is not finite.
    ValueError
        When shapes or the limit are wrong.
    """
    marked, values = _pixels(masks, maps)
    return _aupro(_rank_pixels(marked, values), limit)


def evaluate(
    labels: ArrayLike,
    scores: ArrayLike,
    maps: ArrayLike | None = None,
    masks: Sequence[ArrayLike | None] | NDArray[np.bool_] | None = None,
) -> dict[str, float | str | None]:
    """Every metric of one cell, ``None`` where undefined, with the reasons in ``status``.

    Parameters
    ----------
    labels, scores : arrays of shape (N,)
    maps : array of shape (N, H, W), or None
    masks : N masks of shape (H, W), or None
        A single mask may be None. A normal image without a mask has no anomalous pixel. Of an
        anomalous image without one it is unknown which pixels are anomalous: where other images of
        the category have masks, it is left out of the pixel metrics, and ``status`` says how many.

    Returns
    -------
    dict
        The keys of ``METRICS``, and ``status``: "ok", or the reasons on one line, parted by "; ".

    Raises
    ------
    ValueError
        When shapes or labels are wrong.
    """
    anomalous = _labels(labels)
    values: dict[str, float | str | None] = dict.fromkeys(METRICS)
    reasons: list[str] = []

    def put(ranking: Ranking, pixels: bool) -> None:
        for name, metric in RECORDS.items():
            if metric.pixels == pixels:
                try:
                    values[name] = metric.of(ranking)
                except Undefined as reason:
                    reasons.append(f"{name}: {reason}")

    # Scores are sorted once, and pixels once, for all metrics of each.
    try:
        put(_rank_images(anomalous, scores), pixels=False)
    except Undefined as reason:
        reasons.append(f"image metrics: {reason}")
    try:
        marked, pixels, left_out = _known_pixels(anomalous, maps, masks)
        put(_rank_pixels(marked, pixels), pixels=True)
    except Undefined as reason:
        reasons.append(f"pixel metrics: {reason}")
    else:
        if left_out:
            of = f"{left_out} of {int(anomalous.sum())} anomalous images"
            reasons.append(f"pixel metrics leave out {of}: no mask")
    values["status"] = "; ".join(reasons) or "ok"
    return values


def _labels(labels: ArrayLike) -> NDArray[np.bool_]:
    array = np.asarray(labels)
    anomalous: NDArray[np.bool_] = array == 1
    if array.ndim != 1 or not (anomalous | (array == 0)).all():
        raise ValueError(f"labels must be a vector of 0 and 1, got {array.dtype} {array.shape}")
    return anomalous


def _real(array: NDArray[np.generic], what: str) -> NDArray[np.generic]:
    """``array``, if it can be ranked: not empty, numbers, all finite."""
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{what} must be real numbers, got {array.dtype}")
    if array.size == 0:
        raise Undefined(f"no {what}")
    finite = np.isfinite(array)
    if not finite.all():
        count = array.size - np.count_nonzero(finite)
        raise Undefined(f"{count} of {array.size} {what} not finite")
    return array


def _rank_images(labels: ArrayLike, scores: ArrayLike) -> Ranking:
    anomalous, ranked = _labels(labels), np.asarray(scores)
    if ranked.shape != anomalous.shape:
        raise ValueError(f"got {anomalous.size} labels and scores of shape {ranked.shape}")
    ranked = _real(ranked, "scores")
    if anomalous.all() or not anomalous.any():
        raise Undefined(f"only {'anomalous' if anomalous[0] else 'normal'} images")
    return _rank(ranked[anomalous], ranked[~anomalous])


def _pixels(masks: ArrayLike, maps: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.generic]]:
    """Masks and maps as (N, H, W); a single pair may come as (H, W)."""
    marked, values = np.asarray(masks) > 0, np.asarray(maps)
    if marked.shape != values.shape or values.ndim not in (2, 3):
        raise ValueError(
            f"masks and maps must have the same shape (N, H, W), got {marked.shape}, {values.shape}"
        )
    shape = (-1, *values.shape[-2:])
    return marked.reshape(shape), values.reshape(shape)


def _known_pixels(
    anomalous: NDArray[np.bool_],
    maps: ArrayLike | None,
    masks: Sequence[ArrayLike | None] | NDArray[np.bool_] | None,
) -> tuple[NDArray[np.bool_], NDArray[np.generic], int]:
    """Masks and maps of the images whose pixels are known, and how many are not."""
    if masks is None or all(mask is None for mask in masks):
        raise Undefined("no masks")
    if maps is None:
        raise Undefined("no maps")
    values = np.asarray(maps)
    if values.ndim != 3 or not len(values) == len(masks) == anomalous.size:
        raise ValueError(
            f"got {anomalous.size} labels, {len(masks)} masks and maps of shape {values.shape}"
        )
    known = np.array([mask is not None for mask in masks]) | ~anomalous
    clean = np.zeros(values.shape[1:], np.bool_)
    kept = [
        clean if mask is None else np.asarray(mask) > 0
        for mask, keep in zip(masks, known, strict=True)
        if keep
    ]
    if any(mask.shape != clean.shape for mask in kept):
        raise ValueError(f"every mask must have the maps' shape {clean.shape}")
    return np.stack(kept), values if known.all() else values[known], int((~known).sum())


def _rank_pixels(marked: NDArray[np.bool_], values: NDArray[np.generic]) -> Ranking:
    values = _real(values, "map values")
    if marked.all() or not marked.any():
        raise Undefined(f"no {'normal' if marked.any() else 'anomalous'} pixels in the masks")
    return _rank(values[marked], values[~marked], marked)


def _rank(
    anomalous: NDArray[np.generic],
    normal: NDArray[np.generic],
    marked: NDArray[np.bool_] | None = None,
) -> Ranking:
    """Counts from two sorts: normal scores, most of all pixels, need no argsort. They are sorted in
    place. The order among ties is left open: nothing above depends on it, to the last bit.
    """
    normal.sort()
    order = np.argsort(anomalous)
    ordered = anomalous[order]
    return Ranking(
        above=normal.size - np.searchsorted(normal, ordered, side="right"),
        reach=normal.size - np.searchsorted(normal, ordered, side="left"),
        recalled=ordered.size - np.searchsorted(ordered, ordered, side="left"),
        order=order,
        normals=normal.size,
        marked=marked,
    )


def _auroc(ranking: Ranking) -> float:
    wrong = int(ranking.above.sum()) + int(ranking.reach.sum())  # twice the pairs, exact
    pairs = 2 * ranking.recalled.size * ranking.normals
    return (pairs - wrong) / pairs


def _average_precision(ranking: Ranking) -> float:
    # The rise in recall at a threshold is its anomalous scores' share, so the sum is their mean.
    return float((ranking.recalled / (ranking.recalled + ranking.reach)).mean())


def _f1_max(ranking: Ranking) -> float:
    # Thresholds between anomalous scores only add false positives: the scores themselves will do.
    called = ranking.recalled + ranking.reach
    return float((2 * ranking.recalled / (ranking.recalled.size + called)).max())


def _aupro(ranking: Ranking, limit: float = FPR_LIMIT) -> float:
    """Area per anomalous pixel, averaged per component, then over the components.

    As the false positive rate x grows, a pixel counts as found from x = above/normals on. Where it
    ties with normal pixels its share rises linearly until x = reach/normals: the interpolation.
    """
    if not 0 < limit <= 1:
        raise ValueError(f"limit must be in (0, 1], got {limit}")
    if ranking.above[0] == 0 and ranking.reach[-1] == ranking.normals:
        raise Undefined("the maps are constant")
    from scipy.ndimage import label

    marked = ranking.marked
    assert marked is not None
    neighbours = np.zeros((3, 3, 3), np.bool_)
    neighbours[1] = True  # 8 within an image, none across images
    touched = marked.any(axis=(1, 2))
    regions, count = label(marked[touched], structure=neighbours)
    region = regions[marked[touched]][ranking.order]
    start, end = ranking.above / ranking.normals, ranking.reach / ranking.normals
    ramp = end - start
    inside = np.clip(limit - start, 0, ramp)
    with np.errstate(invalid="ignore"):
        rising = np.where(ramp > 0, inside * inside / (2 * ramp), 0)
    area = rising + np.clip(limit - end, 0, None)
    sizes = np.bincount(region, minlength=count + 1)[1:]
    overlap = np.bincount(region, weights=area, minlength=count + 1)[1:] / sizes
    return float(overlap.mean() / limit)


_AUROC = "Chance that an anomalous query scores above a normal one, ties counted half."
_AUPRC = (
    "Average precision, anomalous being positive; a random score gives the prevalence. Not the "
    "trapezoid under the curve, which is another number."
)
_F1_MAX = "The best F1 over all thresholds, chosen with the labels: a bound, not a forecast."
_AUPRO = (
    "Overlap with each 8-connected region of the masks, averaged over regions, against the false "
    f"positive rate of all normal pixels up to {FPR_LIMIT}; exact at every threshold."
)
IMAGES, PIXELS, CHOSEN = "Whole images", "Pixels", "With a threshold chosen by the labels"
FAMILIES = (IMAGES, PIXELS, CHOSEN)  # in the order in which they are shown

#: Every metric by its name, in the order of columns. A new one is an entry here; folders of before
#: are read without it.
RECORDS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("image_auroc", "AUROC", _auroc, _AUROC, IMAGES),
        Metric("image_auprc", "AUPRC", _average_precision, _AUPRC, IMAGES, prevalence=True),
        Metric("image_f1_max", "F1-max", _f1_max, _F1_MAX, CHOSEN, prevalence=True),
        Metric("pixel_auroc", "pixel AUROC", _auroc, _AUROC, PIXELS, pixels=True),
        Metric("pixel_ap", "pixel AP", _average_precision, _AUPRC, pixels=True, prevalence=True),
        Metric(
            "pixel_f1_max", "pixel F1-max", _f1_max, _F1_MAX, CHOSEN, pixels=True, prevalence=True
        ),
        Metric("pixel_aupro", "AUPRO", _aupro, _AUPRO, PIXELS, pixels=True),
    )
}
METRICS = tuple(RECORDS)


def family(name: str) -> list[str]:
    """Names of the metrics that are shown together under one of ``FAMILIES``."""
    return [metric.name for metric in RECORDS.values() if metric.family == name]


def compared() -> list[str]:
    """Names of the metrics that runs and papers are compared by: none that picks by the labels."""
    return [*family(IMAGES), *family(PIXELS)]

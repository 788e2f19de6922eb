"""Metrics against worked vectors, scikit-learn and naive sweeps over every threshold."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.ndimage import label
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from harness.results import metrics
from harness.results.metrics import Undefined

# No deadline: a busy machine is not a wrong metric. scikit-learn's F1 is slow, so fewer of those.
many = settings(deadline=None)
few = settings(many, max_examples=40)

VECTORS = [  # labels, scores, AUROC, average precision
    ([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8], 0.75, 0.833333),
    ([0, 1, 0, 1, 1, 0], [0.2, 0.5, 0.5, 0.9, 0.1, 0.1], 0.666667, 0.722222),
    ([1, 1, 0, 0, 0], [0.9, 0.3, 0.3, 0.3, 0.1], 0.833333, 0.75),
]
MAP = np.array(
    [[0.9, 0.1, 0.2, 0.1], [0.1, 0.05, 0.3, 0.2], [0.2, 0.4, 0.8, 0.7], [0.1, 0.35, 0.6, 0.15]]
)
MASK = np.zeros((4, 4), bool)
MASK[0, 0] = MASK[2:, 2:] = True


@st.composite
def cells(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Labels of both classes; scores from few values (many ties) or from all floats."""
    count = draw(st.integers(2, 40))
    labels = draw(hnp.arrays(bool, count).filter(lambda drawn: drawn.any() and not drawn.all()))
    few = st.integers(-3, 3).map(float)
    wide = st.floats(-1e6, 1e6, width=32)
    scores = draw(hnp.arrays(np.float32, count, elements=draw(st.sampled_from([few, wide]))))
    return labels, scores


@st.composite
def pictures(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Masks and maps of a few small images, with ties."""
    shape = (draw(st.integers(1, 3)), draw(st.integers(2, 6)), draw(st.integers(2, 6)))
    masks = draw(hnp.arrays(bool, shape).filter(lambda drawn: drawn.any() and not drawn.all()))
    levels = draw(st.sampled_from([3, 12, 10_000]))
    maps = draw(hnp.arrays(np.int64, shape, elements=st.integers(0, levels)))
    return masks, maps.astype(np.float32)


@pytest.mark.parametrize(("labels", "scores", "auroc", "precision"), VECTORS)
def test_vectors(labels: list[int], scores: list[float], auroc: float, precision: float) -> None:
    assert metrics.image_auroc(labels, scores) == pytest.approx(auroc, abs=1e-6)
    assert metrics.image_auprc(labels, scores) == pytest.approx(precision, abs=1e-6)


def test_pixel_vector() -> None:
    assert metrics.aupro(MASK, MAP) == pytest.approx(0.875, abs=1e-12)
    assert metrics.pixel_auroc(MASK[None], MAP[None]) == pytest.approx(0.890909, abs=1e-6)
    assert metrics.pixel_ap(MASK[None], MAP[None]) == pytest.approx(0.890909, abs=1e-6)


def best_f1(labels: np.ndarray, scores: np.ndarray) -> float:
    return max(f1_score(labels, scores >= threshold) for threshold in np.unique(scores))


@few
@given(cells())
def test_image_metrics_agree_with_scikit_learn(cell: tuple[np.ndarray, np.ndarray]) -> None:
    labels, scores = cell
    assert metrics.image_auroc(labels, scores) == pytest.approx(roc_auc_score(labels, scores))
    expected = average_precision_score(labels, scores)
    assert metrics.image_auprc(labels, scores) == pytest.approx(expected)
    assert metrics.image_f1_max(labels, scores) == pytest.approx(best_f1(labels, scores))


@many
@given(cells(), st.randoms(use_true_random=False))
def test_invariances(cell: tuple[np.ndarray, np.ndarray], random: object) -> None:
    labels, scores = cell
    order = np.array(random.sample(range(labels.size), labels.size))
    for metric in (metrics.image_auroc, metrics.image_auprc, metrics.image_f1_max):
        value = metric(labels, scores)
        assert metric(labels[order], scores[order]) == pytest.approx(value, abs=1e-12)
        assert metric(labels, np.cbrt(scores.astype(float)) * 1e9 - 5) == value  # any range will do
    complement = metrics.image_auroc(~labels, scores)
    assert metrics.image_auroc(labels, scores) + complement == pytest.approx(1)
    assert metrics.image_auroc(labels, -scores) == pytest.approx(complement)


def naive_aupro(masks: np.ndarray, maps: np.ndarray, limit: float) -> float:
    """Every threshold in turn, component by component; trapezoids, and a line to the limit."""
    components = []
    for index, mask in enumerate(masks):
        regions, count = label(mask, structure=np.ones((3, 3)))
        components += [(index, regions == region) for region in range(1, count + 1)]
    curve = [(0.0, 0.0)]
    for threshold in np.unique(maps)[::-1]:
        called = maps >= threshold
        overlaps = [called[index][region].mean() for index, region in components]
        curve.append((called[~masks].mean(), float(np.mean(overlaps))))
    area = 0.0
    for (x0, y0), (x1, y1) in pairwise(curve):
        if x0 >= limit:
            break
        if x1 > limit:
            x1, y1 = limit, y0 + (y1 - y0) * (limit - x0) / (x1 - x0)
        area += (x1 - x0) * (y0 + y1) / 2
    return area / limit


@many
@given(pictures(), st.sampled_from([0.05, 0.3, 1.0]))
def test_aupro_agrees_with_every_threshold(
    picture: tuple[np.ndarray, np.ndarray], limit: float
) -> None:
    masks, maps = picture
    if np.ptp(maps) == 0:
        with pytest.raises(Undefined, match="constant"):
            metrics.aupro(masks, maps, limit)
        return
    value = metrics.aupro(masks, maps, limit)
    assert value == pytest.approx(naive_aupro(masks, maps, limit), abs=1e-9)
    assert 0 <= value <= 1 + 1e-12
    assert metrics.aupro(masks, np.exp(maps / 1e4), limit) == pytest.approx(value, abs=1e-12)
    assert metrics.aupro(masks[::-1], maps[::-1], limit) == pytest.approx(value, abs=1e-12)


@few
@given(pictures())
def test_pixel_metrics_agree_with_scikit_learn(picture: tuple[np.ndarray, np.ndarray]) -> None:
    masks, maps = picture
    flat = masks.ravel(), maps.ravel()
    assert metrics.pixel_auroc(masks, maps) == pytest.approx(roc_auc_score(*flat))
    assert metrics.pixel_ap(masks, maps) == pytest.approx(average_precision_score(*flat))
    assert metrics.pixel_f1_max(masks, maps) == pytest.approx(best_f1(*flat))


def test_components_touch_at_corners_and_never_across_images() -> None:
    masks = np.zeros((2, 4, 4), bool)
    masks[0, 0, 0] = masks[0, 1, 1] = True  # one component by its corner
    masks[1, 0, 0] = True  # the same place in the next image: another
    maps = np.zeros((2, 4, 4), np.float32)
    maps[0, 0, 0] = 1  # found: half of the first component, none of the second
    maps[0, 3, :] = -1
    # The curve starts at 1/4 and rises straight to 1 at a rate of 25/29, where all zeros tie.
    at_limit = 0.25 + 0.75 * 0.3 / (25 / 29)
    assert metrics.aupro(masks, maps) == pytest.approx((0.25 + at_limit) / 2)


def test_perfect_and_inverted_maps() -> None:
    masks = np.zeros((3, 16, 16), bool)
    masks[0, 2:5, 2:5] = masks[1, 8:, 8:] = True
    perfect = masks.astype(np.float64)
    for metric in (metrics.aupro, metrics.pixel_auroc, metrics.pixel_ap, metrics.pixel_f1_max):
        assert metric(masks, perfect) == pytest.approx(1)
    assert metrics.aupro(masks, -perfect) == pytest.approx(0)
    assert metrics.pixel_auroc(masks, -perfect) == 0


def test_scores_beyond_the_unit_interval_are_ranked_as_they_are() -> None:
    labels = np.array([0, 0, 1, 1, 1, 0, 1])
    scores = np.array(
        [30.0, 80.0, 200.0, 75.0, 1e6, 1e-9, 31.0]
    )  # a sigmoid would tie most of them
    assert metrics.image_auroc(labels, scores) == pytest.approx(10 / 12)
    maps = np.where(MASK, 500.0, 400.0) + MAP
    assert metrics.pixel_auroc(MASK, maps) == 1.0


def test_close_double_scores_stay_apart() -> None:
    assert metrics.image_auroc([0, 1], [1.0, 1.0 + 1e-15]) == 1.0


def test_constant_scores() -> None:
    labels = [0, 1, 1, 1, 0]
    assert metrics.image_auroc(labels, [7] * 5) == 0.5
    assert metrics.image_auprc(labels, [7] * 5) == pytest.approx(0.6)  # the prevalence
    assert metrics.pixel_auroc(MASK, np.ones((4, 4))) == 0.5


@pytest.mark.parametrize("metric", [metrics.image_auroc, metrics.image_auprc, metrics.image_f1_max])
@pytest.mark.parametrize(
    ("labels", "scores", "words"),
    [
        ([0, 0], [1, 2], "only normal images"),
        ([1, 1], [1, 2], "only anomalous images"),
        ([0, 1], [math.nan, 2], "1 of 2 scores not finite"),
        ([0, 1, 1], [math.inf, -math.inf, 2], "2 of 3 scores not finite"),
        ([], [], "no scores"),
    ],
)
def test_undefined_image_metrics(
    metric: object, labels: list[int], scores: list[float], words: str
) -> None:
    with pytest.raises(Undefined, match=words):
        metric(labels, scores)


@pytest.mark.parametrize(
    "metric", [metrics.pixel_auroc, metrics.pixel_ap, metrics.pixel_f1_max, metrics.aupro]
)
def test_undefined_pixel_metrics(metric: object) -> None:
    with pytest.raises(Undefined, match="no anomalous pixels"):
        metric(np.zeros((4, 4)), MAP)
    with pytest.raises(Undefined, match="no normal pixels"):
        metric(np.ones((4, 4)), MAP)
    with pytest.raises(Undefined, match="1 of 16 map values not finite"):
        metric(MASK, np.where(MAP == 0.05, np.nan, MAP))


def test_wrong_input_is_an_error_not_undefined() -> None:
    for labels, scores in [([0, 2], [1, 2]), ([0, 1], [1, 2, 3]), ([[0, 1]], [[1, 2]])]:
        with pytest.raises(ValueError, match="labels") as caught:
            metrics.image_auroc(labels, scores)
        assert not isinstance(caught.value, Undefined)
    with pytest.raises(ValueError, match="same shape"):
        metrics.pixel_auroc(MASK, MAP[:3])
    with pytest.raises(ValueError, match="limit"):
        metrics.aupro(MASK, MAP, limit=0)
    with pytest.raises(ValueError, match="real numbers"):
        metrics.image_auroc([0, 1], [1j, 2])


def test_input_is_left_as_it_was() -> None:
    labels, scores = np.array([0, 1, 0, 1]), np.array([3.0, 2.0, 1.0, 4.0])
    maps, masks = np.array(MAP)[None], np.array(MASK)[None]
    for array in (labels, scores, maps, masks):
        array.setflags(write=False)
    metrics.evaluate(labels, scores)
    metrics.evaluate([1], [1.0], maps, masks)
    metrics.aupro(masks, maps)


def test_evaluate_is_the_functions() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 6)
    scores = rng.normal(size=12)
    masks = np.zeros((12, 8, 9), bool)
    masks[6:, 2:4, 3:7] = masks[8, 6:, :2] = True
    maps = rng.normal(size=masks.shape).astype(np.float32)
    values = metrics.evaluate(labels, scores, maps, [None] * 6 + list(masks[6:]))
    assert values == {
        "image_auroc": metrics.image_auroc(labels, scores),
        "image_auprc": metrics.image_auprc(labels, scores),
        "image_f1_max": metrics.image_f1_max(labels, scores),
        "pixel_auroc": metrics.pixel_auroc(masks, maps),
        "pixel_ap": metrics.pixel_ap(masks, maps),
        "pixel_f1_max": metrics.pixel_f1_max(masks, maps),
        "pixel_aupro": metrics.aupro(masks, maps),
        "status": "ok",
    }
    assert values == metrics.evaluate(labels, scores, maps, masks)


def test_evaluate_says_why_a_value_is_missing() -> None:
    maps, masks = np.stack([MAP, MAP]), [None, MASK]
    values = metrics.evaluate([0, 1], [0.0, math.nan], maps, masks)
    assert values["image_auroc"] is None
    assert values["image_f1_max"] is None
    assert values["pixel_auroc"] is not None
    assert values["status"] == "image metrics: 1 of 2 scores not finite"
    values = metrics.evaluate([1, 1], [0.0, 1.0], None, None)
    assert values["status"] == "image metrics: only anomalous images; pixel metrics: no masks"
    assert all(values[name] is None for name in metrics.METRICS)
    assert metrics.evaluate([0, 1], [0, 1], None, masks)["status"] == "pixel metrics: no maps"
    flat = metrics.evaluate([0, 1], [0, 1], np.ones((2, 4, 4)), masks)
    assert flat["pixel_auroc"] == 0.5
    assert flat["pixel_aupro"] is None
    assert flat["status"] == "pixel_aupro: the maps are constant"


def test_anomalous_images_without_a_mask_are_left_out_where_others_have_one() -> None:
    maps = np.stack([MAP, MAP, MAP[::-1]])
    values = metrics.evaluate([0, 1, 1], [0, 1, 2], maps, [None, MASK, None])
    known = np.stack([np.zeros((4, 4), bool), MASK])
    assert values["pixel_aupro"] == metrics.aupro(known, maps[:2])
    assert values["pixel_ap"] == metrics.pixel_ap(known, maps[:2])
    assert values["status"] == "pixel metrics leave out 1 of 2 anomalous images: no mask"


def test_evaluate_refuses_what_does_not_fit_together() -> None:
    with pytest.raises(ValueError, match="2 labels, 1 masks"):
        metrics.evaluate([0, 1], [0, 1], np.stack([MAP, MAP]), [MASK])
    with pytest.raises(ValueError, match="maps' shape"):
        metrics.evaluate([0, 1], [0, 1], np.stack([MAP, MAP]), [None, MASK[:3]])


def test_only_what_says_so_moves_with_the_prevalence() -> None:
    """Every normal query, and every normal pixel, twice."""
    rng = np.random.default_rng(4)
    labels = np.repeat([0, 1], 8)
    scores = rng.normal(size=16) + labels
    masks = np.zeros((16, 5, 5), bool)
    masks[8:] = True
    maps = rng.normal(size=masks.shape) + masks
    once = metrics.evaluate(labels, scores, maps, masks)
    again = np.concatenate([np.arange(8), np.arange(16)])
    twice = metrics.evaluate(labels[again], scores[again], maps[again], masks[again])
    for name, metric in metrics.RECORDS.items():
        assert (twice[name] != pytest.approx(once[name], abs=1e-12)) == metric.prevalence, name


def test_metrics_are_shown_by_family_and_compared_where_no_label_chose() -> None:
    families = [metrics.family(name) for name in metrics.FAMILIES]
    assert families == [
        ["image_auroc", "image_auprc"],
        ["pixel_auroc", "pixel_aupro"],
        ["image_f1_max", "pixel_f1_max"],
    ]
    assert metrics.compared() == families[0] + families[1]

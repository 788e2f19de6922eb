"""Which queries a report shows: the worst mistakes first, the same ones for every method."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.interface import Image, Prediction, Sample
from harness.reporting.page import queries
from harness.results import evaluation
from harness.results.folder.reader import load
from harness.results.metrics import image_auroc
from tests.fabricated import fabricate


def test_confusion_is_what_auroc_lacks() -> None:
    rng = np.random.default_rng(0)
    labels = rng.random(300) < 0.4
    for digits in (8, 0):  # without and with many ties
        scores = np.round(rng.normal(size=300) + labels, digits)
        confusion = queries.Scored([], [], labels, scores).confusion()
        expected = pytest.approx(1 - image_auroc(labels, scores))
        assert confusion[labels].mean() == expected
        assert confusion[~labels].mean() == expected


def test_telling_queries_are_mistakes_and_successes_of_each_kind() -> None:
    scores = np.array([9, 1, 2, 3, 4, 5, 6, 7, 8, 0, np.nan], np.float32)
    labels = np.array([0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0])
    lists = [indices.tolist() for indices in evaluation.telling(scores, labels, 2)]
    assert lists == [[0, 8], [9, 1], [7, 5], [2, 4]]
    few = evaluation.telling(scores[:3], labels[:3], 4)
    shown = [i for indices in few for i in indices]
    assert sorted(shown) == [0, 1, 2], "each once"


@pytest.fixture
def evaluated() -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """Gallery of a cell of 12 queries with maps that are highest where the defect is."""
    rng = np.random.default_rng(3)
    labels = np.arange(12) % 2
    pictures = rng.integers(0, 255, (12, 30, 40, 3)).astype(np.uint8)
    masks = np.zeros((12, 30, 40), bool)
    maps = rng.random((12, 15, 20)).astype(np.float32)
    for i in np.flatnonzero(labels):
        masks[i, 4:12, 20:32] = True
        maps[i, 3, 13] = 9.0
    prediction = Prediction(rng.random(12).astype(np.float32), maps, {}, {"S_P": maps[:, :6, :6]})
    rebuilt = pictures[:, ::2, ::2]
    parts = [evaluation.predicted(prediction, rebuilt, 4, masks=False)]
    samples = [Sample(f"{i}", int(label), None, "x") for i, label in enumerate(labels)]
    images = [Image(str(i), p) for i, p in enumerate(pictures)]
    arrays, _ = evaluation.evaluate(
        parts, samples, images, lambda s: masks[int(s.image)], 32, 4, images[:2]
    )
    return arrays, prediction.scores, labels


def test_a_gallery_has_what_a_report_shows(evaluated: Any) -> None:
    arrays, scores, labels = evaluated
    index = arrays["gallery.index"]
    assert len(index) == 8
    assert (labels[index] == 0).sum() == 4
    assert index[0] == max(np.flatnonzero(labels == 0), key=lambda i: scores[i])
    assert arrays["gallery.support"].shape == (2, 30, 40, 3)
    assert arrays["gallery.personalized"].shape == (8, 15, 20, 3)
    assert arrays["gallery.map"].shape == arrays["gallery.part.S_P"].shape == (8, 64, 64)
    # Whichever query another method finds telling, there is a coarse map of it.
    coarse = arrays["gallery.all.map"]
    assert sorted(arrays["gallery.all.index"]) == list(range(12))
    low, high = arrays["gallery.limits"]
    place = {i: n for n, i in enumerate(arrays["gallery.all.index"])}
    for n, i in enumerate(index):
        shown = np.clip((arrays["gallery.map"][n] - low) / (high - low), 0, 1) * 255
        assert np.abs(coarse[place[i]] - shown).max() <= 0.5


def test_a_gallery_has_the_masks_of_its_queries_and_none_for_normal_ones() -> None:
    samples = [Sample(f"{i}", i % 2, f"m{i}" if i % 2 else None) for i in range(6)]
    images = [Image(s.name, np.zeros((20, 30, 3), np.uint8)) for s in samples]
    masks = np.zeros((6, 40, 60), bool)
    for i in range(6):
        masks[i, 2 * i : 2 * i + 8, 4 * i : 4 * i + 20] = True
    parts = [{"scores": np.arange(6, dtype=np.float32)}]
    arrays, _ = evaluation.evaluate(
        parts, samples, images, lambda s: masks[int(s.name)] if s.label else None, 8, 6
    )
    assert set(arrays["gallery.index"]) == set(range(6))
    for i, mask in zip(arrays["gallery.index"], arrays["gallery.mask"], strict=True):
        expected = masks[i, ::2, ::2] if i % 2 else np.zeros((20, 30), bool)
        np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize(
    ("shape", "shown"),
    [
        ((256, 64), (128, 32)),
        ((100, 128), (100, 128)),
        ((512, 1), (128, 1)),
        ((1, 512), (1, 128)),
    ],
)
def test_pictures_are_shrunk_to_a_side_and_never_to_nothing(
    shape: tuple[int, int], shown: tuple[int, int]
) -> None:
    prediction = Prediction(np.ones(2, np.float32))
    rebuilt = np.full((2, *shape, 3), 7, np.uint8)
    arrays = evaluation.predicted(prediction, rebuilt, 4, masks=False)
    assert arrays["small.personalized"].shape == (2, *shown, 3)
    assert (arrays["small.personalized"] == 7).all()


def test_nothing_is_kept_where_no_gallery_is_wanted() -> None:
    prediction = Prediction(np.ones(2, np.float32), np.ones((2, 9, 9), np.float32))
    assert set(evaluation.predicted(prediction, None, 0, masks=False)) == {"scores"}
    assert set(evaluation.predicted(prediction, None, 0, masks=True)) == {"scores", "maps"}


def test_a_panel_shows_the_same_queries_for_all_methods(tmp_path: Path) -> None:
    fabricate(tmp_path, {"mvtec": ["bottle"]}, {"padim": 0.2, "o2n": 9.0}, shots=(2,), seeds=1)
    (panel,), left_out = queries.panels(load(tmp_path))
    assert left_out == 0
    kinds = [(q["wrong"], q["anomalous"]) for q in panel["queries"]]
    assert kinds == [(True, False)] * 2 + [(True, True)] * 2 + [(False, False), (False, True)]
    for query in panel["queries"]:
        methods = [t["method"] for t in query["tiles"] if t["method"]]
        assert methods == ["padim", "o2n"]
        first = query["tiles"][0]
        assert first["label"] == "query"
        assert query["name"] in first["alt"]
    (verdict,) = {t["verdict"] for t in panel["queries"][-1]["tiles"] if t["method"] == "o2n"}
    assert verdict == "above all normal"
    parts = [t["label"] for t in panel["queries"][-1]["tiles"] if t["of"] == "o2n"]
    assert parts in ([], ["one-to-normal", "pool"])


def test_where_a_map_is_highest_is_said_in_words() -> None:
    heat = np.zeros((30, 30), np.float32)
    heat[2, 27] = 1
    mask = np.zeros((60, 60), bool)
    mask[:10, 50:] = True
    assert queries._where(heat) == "top right"
    assert queries._hit(heat, mask) == ", within the defect"
    assert queries._hit(heat, ~mask) == ", outside the defect"
    heat[15, 15] = 2
    assert queries._where(heat) == "centre"

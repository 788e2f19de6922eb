"""Charts against the metrics they draw, pictures against the pixels they show."""

from __future__ import annotations

import base64
import io
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from PIL import Image

from harness.reporting.page import plots
from harness.reporting.page.plots import Line
from harness.results import metrics


def shown(uri: str) -> np.ndarray:
    kind, data = uri.removeprefix("data:image/").split(";base64,")
    picture = Image.open(io.BytesIO(base64.b64decode(data)))
    assert picture.format == kind.upper()
    return np.asarray(picture)


def test_drawn_curves_enclose_the_metrics_area() -> None:
    rng = np.random.default_rng(0)
    labels = rng.random(4000) < 0.3
    for digits in (8, 0):  # without and with many ties
        scores = np.round(rng.normal(size=4000) + 1.5 * labels, digits)
        area = np.trapezoid(plots.roc(labels, scores), plots.GRID)
        assert area == pytest.approx(metrics.image_auroc(labels, scores), abs=0.01)
        precision = plots.precision_recall(labels, scores)[1:]
        assert precision.mean() == pytest.approx(metrics.image_auprc(labels, scores), abs=0.01)


def test_charts_are_xml_with_escaped_names() -> None:
    y = np.linspace(0, 1, plots.GRID.size)
    line = Line("<b>&", 12, plots.GRID, y, runs=(y, y))
    for chart in (
        plots.curves([line], "x", "y"),
        plots.curves([line], "x", "y", 0.4),
        plots.trend([Line("<b>&", 0, np.arange(2.0), y[[3, 70]], y[[1, 2]])], ["2", "4"], "y"),
        plots.histogram(y, y + 1),
    ):
        root = ElementTree.fromstring(chart)
        assert "nan" not in chart
        assert root.get("viewBox")
    assert "&lt;b&gt;&amp;" in plots.curves([line], "x", "y")


def test_trend_is_scaled_to_its_lines_and_skips_what_is_undefined() -> None:
    nothing = np.array([np.nan, np.nan])
    assert plots.trend([Line("a", 0, np.arange(2.0), nothing, nothing)], ["2", "4"], "y") == ""
    half = Line("a", 0, np.arange(2.0), np.array([np.nan, 0.63]), np.array([np.nan, np.nan]))
    chart = plots.trend([half], ["2", "4"], "y")
    assert chart.count('class="dot') == 1
    assert "nan" not in chart
    for mark in ("62", "63", "64"):
        assert f">{mark}</text>" in chart


@pytest.mark.parametrize("constant", [True, False])
def test_histogram_of_equal_scores(constant: bool) -> None:
    scores = np.zeros(5) if constant else np.arange(5.0)
    assert "nan" not in plots.histogram(scores, scores)


def test_pictures_are_shrunk_and_outlined() -> None:
    pixels = np.full((400, 300, 3), 128, np.uint8)
    assert shown(plots.picture(pixels)).shape == (192, 144, 3)
    small = np.full((40, 40, 3), 128, np.uint8)
    mask = np.zeros((40, 40), bool)
    mask[10:20, 10:20] = True
    outlined = shown(plots.picture(small, mask))
    changed = (outlined != 128).any(axis=2)
    assert changed[10, 10:20].all()
    assert changed[10:20, 10].all()
    assert not changed[11:19, 11:19].any()
    assert changed.sum() == 36


def test_an_overlay_is_brightest_where_the_map_is_highest() -> None:
    pixels = np.full((32, 32, 3), 90, np.uint8)
    heat = np.zeros((32, 32), np.float32)
    heat[8, 24] = 5.0
    heat[0, 0] = np.inf
    heat[0, 1] = np.nan
    light = shown(plots.overlay(pixels, heat, 0.0, 5.0)).sum(axis=2)
    assert light[8, 24] == light.max()
    assert light[20, 5] == light.min()
    assert shown(plots.overlay(pixels, heat[:4, :4], 1.0, 1.0)).shape == (32, 32, 3)

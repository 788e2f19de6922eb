"""Trivial statistics: their values by other means, and what they alone tell."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Picture
from scipy.ndimage import laplace
from sklearn.metrics import roc_auc_score

from datasets.folder import Folder
from harness.data import shortcuts
from harness.data.audit import audit, render
from harness.interface import Sample


def test_statistics_of_pixels_by_scipy() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    grey = np.asarray(Picture.fromarray(pixels).convert("L"), float)
    statistics = shortcuts.of_pixels(pixels)
    assert statistics["mean"] == pytest.approx(grey.mean())
    assert statistics["std"] == pytest.approx(grey.std())
    assert statistics["laplacian"] == pytest.approx(laplace(grey)[1:-1, 1:-1].var())
    assert (statistics["pixels"], statistics["aspect"]) == (600, 1.5)
    assert shortcuts.of_pixels(pixels[:1, :1])["laplacian"] == 0


def test_statistics_of_files(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Picture.new("L", (8, 8)).save(path, "BMP")  # the name does not matter
    dataset = Folder(tmp_path)
    dataset._base = tmp_path
    statistics = shortcuts.of_file(dataset, Sample("a.png"))
    assert statistics == {"file_size": path.stat().st_size, "format": "BMP"}
    assert set(shortcuts.of_file(dataset, Sample("a.png", box=(0, 0, 4, 4))).values()) == {None}


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=4, max_size=40))
def test_auroc_is_sklearns_in_the_better_direction(rows: list[tuple[bool, int]]) -> None:
    labels = np.array([0, 1, *(int(bad) for bad, _ in rows)])
    values = [1.0, 2.0, *(float(value) for _, value in rows)]
    expected = roc_auc_score(labels, values)
    by_name = shortcuts.aurocs(labels, {"mean": values})
    assert by_name["mean"] == pytest.approx(max(expected, 1 - expected))


def test_the_format_that_tells_most_and_what_is_undefined() -> None:
    labels = [0, 0, 0, 1, 1, 1]
    columns = {
        "format": ["PNG", "PNG", "BMP", "JPEG", "JPEG", "BMP"],
        "file_size": [1.0, 2.0, None, 3.0, 4.0, 5.0],
        "pixels": [9.0] * 6,
    }
    by_name = shortcuts.aurocs(labels, columns)
    assert by_name["format"] == pytest.approx(roc_auc_score(labels, [0, 0, 0, 1, 1, 0]))
    assert math.isnan(by_name["file_size"])
    assert by_name["pixels"] == 0.5
    assert shortcuts.strongest(labels, columns) == ("format", by_name["format"])
    assert shortcuts.strongest([1, 1], {"mean": [1.0, 2.0]}) == ("", None)


def test_the_audit_prints_them_for_each_category(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for kind, light in (("train/good", 60), ("test/good", 60), ("test/dark", 20)):
        for number in range(4):
            path = tmp_path / f"cup/{kind}/{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            noise = rng.integers(0, 30, (16, 16), dtype=np.uint8)
            Picture.fromarray(noise + np.uint8(light)).save(path)
    audited = audit(Folder(tmp_path), "mine")
    assert audited.categories[0].shortcuts["mean"] == 1.0
    assert audited.categories[0].shortcuts["aspect"] == 0.5
    text = render(audited)
    assert "trivial AUROC   mean 1.000*, std" in text
    assert "a method that does not beat 1.000 has shown nothing here" in text

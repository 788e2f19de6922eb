"""Masks that are not what they should be are remarked, by planning and by the audit alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture

from datasets.folder import Folder
from harness.config import check_plugin
from harness.data import masks
from harness.data.audit import audit, render
from harness.data.contents import Stamps
from harness.execution.memory.cache import read_mask
from harness.interface import Sample


def crack(dark: int = 0, light: int = 255) -> np.ndarray:
    mask = np.full((48, 64), dark, np.uint8)
    mask[20:24, 8:40] = light
    return mask


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A category with two cracks whose masks are as they should be."""
    for name in ("train/good/0", "test/good/0", "test/crack/0", "test/crack/1"):
        path = tmp_path / f"road/{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Picture.fromarray(np.random.default_rng(len(name)).integers(0, 256, (48, 64, 3), np.uint8))
        Picture.fromarray(np.full((48, 64), len(name), np.uint8)).save(path)
    for number in range(2):
        draw(tmp_path, number, crack())
    return tmp_path


def draw(root: Path, number: int, mask: np.ndarray, suffix: str = "png") -> Path:
    path = root / f"road/ground_truth/crack/{number}_mask.{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    Picture.fromarray(mask).save(path)
    return path


def remarks(root: Path, threshold: int = 0) -> list[str]:
    dataset = Folder(root, threshold=threshold)
    return masks.remarks(Stamps(dataset), dataset.test("road"))


def anomalous(dataset: Folder) -> Sample:
    return next(s for s in dataset.test("road") if s.label)


def test_good_masks_are_not_remarked(root: Path) -> None:
    assert remarks(root) == []
    assert remarks(root) == []  # remembered


def test_masks_as_jpeg_are_remarked_with_what_it_does(root: Path) -> None:
    (root / "road/ground_truth/crack/0_mask.png").unlink()
    draw(root, 0, crack(), "jpg")
    (line,) = remarks(root)
    assert line.startswith("1 of 2 masks is not two-valued")
    assert "0_mask.jpg" in line
    assert "threshold" in line
    plain, chosen = (Folder(root, threshold=level) for level in (0, 127))
    loose, exact = (read_mask(d, anomalous(d)) for d in (plain, chosen))
    assert exact.sum() == (crack() > 0).sum()
    assert loose.sum() > 1.2 * exact.sum()
    values = np.asarray(Picture.open(root / "road/ground_truth/crack/0_mask.jpg"))
    half = (values > values.max() / 2).sum()
    assert f"up to {loose.sum() / half:.2f} times" in line
    assert remarks(root, 127) == []
    assert line in render(audit(plain, "mine"))


def test_inverted_masks(root: Path) -> None:
    draw(root, 1, crack(255, 0))
    (line,) = remarks(root)
    assert "1 of 2 masks is marking more than half" in line
    assert "inverted" in line


def test_masks_of_another_size(root: Path) -> None:
    draw(root, 0, crack()[::2, ::2])
    (line,) = remarks(root)
    assert "of another size than their image" in line
    assert "32 x 24, not 64 x 48" in line


def test_masks_that_mark_nothing(root: Path) -> None:
    draw(root, 0, crack(0, 0))
    (line,) = remarks(root)
    assert line.startswith("1 of 2 masks is marking nothing")


@pytest.mark.parametrize("light", [1, 9, 255])
def test_numbers_of_classes_are_no_greys(root: Path, light: int) -> None:
    mask = crack(0, light)
    if light < 32:
        mask[20:22, 8:40] = light + 3
    draw(root, 0, mask)
    assert remarks(root) == []


@pytest.mark.parametrize("use", ["folder", "mvtec", "visa", "ksdd", "aitex", "resc"])
@pytest.mark.parametrize("threshold", [-1, 70_000, True, 0.5])
def test_a_threshold_out_of_range_is_refused(use: str, threshold: object) -> None:
    (problem,) = check_plugin("dataset", use, {"threshold": threshold}, "data")
    assert "threshold" in str(problem)

"""Whole sweeps on data that changes under names and sizes that stay: no number of before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Picture

from tests.sweeps import Runner, rows, sweep

pytestmark = pytest.mark.usefixtures("toys")


def bmps(root: Path, seed: int, contrast: int) -> Path:
    """A category with masks; BMPs of one size are files of one size."""
    rng = np.random.default_rng(seed)
    names = [f"train/good/{i}" for i in range(3)] + [f"test/good/{i}" for i in range(6)]
    for name in [*names, *(f"test/dot/{i}" for i in range(6))]:
        pixels = rng.integers(90, 110, (32, 32, 3), dtype=np.uint8)
        mask = np.zeros((32, 32), np.uint8)
        if "dot" in name:
            pixels[4:12, 4:12] += np.uint8(contrast)
            mask[4:12, 4:12] = 255
            save(root / f"dot/ground_truth/dot/{Path(name).name}_mask.bmp", mask)
        save(root / f"dot/{name}.bmp", pixels)
    return root


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Picture.fromarray(pixels).save(path)


CONFIG: dict[str, Any] = sweep(
    datasets=[{"use": "folder"}], methods=[{"use": "mean_color"}], gallery=1
)


def figures(tmp_path: Path, storage: str) -> list[dict[str, str]]:
    return rows(tmp_path / storage / CONFIG["name"])


def test_another_folder_of_the_same_names_and_sizes(run_sweep: Runner, tmp_path: Path) -> None:
    first, second = bmps(tmp_path / "first", 0, 4), bmps(tmp_path / "second", 1, 120)
    assert run_sweep(CONFIG, "alone", data_root=str(second)) == 0
    assert run_sweep(CONFIG, "both", data_root=str(first)) == 0
    before = figures(tmp_path, "both")
    assert run_sweep(CONFIG, "both", data_root=str(second)) == 0
    assert figures(tmp_path, "both") == figures(tmp_path, "alone") != before


def test_masks_corrected_in_place(run_sweep: Runner, tmp_path: Path) -> None:
    root = bmps(tmp_path / "data", 0, 120)
    assert run_sweep(CONFIG, data_root=str(root)) == 0
    (before,) = figures(tmp_path, "runs")
    for path in root.glob("dot/ground_truth/dot/*.bmp"):
        moved = np.zeros((32, 32), np.uint8)
        moved[20:28, 20:28] = 255
        save(path, moved)
    assert run_sweep(CONFIG, data_root=str(root)) == 0
    (after,) = figures(tmp_path, "runs")
    assert after["image_auroc"] == before["image_auroc"]
    assert float(before["pixel_auroc"]) - float(after["pixel_auroc"]) > 0.2

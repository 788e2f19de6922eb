"""ELPV whole, from its package and from a clone; and the split that it shares with others."""

from __future__ import annotations

import importlib.util
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Picture
from sklearn.model_selection import train_test_split

from datasets._listed import three_quarters
from datasets.elpv import ELPV
from harness.data.images import decode


@given(st.integers(1, 400))
def test_quarter_is_that_of_scikit_learn(n: int) -> None:
    if n > 1:
        train, test = train_test_split(list(range(n)), test_size=0.25, random_state=42)
        assert three_quarters(range(n)) == (sorted(train), sorted(test))
    assert len(three_quarters(range(n))[1]) == -(-n // 4)


def test_elpv_whole_from_the_package() -> None:
    dataset = ELPV()
    train, test = dataset.train("elpv"), dataset.test("elpv")
    normal, defective = ([s for s in test if s.label == label] for label in (0, 1))
    assert (len(train), len(normal), len(defective)) == (1131, 377, 715)
    assert [s.image for s in normal][:10] == [
        f"images/cell{n:04d}.png" for n in (75, 88, 97, 99, 100, 101, 113, 114, 119, 120)
    ]
    assert Counter(s.defect for s in defective) == {"mono": 313, "poly": 402}
    table = (dataset.base / "labels.csv").read_text().split()
    kinds = dict(zip(table[::3], table[2::3], strict=True))
    assert Counter(kinds[s.image] for s in train) == {"poly": 677, "mono": 454}
    assert Counter(kinds[s.image] for s in normal) == {"poly": 243, "mono": 134}
    assert decode(dataset.open(train[0].image)).shape == (300, 300, 3)
    assert dataset.object_name("elpv") == "solar cell"


def test_elpv_from_a_clone(tmp_path: Path) -> None:
    data = tmp_path / "elpv-dataset/src/elpv_dataset/data"
    for number in range(9):
        (data / "images").mkdir(parents=True, exist_ok=True)
        Picture.fromarray(np.zeros((8, 8), np.uint8)).save(data / f"images/cell{number:04d}.png")
    values = ["0.0", "1.0", "0.3333333333333333", "0.0", "0.6666666666666666", "0.0", "0.0", "1.0"]
    lines = [f"images/cell{n:04d}.png  {v}   mono" for n, v in enumerate(values)]
    (data / "labels.csv").write_text("\n".join(lines) + "\n\n")
    dataset = ELPV(tmp_path / "elpv-dataset")
    assert (len(dataset.train("elpv")), len(dataset.test("elpv"))) == (3, 3)
    (data / "labels.csv").write_text("path,probability\n")
    with pytest.raises(ValueError, match=r"labels.csv:1: expected a path, a probability"):
        ELPV(tmp_path / "elpv-dataset").train("elpv")


def test_elpv_without_the_package_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="elpv-dataset is not installed"):
        ELPV()

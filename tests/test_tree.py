"""Trees of MVTec's form: what is missing is an error that lists what is there."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Picture

from datasets._tree import Tree
from datasets.folder import Folder
from datasets.mvtec import MVTec
from harness import config
from harness.data.audit import audit, render
from harness.errors import InputError
from harness.planning.inputs import collect_inputs
from tests.sweeps import sweep, written


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A bottle with two kinds of defect."""
    kinds = ("train/good", "test/good", "test/crack", "test/dent")
    for seed, kind in enumerate(kinds):
        for number in range(3):
            draw(tmp_path / f"data/bottle/{kind}/{number}.png", 10 * seed + number)
    for kind in ("crack", "dent"):
        for number in range(3):
            draw(tmp_path / f"data/bottle/ground_truth/{kind}/{number}_mask.png", None)
    return tmp_path / "data"


def draw(path: Path, seed: int | None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros((8, 8), np.uint8)
    mask[2:4, 2:4] = 255
    rng = np.random.default_rng(seed)
    pixels = mask if seed is None else rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Picture.fromarray(pixels).save(path)


def planned(root: Path, use: str = "folder", **entry: Any) -> list[dict[str, str]]:
    """Remarks of planning."""
    conf = sweep(datasets=[{"use": use, **entry}], methods=[{"use": "mean_color"}])
    path = written(root.parent / "conf.yaml", conf)
    return collect_inputs(config.load(path), path, str(root)).remarks


@pytest.mark.parametrize("kind", [Folder, MVTec])
@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("test/good", "test/Good", ["test/good of normal queries", "has Good, crack, dent"]),
        ("test/good", "test/ok", ["test/good of normal queries", "crack, dent, ok"]),
        ("test", "tests", ["no folder", "bottle/test;", "has ground_truth, tests, train"]),
    ],
)
def test_a_folder_that_is_not_there(
    root: Path, kind: type[Tree], old: str, new: str, words: list[str]
) -> None:
    (root / "bottle" / old).rename(root / "bottle" / new)
    with pytest.raises(InputError) as caught:
        planned(root, kind.__name__.lower())
    (problem,) = caught.value.problems
    for word in words:
        assert word in str(problem)
    with pytest.raises(FileNotFoundError):
        audit(kind(root), "mine")


def test_no_defects_at_all(root: Path) -> None:
    for kind in ("crack", "dent"):
        (root / f"bottle/test/{kind}").rename(root / kind)
    with pytest.raises(InputError, match=r"no folder of a defect beside .*test/good.* has good"):
        planned(root)
    (root / "bottle/test/crack").mkdir()
    with pytest.raises(InputError, match=r"no pictures in .*test besides good"):
        planned(root)


def test_normals_that_are_no_pictures(root: Path) -> None:
    for path in (root / "bottle/test/good").iterdir():
        path.rename(path.with_suffix(".npy"))
    with pytest.raises(InputError, match=r"no pictures in .*test/good"):
        planned(root)


def test_a_whole_tree_is_not_remarked(root: Path) -> None:
    (root / "bottle/readme.txt").write_text("as MVTec AD comes")
    assert planned(root) == []
    assert MVTec(root).remarks("bottle") == []


def test_what_is_left_out_is_counted_by_reason(root: Path) -> None:
    crack = root / "bottle/test/crack"
    (crack / "notes.txt").write_text("x")
    (crack / "9.jp2").write_text("x")
    (crack / ".DS_Store").write_text("x")
    (crack / "._0.png").write_text("x")
    (crack / "more").mkdir()
    (crack / "gone.png").symlink_to(root / "nowhere.png")
    draw(root / "bottle/test/lost.png", 99)
    (root / "bottle/test/empty").mkdir()
    draw(root / "bottle/ground_truth/crack/77_mask.png", None)
    (root / "bottle/ground_truth/dent/0_mask.png").unlink()
    notes = planned(root)
    assert {note["method"] for note in notes} == {"folder/bottle"}
    text = "\n".join(note["note"] for note in notes)
    for words in (
        "2 with another extension (bottle/test/crack/9.jp2)",
        "1 sub-folders (bottle/test/crack/more)",
        "1 broken links (bottle/test/crack/gone.png)",
        "2 named with a dot or __ in front (bottle/test/crack/.DS_Store)",
        "1 pictures beside the folders of test",
        "no pictures in test/empty",
        "1 of 6 masks belong to no image (bottle/ground_truth/crack/77_mask.png)",
        "1 anomalous images have no mask (bottle/test/dent/0.png)",
    ):
        assert words in text
        assert words in render(audit(Folder(root), "mine"))


def test_more_queries_than_there_are_is_said(root: Path) -> None:
    with pytest.raises(InputError, match="expected 10000 normal queries, there are 3"):
        planned(root, queries={"normal": 10_000, "anomalous": 6})
    assert planned(root, queries={"normal": 3, "anomalous": 6}) == []


def test_a_name_that_is_not_utf8_is_named(root: Path) -> None:
    name = os.fsencode(root / "bottle/test/good") + b"/caf\xe9.png"
    with open(name, "wb") as file:
        file.write((root / "bottle/test/good/0.png").read_bytes())
    with pytest.raises(InputError) as caught:
        planned(root)
    (problem,) = caught.value.problems
    assert "bottle/test/good/caf\\xe9.png: expected a name in UTF-8" in str(problem)
    with pytest.raises(ValueError, match=r"caf\\xe9.png: expected a name in UTF-8"):
        audit(Folder(root), "mine")


@pytest.mark.parametrize("use", ["folder", "mvtec"])
def test_folders_that_nothing_reads_are_named(root: Path, use: str) -> None:
    """A slip in the masks' folder would leave pixel metrics empty, and nobody would know why."""
    assert not [r for r in planned(root, use) if "nothing reads" in str(r)]
    (root / "bottle/ground_truth").rename(root / "bottle/groundtruth")
    draw(root / "bottle/train/bad/0.png", 1)
    remarks = " ".join(map(str, planned(root, use)))
    assert "nothing reads bottle/groundtruth, bottle/train/bad" in remarks


def test_a_published_tree_without_masks_is_remarked(root: Path) -> None:
    shutil.rmtree(root / "bottle/ground_truth")
    assert "no masks below bottle/ground_truth" in str(planned(root, "mvtec"))
    assert "no masks" not in str(planned(root, "folder"))

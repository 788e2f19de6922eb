"""The audit of small trees whose counts, leaks and mistakes are known."""

from __future__ import annotations

import hashlib
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture

from datasets.brainmri import BrainMRI
from datasets.folder import Folder
from datasets.ksdd import KSDD
from datasets.mnist import MNIST
from datasets.mvtec import MVTec
from harness.data.audit import audit, render
from harness.errors import DataError

SHARED = Path(__file__).parents[1] / "../shared/data"


def draw(path: Path, seed: int, size: tuple[int, int] = (32, 24)) -> None:
    """Write a smooth random picture of a (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    blocks = np.random.default_rng(seed).integers(0, 256, (4, 4), dtype=np.uint8)
    Picture.fromarray(blocks).resize(size, Picture.Resampling.BICUBIC).save(path)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A bottle whose every number is known."""
    root = tmp_path / "mvtec"
    for number in range(6):
        draw(root / f"bottle/train/good/{number}.png", number)
    for number in range(6, 9):
        draw(root / f"bottle/test/good/{number}.png", number, (40, 24))
    for kind, number in (("crack", 10), ("crack", 11), ("dent", 12), ("dent", 13)):
        draw(root / f"bottle/test/{kind}/{number}.png", number)
        mask = np.zeros((24, 32), np.uint8)
        mask[2:5, 2:5] = 255
        place = root / f"bottle/ground_truth/{kind}/{number}_mask.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Picture.fromarray(mask).save(place)
    return root


def copy(root: Path, source: str, target: str) -> None:
    shutil.copyfile(root / f"bottle/{source}.png", root / f"bottle/{target}.png")


def test_counts(tree: Path) -> None:
    audited = audit(MVTec(tree), "mvtec")
    (bottle,) = audited.categories
    assert bottle.counts == (6, 3, 4)
    assert bottle.published == (209, 20, 63)
    assert bottle.defects == {"crack": 2, "dent": 2}
    assert (bottle.masks, bottle.wrong_masks) == (4, ())
    assert bottle.sizes == {(32, 24): 10, (40, 24): 3}
    assert (bottle.exact.train, bottle.exact.test, bottle.exact.across) == (0, 0, 0)
    assert (bottle.exact.normals, bottle.exact.anomalies) == (9, 4)
    assert len(audited.missing) == 14
    text = render(audited)
    assert "train normals          6  ! published 209: 203 missing" in text
    assert "CC BY-NC-SA 4.0" in text
    assert "https://www.mvtec.com" in text
    assert text.endswith(f"\nfingerprint {audited.fingerprint}")


def test_exact_duplicates(tree: Path) -> None:
    copy(tree, "train/good/1", "train/good/one")
    copy(tree, "train/good/1", "train/good/uno")
    copy(tree, "train/good/2", "test/good/two")
    copy(tree, "test/crack/10", "test/crack/ten")
    (bottle,) = audit(MVTec(tree), "mvtec").categories
    exact = bottle.exact
    assert (exact.train, exact.train_images) == (3, 3)
    assert (exact.test, exact.test_images) == (1, 2)
    assert (exact.across, exact.leaking, exact.leaked) == (1, 1, 1)
    assert (exact.normals, exact.anomalies) == (9, 4)
    assert bottle.near == exact


def test_near_duplicates(tree: Path) -> None:
    draw(tree / "bottle/train/good/larger.png", 7, (80, 60))
    (bottle,) = audit(MVTec(tree), "mvtec").categories
    assert bottle.exact.across == 0
    near = bottle.near
    assert (near.across, near.leaking, near.leaked, near.normals) == (1, 1, 1, 9)
    text = render(audit(MVTec(tree), "mvtec"))
    assert "across the split             1  pairs: 1 train and 1 test images" in text


def test_masks_that_are_wrong(tree: Path) -> None:
    masks = tree / "bottle/ground_truth"
    Picture.fromarray(np.zeros((24, 32), np.uint8)).save(masks / "crack/10_mask.png")
    Picture.fromarray(np.ones((24, 30), np.uint8)).save(masks / "dent/12_mask.png")
    (masks / "dent/13_mask.png").unlink()
    audited = audit(MVTec(tree), "mvtec")
    (bottle,) = audited.categories
    assert bottle.masks == 3
    assert bottle.wrong_masks == (
        "mask bottle/ground_truth/crack/10_mask.png marks nothing of bottle/test/crack/10.png",
        "mask bottle/ground_truth/dent/12_mask.png is 30 x 24, not 32 x 24",
    )
    assert "! mask bottle/ground_truth/dent/12_mask.png is 30 x 24" in render(audited)


def test_damaged_image_is_named(tree: Path) -> None:
    (tree / "bottle/test/good/7.png").write_bytes(b"oops")
    with pytest.raises(DataError, match=r"bottle/test/good/7.png in "):
        audit(MVTec(tree), "mvtec")


def test_fingerprint_is_of_contents_and_split(tree: Path, tmp_path: Path) -> None:
    dataset = MVTec(tree)
    split = [("train", s) for s in dataset.train("bottle")]
    split += [("test", s) for s in dataset.test("bottle")]
    lines = []
    for part, sample in split:
        contents = hashlib.sha256((tree / sample.image).read_bytes()).hexdigest()
        lines.append(f"{part}\t{sample.name}\t{sample.label}\t{contents}\n")
    lines.sort()
    before = audit(dataset, "mvtec")
    assert before.categories[0].fingerprint == hashlib.sha256("".join(lines).encode()).hexdigest()
    moved = tmp_path / "deep/er/mvtec"
    shutil.copytree(tree, moved)
    assert audit(MVTec(moved), "copy").fingerprint == before.fingerprint
    draw(moved / "bottle/train/good/3.png", 99)
    assert audit(MVTec(moved), "copy").fingerprint != before.fingerprint


def test_groups_and_remarks(tmp_path: Path) -> None:
    for item in range(1, 9):
        for part in range(3):
            place = tmp_path / f"kos{item:02d}/Part{part}"
            draw(place.with_suffix(".jpg"), 10 * item + part)
            mask = np.zeros((24, 32), np.uint8)
            mask[10:14, 4:8] = part == 1
            if part < 2:
                Picture.fromarray(mask).save(place.with_name(f"Part{part}_label.bmp"))
    (published,) = audit(KSDD(tmp_path), "ksdd").categories
    assert published.counts == (48, 16, 8)
    assert published.groups == (8, 8, 8)
    assert published.published == (857, 286, 54)
    assert published.sizes == {(32, 8): 72}
    disjoint = audit(KSDD(tmp_path, split="item"), "ksdd")
    assert disjoint.categories[0].groups == (2, 6, 0)
    assert disjoint.categories[0].published is None  # other counts hold for other splits
    text = render(disjoint)
    assert "items                  2  in train, 6 in test, 0 in both" in text
    assert "! 8 surfaces have no mask and count as clean: kos01/Part2.jpg" in text


def test_near_duplicates_of_a_set_that_repeats_itself(tmp_path: Path) -> None:
    for number in range(12):
        draw(tmp_path / f"no/{number}.png", number // 2, (32 + number, 30))
    for number in range(4):
        draw(tmp_path / f"yes/{number}.png", 100 + number)
    (plain,) = audit(BrainMRI(tmp_path), "brainmri").categories
    assert (plain.near.normals, plain.near.anomalies) == (6, 4)
    assert plain.near.train + plain.near.test + plain.near.across == 6
    (unique,) = audit(BrainMRI(tmp_path, split="deduplicated"), "brainmri").categories
    assert unique.counts == (4, 2, 4)
    assert unique.near.across == 0


def test_folder_has_nothing_published(tree: Path) -> None:
    audited = audit(Folder(tree), "mine")
    assert (audited.missing, audited.extra, audited.categories[0].published) == ((), (), None)
    assert "licence    not stated" in render(audited)


@pytest.mark.skipif(not (SHARED / "mvtec").is_dir(), reason="no ../shared/data/mvtec")
def test_mvtec_as_distributed() -> None:
    audited = audit(MVTec(SHARED / "mvtec"), "mvtec")
    text = render(audited)
    for each in audited.categories:
        assert each.counts == each.published
        assert each.masks == each.counts[2]
        assert not each.wrong_masks
        assert each.near.normals == 1  # bottles and pills always lie the same way
    assert "looks alike without being a copy" in text
    assert len(text.splitlines()) < 60


def test_classes_share_images_that_are_opened_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 28, 28), dtype=np.uint8)
    for part in ("train", "t10k"):
        for kind, array in (("images", pixels), ("labels", np.arange(30, dtype=np.uint8) % 10)):
            head = struct.pack(f">{array.ndim + 1}I", 0x800 + array.ndim, *array.shape)
            name = f"{part}-{kind}-idx{array.ndim}-ubyte"
            (tmp_path / name).write_bytes(head + array.tobytes())
    dataset = MNIST(tmp_path)
    opened: list[str] = []
    plain = dataset.open
    monkeypatch.setattr(dataset, "open", lambda source: (opened.append(source), plain(source))[1])
    audited = audit(dataset, "mnist")
    assert len(opened) == len(set(opened)) == 60
    assert len(audited.categories) == 10
    for each in audited.categories:
        assert each.counts == (3, 3, 27)
        assert each.exact.across == each.exact.leaking == each.exact.leaked == 3  # test is train
    assert len({each.fingerprint for each in audited.categories}) == 10

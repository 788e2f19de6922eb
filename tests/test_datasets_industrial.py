"""MVTec AD, VisA, KSDD, AITEX and folders of one's own, from miniature trees of their layouts."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture
from sklearn.model_selection import train_test_split

from datasets.aitex import AITEX
from datasets.elpv import ELPV
from datasets.folder import Folder
from datasets.ksdd import KSDD
from datasets.mvtec import MVTec
from datasets.visa import VisA
from harness import config
from harness.data.contents import Stamps
from harness.data.images import crop, decode, decode_mask
from harness.interface import Dataset, Sample, content_hash

SHARED = Path(__file__).parents[1] / "../shared/data/mvtec"


def draw(path: Path, array: np.ndarray | int = 0, size: tuple[int, int] = (8, 8)) -> Path:
    """Write a picture: an array (H, W) or (H, W, C), or one grey at (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(array, int):
        array = np.full(size[::-1], array, np.uint8)
    Picture.fromarray(array).save(path)
    return path


def spot(width: int, height: int, left: int, upper: int, value: int = 255) -> np.ndarray:
    """A mask (height, width) that marks one small square."""
    mask = np.zeros((height, width), np.uint8)
    mask[upper : upper + 4, left : left + 4] = value
    return mask


def normals(samples: list[Sample]) -> list[Sample]:
    return [sample for sample in samples if not sample.label]


def anomalies(samples: list[Sample]) -> list[Sample]:
    return [sample for sample in samples if sample.label]


def keeps_its_word(dataset: Dataset) -> None:
    """What the engine relies on, whatever the dataset."""
    for category in dataset.categories():
        train, test = dataset.train(category), dataset.test(category)
        assert train == dataset.train(category)
        assert test == dataset.test(category)
        names = [sample.name for sample in [*train, *test]]
        assert len(set(names)) == len(names)
        assert not any(sample.label for sample in train)
        assert {sample.label for sample in test} == {0, 1}
        for sample in [*train, *test]:
            assert (sample.defect == "good") == (sample.label == 0)
            assert dataset.stamp(sample.image)
            whole = decode(dataset.open(sample.image))
            if sample.box:
                crop(whole, sample.box)
            if sample.mask:
                assert dataset.stamp(sample.mask)
                mask = decode_mask(dataset.open(sample.mask))
                assert mask.shape == whole.shape[:2]
                left, upper, right, lower = sample.box or (0, 0, *whole.shape[1::-1])
                assert mask[upper:lower, left:right].any()


# --- MVTec AD and folders ---------------------------------------------------------------------


@pytest.fixture
def mvtec(tmp_path: Path) -> Path:
    """Two categories, one of them grey, and things that are not part of it."""
    root = tmp_path / "mvtec_anomaly_detection"
    for category in ("screw", "bottle"):
        for name in ("010.png", "002.png"):
            draw(root / category / "train/good" / name)
        draw(root / category / "test/good/000.png")
        draw(root / category / "test/scratch/000.png")
        draw(root / category / "ground_truth/scratch/000_mask.png", spot(8, 8, 2, 2))
    draw(root / "bottle/train/good/._002.png")
    (root / "bottle/train/good/Thumbs.db").write_text("")
    (root / "license.txt").write_text("")
    draw(root / "bottle_resized/train/good/000.png")
    return root


def test_mvtec(mvtec: Path) -> None:
    dataset = MVTec(mvtec)
    assert dataset.categories() == ["bottle", "screw"]
    assert [s.image for s in dataset.train("bottle")] == [
        "bottle/train/good/002.png",
        "bottle/train/good/010.png",
    ]
    assert dataset.test("screw") == [
        Sample("screw/test/good/000.png"),
        Sample(
            "screw/test/scratch/000.png", 1, "screw/ground_truth/scratch/000_mask.png", "scratch"
        ),
    ]
    keeps_its_word(dataset)


def test_official_totals() -> None:
    for cls, totals in ((MVTec, (3629, 467, 1258)), (VisA, (8659, 962, 1200))):
        assert tuple(np.sum(list(cls.counts.values()), axis=0)) == totals
    assert len(MVTec.counts) == 15
    assert len(VisA.counts) == 12


def test_a_folder_above_is_found_and_names_stay(mvtec: Path) -> None:
    assert MVTec(mvtec.parent).train("bottle") == MVTec(mvtec).train("bottle")
    held = (mvtec / "bottle/train/good/002.png").read_bytes()
    assert MVTec(str(mvtec)).stamp("bottle/train/good/002.png") == content_hash(held)


@pytest.mark.parametrize("cls", [MVTec, VisA, KSDD, AITEX, ELPV, Folder])
def test_another_tree_is_refused_in_one_line(cls: type[Dataset], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"is not the dataset; expected .+") as caught:
        cls(root=tmp_path / "empty").categories()
    assert "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError, match="no folder"):
        cls(root=tmp_path / "absent").categories()


def test_category_that_is_not_there(mvtec: Path) -> None:
    with pytest.raises(ValueError, match=r"no category 'cable' in .*; there are bottle, screw"):
        MVTec(mvtec).train("cable")


def test_empty_part_is_refused(mvtec: Path) -> None:
    for path in (mvtec / "screw/train/good").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match=r"no pictures in .*screw/train/good"):
        MVTec(mvtec).train("screw")


@pytest.mark.skipif(not SHARED.is_dir(), reason="no ../shared/data/mvtec")
def test_mvtec_as_distributed() -> None:
    dataset = MVTec(SHARED)
    for category, kinds in (("bottle", 3), ("pill", 7)):
        test = dataset.test(category)
        counted = (len(dataset.train(category)), len(normals(test)), len(anomalies(test)))
        assert counted == MVTec.counts[category]
        assert all(sample.mask for sample in anomalies(test))
        assert len({sample.defect for sample in anomalies(test)}) == kinds


def test_object_names_come_from_the_table_or_the_category(mvtec: Path) -> None:
    assert MVTec(mvtec).object_name("metal_nut") == "metal nut"
    assert VisA(mvtec).object_name("pcb3") == "printed circuit board"


def test_folder_with_names_of_its_own(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.JPeG"):
        draw(tmp_path / "gear/normal" / name)
    draw(tmp_path / "gear/queries/ok/1.bmp")
    draw(tmp_path / "gear/queries/dent/1.tif")
    draw(tmp_path / "gear/queries/dent/2.tif")
    draw(tmp_path / "gear/marks/dent/1.png", spot(8, 8, 0, 0))
    dataset = Folder(
        tmp_path, train="normal", test="queries", normal="ok", masks="marks", mask="{stem}"
    )
    assert dataset.categories() == ["gear"]
    assert [s.image for s in dataset.train("gear")] == ["gear/normal/a.JPeG", "gear/normal/b.PNG"]
    assert [(s.label, s.defect, s.mask) for s in dataset.test("gear")] == [
        (1, "dent", "gear/marks/dent/1.png"),
        (1, "dent", None),
        (0, "good", None),
    ]
    keeps_its_word(dataset)
    with pytest.raises(ValueError, match=r"'{stem}'\. Got 'mask'"):
        Folder(tmp_path, mask="mask")


def test_folder_that_is_itself_a_category(mvtec: Path) -> None:
    dataset = Folder(mvtec / "screw")
    assert dataset.categories() == ["screw"]
    assert dataset.train("screw")[0].image == "train/good/002.png"
    keeps_its_word(dataset)


# --- VisA -------------------------------------------------------------------------------------


@pytest.fixture
def visa(tmp_path: Path) -> Path:
    """Names of three and of four digits; masks of small numbers; one object is not on disk."""
    rows = ["object,split,label,image,mask"]
    for name, digits in (("candle", 4), ("pcb1", 3)):
        for number in range(4):
            image = f"{name}/Data/Images/Normal/{number:0{digits}d}.JPG"
            draw(tmp_path / image)
            rows.append(f"{name},{'test' if number == 1 else 'train'},normal,{image},")
        image, mask = f"{name}/Data/Images/Anomaly/000.JPG", f"{name}/Data/Masks/Anomaly/000.png"
        draw(tmp_path / image, size=(12, 8))
        draw(tmp_path / mask, spot(12, 8, 3, 2, value=1))
        rows.append(f"{name},test,anomaly,{image},{mask}")
    rows.append("fryum,train,normal,fryum/Data/Images/Normal/000.JPG,")
    (tmp_path / "split_csv").mkdir()
    (tmp_path / "split_csv/1cls.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


def test_visa_follows_the_table(visa: Path) -> None:
    dataset = VisA(visa)
    assert dataset.categories() == ["candle", "pcb1"]
    assert [s.image[-8:] for s in dataset.train("candle")] == ["0000.JPG", "0002.JPG", "0003.JPG"]
    assert [s.image[-8:] for s in dataset.test("pcb1")] == ["/001.JPG", "/000.JPG"]
    mask = anomalies(dataset.test("pcb1"))[0].mask
    assert mask == "pcb1/Data/Masks/Anomaly/000.png"
    assert decode_mask(dataset.open(mask)).sum() == 16
    keeps_its_word(dataset)


def test_visa_names_what_is_missing(visa: Path) -> None:
    (visa / "candle/Data/Images/Normal/0002.JPG").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of the files .* candle .*Normal/0002.JPG"):
        VisA(visa).train("candle")
    (visa / "split_csv/1cls.csv").write_text("object,split\n")
    with pytest.raises(ValueError, match=r"expected the columns object, .* Got object, split"):
        VisA(visa).categories()


# --- KSDD -------------------------------------------------------------------------------------


def ksdd(root: Path, boxes: bool = False) -> Path:
    """Twelve commutators of eight surfaces, one of each with a defect in its middle band."""
    for item in range(1, 13):
        for part in range(8):
            height = 40 + part % 2  # bands are not all of one height
            place = root / f"kos{item:02d}" / f"Part{part}"
            draw(place.with_suffix(".jpg"), 60 + part, size=(12, height))
            mask = np.zeros((height, 12), np.uint8)
            if part == item % 8:
                mask = np.zeros_like(mask) if boxes else spot(12, height, 4, 18)
                if boxes:
                    mask[16:24, 2:11] = 1
            draw(place.with_name(f"Part{part}_label.bmp"), mask)
    return root


@pytest.mark.parametrize("boxes", [False, True])
def test_ksdd_bands(tmp_path: Path, boxes: bool) -> None:
    dataset = KSDD(ksdd(tmp_path / "KolektorSDD", boxes))
    train, test = dataset.train("ksdd"), dataset.test("ksdd")
    assert len(anomalies(test)) == 12
    assert len(train) + len(normals(test)) == 12 * 8 * 3 - 12  # clean bands of defects are kept
    assert len(normals(test)) == 69  # a quarter of 276
    assert {s.box for s in anomalies(test)} == {(0, 13, 12, 26), (0, 13, 12, 27)}
    assert train[0].group == "kos01"
    heights = Counter(s.image for s in [*train, *test])
    assert set(heights.values()) == {3}
    keeps_its_word(dataset)


def test_ksdd_normals_are_split_in_byte_order(tmp_path: Path) -> None:
    dataset = KSDD(ksdd(tmp_path))
    clean = sorted(
        [*dataset.train("ksdd"), *normals(dataset.test("ksdd"))],
        key=lambda s: (s.image.encode(), s.box),
    )
    train, test = train_test_split(clean, test_size=0.25, random_state=42)
    assert {s.name for s in dataset.train("ksdd")} == {s.name for s in train}
    assert {s.name for s in normals(dataset.test("ksdd"))} == {s.name for s in test}


def test_ksdd_by_item_shares_none(tmp_path: Path) -> None:
    dataset = KSDD(ksdd(tmp_path), split="item")
    train, test = dataset.train("ksdd"), dataset.test("ksdd")
    assert not {s.group for s in train} & {s.group for s in test}
    assert len({s.group for s in train}) == 3
    assert len(test) == 9 * 8 * 3  # every band of the others
    with pytest.raises(ValueError, match=r"split: expected one of published, item. Got 'kos'"):
        config.build("dataset", "ksdd", {"root": tmp_path, "split": "kos"})


def test_ksdd_surface_without_mask_is_clean_and_said(tmp_path: Path) -> None:
    ksdd(tmp_path)
    (tmp_path / "kos02/Part2_label.bmp").unlink()  # the defective one
    dataset = KSDD(tmp_path)
    assert len(anomalies(dataset.test("ksdd"))) == 11
    assert dataset.remarks("ksdd") == [
        "1 surfaces have no mask and count as clean: kos02/Part2.jpg"
    ]


def test_ksdd_mask_of_another_size_is_refused(tmp_path: Path) -> None:
    ksdd(tmp_path)
    draw(tmp_path / "kos02/Part2_label.bmp", size=(12, 39))
    with pytest.raises(ValueError, match=r"Part2_label.bmp: .* 12 x 40. Got 12 x 39"):
        KSDD(tmp_path).train("ksdd")


# --- AITEX ------------------------------------------------------------------------------------

FABRICS = {"2306881-210020u": "05", "2306894-210033u": "02"}


def aitex(root: Path, mirrored: bool) -> Path:
    """Two fabrics of eight strips and an oddly named ninth; five defective strips."""
    nested = (lambda name: f"{name}/{name}") if mirrored else (lambda name: name)
    for folder, code in FABRICS.items():
        for number in range(1, 9):
            place = root / f"NODefect_images/{folder}/{number:04d}_000_{code}.png"
            draw(place, number, size=(1024, 256))
    draw(root / "NODefect_images/2306881-210020u/0008_00_05.png", 8, size=(1024, 256))
    images, masks = root / nested("Defect_images"), root / nested("Mask_images")
    for name, width in (
        ("0001_002_05", 1024),
        ("0002_019_02", 1000),
        ("0003_030_02", 1024),
        ("0004_099_02", 1024),
        ("0005_036_05", 1024),
    ):
        draw(images / f"{name}.png", 90, size=(width, 256))
    draw(masks / "0001_002_05_mask.png", spot(1024, 256, 254, 100))  # across two tiles
    draw(masks / "0002_019_02_mask1.png", spot(1000, 256, 900, 100))
    draw(masks / "0002_019_02_mask2.png", spot(1000, 256, 10, 100))
    draw(masks / "0004_099_02_mask.png", spot(1024, 256, 600, 0))
    draw(masks / "0005_036_05_mask.png", spot(1024, 256, 600, 0))
    return root


@pytest.mark.parametrize("mirrored", [False, True])
def test_aitex_tiles(tmp_path: Path, mirrored: bool) -> None:
    dataset = AITEX(aitex(tmp_path, mirrored))
    train, test = dataset.train("aitex"), dataset.test("aitex")
    assert (len(train), len(normals(test))) == (51, 17)  # 17 strips of 4 tiles
    assert [(s.image[-15:], s.defect, s.box) for s in anomalies(test)] == [
        ("0001_002_05.png", "Broken_end", (0, 0, 256, 256)),
        ("0001_002_05.png", "Broken_end", (256, 0, 512, 256)),
        ("0002_019_02.png", "Fuzzyball", (0, 0, 256, 256)),
        ("0002_019_02.png", "Fuzzyball", (768, 0, 1000, 256)),  # the last one is narrower
        ("0004_099_02.png", "099", (512, 0, 768, 256)),
        ("0005_036_05.png", "Weft_crack", (512, 0, 768, 256)),
    ]
    assert dataset.remarks("aitex") == [
        "1 defective strips have no mask and are left out: 0003_030_02.png"
    ]
    keeps_its_word(dataset)


def test_aitex_unites_two_masks(tmp_path: Path) -> None:
    dataset = AITEX(aitex(tmp_path, True))
    both = anomalies(dataset.test("aitex"))[2].mask or ""
    folder = "Mask_images/Mask_images/0002_019_02_mask"
    assert both == f"{folder}1.png|{folder}2.png"
    assert decode_mask(dataset.open(both)).sum() == 32
    united = dataset.open(both)
    assert Stamps(dataset)[both] == dataset.stamp(both) == content_hash(united)


def test_aitex_order_is_folders_then_files_then_tiles(tmp_path: Path) -> None:
    dataset = AITEX(aitex(tmp_path, False))
    strips = sorted((tmp_path / "NODefect_images").glob("*/*.png"), key=lambda p: str(p).encode())
    tiles = [(path.name, left) for path in strips for left in range(0, 1024, 256)]
    _, test = train_test_split(tiles, test_size=0.25, random_state=42)
    placed = {(Path(s.image).name, s.box[0]) for s in normals(dataset.test("aitex")) if s.box}
    # the two fabrics have no file name in common, so names are enough to tell tiles apart
    assert placed == set(test)


def test_aitex_by_source_shares_none(tmp_path: Path) -> None:
    dataset = AITEX(aitex(tmp_path, True), split="source")
    train, test = dataset.train("aitex"), normals(dataset.test("aitex"))
    assert not {s.group for s in train} & {s.group for s in test}
    assert len(train) + len(test) == 68
    for folder in FABRICS:  # two of the eight numbers of each fabric
        numbers = {Path(s.image).name[:4] for s in test if folder in s.image}
        assert len(numbers) == 2
    sides = {Path(s.image).name: side for side in (train, test) for s in side}
    assert sides["0008_000_05.png"] is sides["0008_00_05.png"]  # twins stay together

"""OCT2017, RESC, BrainMRI and HeadCT, from miniature trees with the quirks of their layouts."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture

from datasets.brainmri import BrainMRI
from datasets.headct import HeadCT
from datasets.oct2017 import OCT2017
from datasets.resc import RESC
from harness import config
from harness.data.images import decode, decode_mask
from harness.interface import Dataset, Sample


def draw(path: Path, seed: int = 0, mode: str = "L", size: tuple[int, int] = (24, 20)) -> None:
    """Write a picture of random blocks in a Pillow mode; one seed, one picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    blocks = np.random.default_rng(seed).integers(0, 256, (4, 4), dtype=np.uint8)
    picture = Picture.fromarray(blocks).resize(size, Picture.Resampling.NEAREST)
    if mode == "I;16":
        Picture.fromarray(np.asarray(picture).astype(np.uint16) << 8).save(path)
    else:
        picture.convert(mode).save(path)


def split(samples: list[Sample]) -> tuple[list[Sample], list[Sample]]:
    """Normal and anomalous."""
    return [s for s in samples if not s.label], [s for s in samples if s.label]


@pytest.mark.parametrize("cls", [OCT2017, RESC, BrainMRI, HeadCT])
def test_another_tree_is_refused_in_one_line(cls: type[Dataset], tmp_path: Path) -> None:
    draw(tmp_path / "train/cat/1.png")
    with pytest.raises(ValueError, match=r"is not the dataset; expected .+") as caught:
        cls(root=tmp_path).categories()
    assert "\n" not in str(caught.value)


# --- OCT2017 ----------------------------------------------------------------------------------


@pytest.fixture
def kermany(tmp_path: Path) -> Path:
    """Folders as Kaggle unpacks them: one level down, a blank in the name, and a validation set."""
    root = tmp_path / "kermany2018/OCT2017 "
    for patient, number in ((10, 1), (10, 2), (9, 1), (77, 1), (500, 1)):
        draw(root / f"train/NORMAL/NORMAL-{patient}-{number}.jpeg", patient)
    draw(root / "train/CNV/CNV-10-1.jpeg")
    draw(root / "val/NORMAL/NORMAL-4-1.jpeg")
    draw(root / "test/NORMAL/NORMAL-77-2.jpeg")
    for disease, patient in (("CNV", 9), ("DME", 3), ("DRUSEN", 2)):
        draw(root / f"test/{disease}/{disease}-{patient}-1.jpeg")
    return root


def test_oct2017(kermany: Path) -> None:
    dataset = OCT2017(kermany.parent, split="published")
    assert dataset.shares_groups
    assert [s.image for s in dataset.train("oct2017")] == [
        f"train/NORMAL/NORMAL-{name}.jpeg" for name in ("10-1", "10-2", "500-1", "77-1", "9-1")
    ]
    normal, diseased = split(dataset.test("oct2017"))
    assert [s.image for s in normal] == ["test/NORMAL/NORMAL-77-2.jpeg"]
    assert [(s.defect, s.group) for s in diseased] == [("CNV", "9"), ("DME", "3"), ("DRUSEN", "2")]
    assert dataset.remarks("oct2017") == []
    assert decode(dataset.open(normal[0].image)).shape == (20, 24, 3)


def test_oct2017_by_patient(kermany: Path) -> None:
    dataset = OCT2017(kermany)  # the default
    assert not dataset.shares_groups
    assert {s.group for s in dataset.train("oct2017")} == {"10", "500"}
    assert dataset.test("oct2017") == OCT2017(kermany, split="published").test("oct2017")
    (line,) = dataset.remarks("oct2017")
    assert line.startswith("2 train scans left out: their patient is in test")


def test_oct2017_as_bmad_arranges_it(tmp_path: Path) -> None:
    root = tmp_path / "Retina_OCT2017_AD"
    draw(root / "train/good/img/NORMAL-1-1.jpeg")
    draw(root / "test/good/img/NORMAL-2-1.jpeg")
    draw(root / "test/Ungood/img/DME-3-1.jpeg")
    dataset = OCT2017(root)
    assert [s.image for s in dataset.train("oct2017")] == ["train/good/img/NORMAL-1-1.jpeg"]
    assert [s.defect for s in dataset.test("oct2017")] == ["good", "DME"]


def test_oct2017_without_diseases_is_refused(kermany: Path) -> None:
    for disease in ("CNV", "DME", "DRUSEN"):
        (kermany / "test" / disease).rename(kermany / f"was {disease}")
    with pytest.raises(ValueError, match="no diseased scans"):
        OCT2017(kermany).test("oct2017")


# --- RESC -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("train", "good", "ungood", "masks"),
    [
        ("train/good/img", "test/good/img", "test/Ungood/img", "test/Ungood/anomaly_mask"),
        ("train/good/img", "test/good/img", "test/Ungood/img", "test/Ungood/label"),
        ("Train/good", "Test/img/good", "Test/img/Ungood", "Test/label/Ungood"),
        ("train/good", "test/good/img", "test/ungood/img", "test/ungood/label"),
    ],
)
def test_resc(tmp_path: Path, train: str, good: str, ungood: str, masks: str) -> None:
    for volume, number in ((1, 3), (1, 20), (12, 7)):
        draw(tmp_path / train / f"{volume}_{number}.png")
    draw(tmp_path / good / "1_001.png")
    draw(tmp_path / ungood / "1_002.bmp", 3)
    draw(tmp_path / masks / "1_002.png", 3)
    draw(tmp_path / "valid/good/img/1_003.png")
    dataset = RESC(tmp_path)
    assert [(s.image, s.group) for s in dataset.train("resc")] == [
        (f"{train}/12_7.png", "train 12"),  # "2" is before "_"
        (f"{train}/1_20.png", "train 1"),
        (f"{train}/1_3.png", "train 1"),
    ]
    assert dataset.test("resc") == [
        Sample(f"{good}/1_001.png", group="test 1"),
        Sample(f"{ungood}/1_002.bmp", 1, f"{masks}/1_002.png", "oedema", "test 1"),
    ]
    assert decode_mask(dataset.open(f"{masks}/1_002.png")).any()
    assert dataset.stamp(f"{masks}/1_002.png")


# --- BrainMRI ---------------------------------------------------------------------------------

TESTED = [
    "1 no.jpeg",
    "13 no.jpg",
    "2 no.jpeg",
    "21 no.jpg",
    "24 no.jpg",
    "27 no.jpg",
    "30 no.jpg",
    "34 no.jpg",
    "39 no.jpg",
    "46 no.jpg",
    "47 no.jpg",
    "49 no.jpg",
    "50 no.jpg",
    "8 no.jpg",
    "N1.JPG",
    "N6.jpg",
    "No12.jpg",
    "No16.jpg",
    "No18.jpg",
    "No21.jpg",
    "no 1.jpg",
    "no 5.jpeg",
    "no 7.jpeg",
    "no 923.jpg",
    "no 97.jpg",
]


def brain(root: Path) -> Path:
    """98 normals, of which those that the published split tests have their real names.

    The others are named so that they sort behind the name before them.
    """
    chosen = sorted(np.random.RandomState(42).permutation(98)[:25].tolist())
    names: list[str] = []
    for name, position, following in zip(TESTED, chosen, [*chosen[1:], 98], strict=True):
        names += [name, *(f"{name} {n}.PNG" for n in range(following - position - 1))]
    assert len(names) == 98
    for number, name in enumerate(names):
        mode = ("L", "RGB", "RGBA", "P", "LA", "I;16")[number % 6]
        draw(root / "no" / name, number, mode if name.endswith("PNG") else "RGB")
    for number in range(155):
        draw(root / "yes" / f"Y{number}.{('jpg', 'JPG', 'jpeg', 'png')[number % 4]}", 1000 + number)
    return root


def test_brainmri_tests_the_published_normals(tmp_path: Path) -> None:
    dataset = BrainMRI(brain(tmp_path / "brain_tumor_dataset"))
    normal, tumour = split(dataset.test("brainmri"))
    assert [Path(s.image).name for s in normal] == TESTED
    assert len(dataset.train("brainmri")) == 73
    assert len(tumour) == 155
    for sample in [*dataset.train("brainmri"), *dataset.test("brainmri")]:
        assert decode(dataset.open(sample.image)).shape == (20, 24, 3)


def test_brainmri_deduplicated(tmp_path: Path) -> None:
    brain(tmp_path)
    copied = sorted((tmp_path / "no").iterdir())[0]
    small = Picture.open(copied).resize((48, 40))
    for number in range(6):  # near copies: another size, another file
        small.save(tmp_path / "no" / f"zz{number}.png")
    (tmp_path / "yes/Z.png").write_bytes((tmp_path / "yes/Y3.png").read_bytes())
    assert len(BrainMRI(tmp_path).train("brainmri")) == 78
    dataset = BrainMRI(tmp_path, split="deduplicated")
    normal, tumour = split(dataset.test("brainmri"))
    names = [Path(s.image).name for s in [*dataset.train("brainmri"), *normal]]
    assert len(names) == 98
    assert copied.name in names
    assert not any(name.startswith("zz") for name in names)
    assert len(tumour) == 155
    with pytest.raises(ValueError, match=r"split: expected one of published, deduplicated\."):
        config.build("dataset", "brainmri", {"root": tmp_path, "split": "unique"})


# --- HeadCT -----------------------------------------------------------------------------------


@pytest.fixture
def head(tmp_path: Path) -> Path:
    """200 slices, some with alpha; labels.csv has a blank in its header."""
    lines = ["id, hemorrhage"]
    for number in range(200):
        mode = "RGBA" if number % 17 == 0 else "L"
        draw(tmp_path / f"head_ct/head_ct/{number:03d}.png", number, mode)
        lines.append(f"{number},{int(number < 100)}")
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_headct(head: Path) -> None:
    dataset = HeadCT(head)
    normal, bleeding = split(dataset.test("headct"))
    assert [int(Path(s.image).stem) for s in normal] == [
        *(100, 104, 110, 112, 118, 122, 126, 130, 131, 133, 139, 142, 144, 145, 153, 155),
        *(169, 170, 173, 176, 177, 180, 183, 188, 190),
    ]
    assert len(dataset.train("headct")) == 75
    assert Counter(s.defect for s in bleeding) == {"hemorrhage": 100}
    assert dataset.train("headct")[0].image == "head_ct/head_ct/101.png"
    assert decode(dataset.open(bleeding[17].image)).shape == (20, 24, 3)


def test_headct_errors_name_the_file(head: Path) -> None:
    (head / "head_ct/head_ct/123.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"lists 123, .*head_ct/head_ct/123.png"):
        HeadCT(head).train("headct")
    for text in ("0,1\n1,0\n", "id,hemorrhage\n0,2\n", "id,hemorrhage\n0\n", ""):
        (head / "labels.csv").write_text(text)
        with pytest.raises(ValueError, match=r"labels.csv: expected a header"):
            HeadCT(head).train("headct")


def test_sets_of_bmad_are_told_apart(tmp_path: Path) -> None:
    """Where a data root holds several trees, none is taken for another."""
    draw(tmp_path / "oct/train/good/img/NORMAL-1-1.jpeg")
    draw(tmp_path / "oct/test/good/img/NORMAL-2-1.jpeg")
    draw(tmp_path / "oct/test/Ungood/img/DME-3-1.jpeg")
    with pytest.raises(ValueError, match=r"RESC: .* is not the dataset"):
        RESC(tmp_path).categories()
    chest = tmp_path / "chest"
    for name in ("train/good/7.png", "test/good/8.png", "test/Ungood/9.png"):
        draw(chest / name)
    for cls in (RESC, OCT2017):
        with pytest.raises(ValueError, match="is not the dataset"):
            cls(chest).categories()


def test_headct_found_from_a_folder_above(head: Path) -> None:
    assert HeadCT(head.parent).train("headct") == HeadCT(head).train("headct")

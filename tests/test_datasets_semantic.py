"""MNIST and CIFAR-10: idx files, python batches, folders of pictures; one class against others."""

from __future__ import annotations

import gzip
import pickle
import struct
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture

from datasets.cifar10 import CIFAR10
from datasets.mnist import MNIST
from harness.data.images import decode
from harness.interface import Dataset

SHARED = Path(__file__).parents[1] / "../shared/data/mnist"
RNG = np.random.default_rng(0)
LABELS = {"train": [3, 0, 1, 0, 9, 0], "t10k": [0, 1, 9, 0]}
PIXELS = {
    part: RNG.integers(0, 256, (len(labels), 28, 28), dtype=np.uint8)
    for part, labels in LABELS.items()
}


def idx(root: Path, dot: bool = False, zipped: bool = True) -> Path:
    """Write a small MNIST as idx files."""
    root.mkdir(parents=True, exist_ok=True)
    for part, labels in LABELS.items():
        for kind, array in (("images", PIXELS[part]), ("labels", np.array(labels, np.uint8))):
            head = struct.pack(f">{array.ndim + 1}I", 0x800 + array.ndim, *array.shape)
            name = f"{part}-{kind}{'.' if dot else '-'}idx{array.ndim}-ubyte"
            contents = head + array.tobytes()
            if zipped:
                (root / f"{name}.gz").write_bytes(gzip.compress(contents))
            else:
                (root / name).write_bytes(contents)
    return root


@pytest.mark.parametrize(("dot", "zipped"), [(False, True), (False, False), (True, False)])
def test_mnist_from_idx_files(tmp_path: Path, dot: bool, zipped: bool) -> None:
    dataset = MNIST(idx(tmp_path / "MNIST/raw", dot, zipped).parent)
    assert dataset.categories() == ["0", "1", "3", "9"]
    file = f"train-images{'.' if dot else '-'}idx3-ubyte{'.gz' if zipped else ''}"
    assert [s.image for s in dataset.train("0")] == [f"{file}#{n}" for n in (1, 3, 5)]
    assert [(s.label, s.defect) for s in dataset.test("1")] == [
        (1, "0"),
        (0, "good"),
        (1, "9"),
        (1, "0"),
    ]
    np.testing.assert_array_equal(dataset.open(f"{file}#4"), PIXELS["train"][4])
    assert decode(dataset.open(f"{file}#4")).shape == (28, 28, 3)


def test_pixels_are_held_once_for_all_classes_and_threads(tmp_path: Path) -> None:
    dataset = MNIST(idx(tmp_path))
    arrays: list[np.ndarray] = []
    threads = [
        threading.Thread(target=lambda c=c: arrays.append(dataset.open(dataset.test(c)[0].image)))
        for c in ("0", "1", "3", "9")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(arrays) == 4
    assert all(np.shares_memory(arrays[0], array) for array in arrays)
    with pytest.raises(ValueError, match="read-only"):
        arrays[0][0, 0] = 1


def test_stamp_follows_the_pixels(tmp_path: Path) -> None:
    before = MNIST(idx(tmp_path))
    sources = [s.image for s in before.test("0")]
    stamps = [before.stamp(source) for source in sources]
    assert len(set(stamps)) == 4
    PIXELS["t10k"][2, 5, 5] ^= 1
    after = MNIST(idx(tmp_path))
    changed = [
        before != after.stamp(source) for before, source in zip(stamps, sources, strict=True)
    ]
    PIXELS["t10k"][2, 5, 5] ^= 1
    assert changed == [False, False, True, False]


def test_dataset_travels_without_its_pixels(tmp_path: Path) -> None:
    for dataset in (MNIST(idx(tmp_path / "m")), CIFAR10(batches(tmp_path / "c"))):
        category = dataset.categories()[0]
        dataset.open(dataset.test(category)[0].image)
        sent = pickle.dumps(dataset)
        assert len(sent) < 3000
        assert pickle.loads(sent).test(category) == dataset.test(category)


def test_mnist_from_folders(tmp_path: Path) -> None:
    for part, digits in (("training", "001"), ("testing", "0012")):
        for number, digit in enumerate(digits):
            place = tmp_path / "mnist_png" / part / digit / f"{number}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Picture.fromarray(PIXELS["train"][number]).save(place)
    dataset = MNIST(tmp_path)
    assert dataset.categories() == ["0", "1"]
    assert [s.image for s in dataset.train("0")] == ["training/0/0.png", "training/0/1.png"]
    assert [s.label for s in dataset.test("0")] == [0, 0, 1, 1]
    np.testing.assert_array_equal(decode(dataset.open("training/1/2.png"))[..., 0],
                                  PIXELS["train"][2])  # fmt: skip


def test_damaged_idx_files_are_named(tmp_path: Path) -> None:
    root = idx(tmp_path)
    labels, pixels = root / "train-labels-idx1-ubyte.gz", root / "train-images-idx3-ubyte.gz"
    whole = labels.read_bytes()
    labels.write_bytes(whole[:-6])
    with pytest.raises(ValueError, match=r"train-labels-idx1-ubyte.gz: expected an idx file"):
        MNIST(root).categories()
    labels.write_bytes(gzip.compress(struct.pack(">2I", 0x801, 2) + b"\0\1"))
    with pytest.raises(ValueError, match=r"a picture for each of 2 labels. Got 6"):
        MNIST(root).categories()
    labels.write_bytes(whole)
    pixels.write_bytes(whole)
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte.gz: expected an idx file"):
        MNIST(root).categories()


@pytest.mark.skipif(not SHARED.is_dir(), reason="no ../shared/data/mnist")
def test_mnist_whole() -> None:
    dataset = MNIST(SHARED)
    assert dataset.categories() == list("0123456789")
    for digit, official in MNIST.counts.items():
        anomalous = sum(s.label for s in dataset.test(digit))
        counted = (len(dataset.train(digit)), len(dataset.test(digit)) - anomalous, anomalous)
        assert counted == official
    assert dataset.object_name("3") == "handwritten digit three"


# --- CIFAR-10 ---------------------------------------------------------------------------------


def batches(root: Path, protocol: int = 2) -> Path:
    """Write a small CIFAR-10 as python batches: planes of red, green, blue, row by row."""
    root.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate([*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]):
        pixels = np.arange(3, dtype=np.uint8)[None, :, None, None] * 50 + np.uint8(number)
        pixels = np.broadcast_to(pixels, (4, 3, 32, 32)).copy()
        pixels[:, 0, 0, 1] = 255
        batch = {b"labels": [0, 9, number % 10, 3], b"data": pixels.reshape(4, -1),
                 b"batch_label": b"a", b"filenames": [b"x.png"] * 4}  # fmt: skip
        with (root / name).open("wb") as file:
            pickle.dump(batch, file, protocol=protocol)
    return root


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_cifar10_from_batches(tmp_path: Path, protocol: int) -> None:
    dataset = CIFAR10(batches(tmp_path / "cifar-10-batches-py", protocol))
    assert dataset.categories() == ["airplane", "automobile", "bird", "cat", "deer", "truck"]
    assert [s.image for s in dataset.train("cat")] == [
        *("data_batch_1#3", "data_batch_2#3", "data_batch_3#3"),
        *("data_batch_4#2", "data_batch_4#3", "data_batch_5#3"),
    ]
    assert [(s.label, s.defect) for s in dataset.test("truck")] == [
        (1, "airplane"),
        (0, "good"),
        (1, "dog"),
        (1, "cat"),
    ]
    with pytest.raises(ValueError, match="read-only"):
        np.asarray(dataset.open("test_batch#0"))[0] = 1
    pixels = decode(dataset.open("test_batch#0"))
    assert pixels.shape == (32, 32, 3)
    assert pixels[0, 0].tolist() == [5, 55, 105]
    assert pixels[0, 1].tolist() == [255, 55, 105]


def test_cifar10_reads_what_python_2_wrote(tmp_path: Path) -> None:
    """The official batches name numpy's function where it used to be, in protocol 2, as bytes."""
    batches(tmp_path)
    path = tmp_path / "test_batch"
    contents = path.read_bytes()
    assert b"numpy._core.multiarray" in contents
    path.write_bytes(contents.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert len(CIFAR10(tmp_path).test("cat")) == 4


def test_cifar10_runs_nothing_that_a_file_names(tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (tmp_path / "harmed",)

    batches(tmp_path)
    for thing in ({b"data": Harm(), b"labels": []}, [1, 2], {1: 2}, {b"data": 3}):
        (tmp_path / "test_batch").write_bytes(pickle.dumps(thing))
        with pytest.raises(ValueError, match="test_batch: expected a batch of CIFAR-10"):
            CIFAR10(tmp_path).test("cat")
    assert not (tmp_path / "harmed").exists()


def test_cifar10_from_folders(tmp_path: Path) -> None:
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            place = tmp_path / "cifar10" / part / name / "0001.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Picture.fromarray(np.zeros((32, 32, 3), np.uint8)).save(place)
    dataset = CIFAR10(tmp_path)
    assert dataset.categories() == ["cat", "dog"]
    assert [s.label for s in dataset.test("dog")] == [1, 0]
    (tmp_path / "cifar10/test/cat/0001.png").rename(tmp_path / "cifar10/test/cat/0001.jpg")
    with pytest.raises(ValueError, match=r"test/cat/0001.jpg: expected lossless pictures"):
        CIFAR10(tmp_path).test("dog")


@pytest.mark.parametrize("cls", [MNIST, CIFAR10])
def test_another_tree_is_refused_in_one_line(cls: type[Dataset], tmp_path: Path) -> None:
    (tmp_path / "train/zebra").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"is not the dataset; expected .+") as caught:
        cls(root=tmp_path).categories()
    assert "\n" not in str(caught.value)

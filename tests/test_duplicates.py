"""Duplicates: of bytes, of tiles, and near ones by a naive correlation of thumbnails."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image as Picture

from datasets.elpv import ELPV
from harness.data import duplicates
from harness.data import thumbnails as near
from harness.errors import DataError
from harness.interface import Dataset, Sample


class Files(Dataset):
    """The samples it is given; remembers which sources were opened."""

    def __init__(self, root: Path, train: list[Sample], test: list[Sample]) -> None:
        self.root, self.samples, self.opened = root, (train, test), set[str]()

    def categories(self) -> list[str]:
        return ["thing"]

    def train(self, category: str) -> list[Sample]:
        return self.samples[0]

    def test(self, category: str) -> list[Sample]:
        return self.samples[1]

    def open(self, source: str) -> bytes | NDArray[np.uint8]:
        self.opened.add(source)
        return super().open(source)


def draw(path: Path, seed: int, size: int = 64, shift: int = 0) -> None:
    """A smooth random picture; the same seed at another size or brightness is a near duplicate."""
    blocks = np.random.default_rng(seed).integers(20, 200, (4, 4), dtype=np.uint8)
    picture = Picture.fromarray(blocks).resize((size, size), Picture.Resampling.BICUBIC)
    Picture.fromarray(np.asarray(picture) + np.uint8(shift)).save(path)


def pictures(root: Path, *seeds: int) -> list[Sample]:
    for seed in seeds:
        draw(root / f"{seed}.png", seed)
    return [Sample(f"{seed}.png") for seed in seeds]


def test_copies_of_bytes(tmp_path: Path) -> None:
    train, test = pictures(tmp_path, 1, 2, 3), pictures(tmp_path, 11, 12)
    for name, number in (("4.png", 11), ("5.png", 2)):
        (tmp_path / name).write_bytes((tmp_path / f"{number}.png").read_bytes())
        train.append(Sample(name))
    dataset = Files(tmp_path, train, test)
    assert duplicates.twins_in_test(dataset, "thing", False) == {"4.png"}
    assert duplicates.twins_in_train(dataset, "thing", False) == {
        "2.png": "2.png",
        "5.png": "2.png",
    }


def test_same_size_is_not_yet_a_copy(tmp_path: Path) -> None:
    for name, value in (("a.png", 1), ("b.png", 2)):
        Picture.fromarray(np.full((8, 8), value, np.uint8)).save(tmp_path / name)
    assert (tmp_path / "a.png").stat().st_size == (tmp_path / "b.png").stat().st_size
    dataset = Files(tmp_path, [Sample("a.png")], [Sample("b.png")])
    assert duplicates.twins_in_test(dataset, "thing", False) == set()


def test_test_image_listed_as_train_is_caught(tmp_path: Path) -> None:
    shared = pictures(tmp_path, 1, 2)
    dataset = Files(tmp_path, shared, shared[1:])
    assert duplicates.twins_in_test(dataset, "thing", False) == {"2.png"}


def test_elpv_has_no_copies() -> None:
    assert duplicates.twins_in_test(ELPV(), "elpv", False) == set()
    assert duplicates.twins_in_train(ELPV(), "elpv", False) == {}


def test_tiles_of_copied_strips(tmp_path: Path) -> None:
    draw(tmp_path / "a.png", 1)
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes())
    left, right = (0, 0, 32, 64), (32, 0, 64, 64)
    train = [Sample("a.png", box=left), Sample("a.png", box=right)]
    dataset = Files(tmp_path, train, [Sample("b.png", box=right)])
    assert duplicates.twins_in_test(dataset, "thing", False) == {train[1].name}


def test_tiles_are_equal_by_their_pixels_whatever_strip_they_are_of(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    strips = rng.integers(0, 256, (3, 16, 64), dtype=np.uint8)
    strips[1, :, 48:] = strips[0, :, :16]  # another place of another strip
    strips[2, :, :16] = strips[2, :, 16:32] = 0  # two black tiles of one strip
    for name, strip in zip("abc", strips, strict=True):
        Picture.fromarray(strip).save(tmp_path / f"{name}.png")
    boxes = [(x, 0, x + 16, 16) for x in range(0, 64, 16)]
    train = [Sample(f"{name}.png", box=box) for name in "ac" for box in boxes]
    dataset = Files(tmp_path, train, [Sample("b.png", box=box) for box in boxes])
    black = [sample.name for sample in train[4:6]]
    for _ in range(2):  # read, then remembered
        assert duplicates.twins_in_test(dataset, "thing", False) == {train[0].name}
        same = duplicates.twins_in_train(dataset, "thing", False)
        assert same == dict.fromkeys(black, black[0])


def test_near_duplicates(tmp_path: Path) -> None:
    train, test = pictures(tmp_path, *range(8)), pictures(tmp_path, *range(20, 25))
    draw(tmp_path / "larger.png", 22, 160)
    draw(tmp_path / "lighter.jpg", 3, 64, 40)
    train += [Sample("larger.png"), Sample("lighter.jpg")]
    dataset = Files(tmp_path, train, test)
    assert duplicates.twins_in_test(dataset, "thing", False) == set()
    assert duplicates.twins_in_test(dataset, "thing", True) == {"larger.png"}
    assert duplicates.twins_in_train(dataset, "thing", True) == {
        "3.png": "3.png",
        "lighter.jpg": "3.png",
    }


def test_look_opens_a_strip_once_and_names_what_it_cannot_read(tmp_path: Path) -> None:
    draw(tmp_path / "a.png", 1)
    boxes = [(x, 0, x + 16, 64) for x in range(0, 64, 16)]
    dataset = Files(tmp_path, [Sample("a.png", box=box) for box in boxes], [])
    seen = duplicates.look(dataset, dataset.train(""))
    assert [one.size for one in seen.values()] == [(16, 64)] * 4
    assert len({one.contents for one in seen.values()}) == 1
    assert len({one.identity for one in seen.values()}) == 4
    (tmp_path / "a.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"a.png in .*: not a picture"):
        duplicates.look(dataset, dataset.train(""))
    (tmp_path / "a.png").unlink()
    with pytest.raises(DataError, match=r"a.png in .*No such file"):
        duplicates.look(dataset, dataset.train(""))


@given(st.integers(0, 10_000), st.integers(2, 40), st.booleans())
def test_alike_is_what_numpy_correlates(seed: int, n: int, blocked: bool) -> None:
    rng = np.random.default_rng(seed)
    bases = rng.integers(0, 256, (3, 256))
    thumbnails = np.clip(bases[rng.integers(0, 3, n)] + rng.normal(0, 6, (n, 256)), 0, 255)
    thumbnails = thumbnails.astype(np.uint8)
    thumbnails[0] = 7  # correlates with nothing
    with np.errstate(invalid="ignore", divide="ignore"):
        correlated = np.corrcoef(thumbnails) > 0.995
    rows = near.unit(thumbnails)
    sizes = near._ROWS, near._COLUMNS
    try:
        if blocked:
            near._ROWS, near._COLUMNS = 3, 7
        pairs = {p for block in near.alike(rows) for p in zip(*map(list, block), strict=True)}
        half = n // 2
        across = {
            p
            for block in near.alike(rows[:half], rows[half:])
            for p in zip(*map(list, block), strict=True)
        }
    finally:
        near._ROWS, near._COLUMNS = sizes
    assert pairs == {(i, j) for i in range(n) for j in range(i + 1, n) if correlated[i, j]}
    assert across == {(i, j - half) for i, j in pairs if i < half <= j}


@given(st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), max_size=30))
def test_joined_finds_the_components(pairs: list[tuple[int, int]]) -> None:
    labels = np.arange(20)
    for start in range(0, len(pairs), 7):  # as they come, block by block
        first, second = np.array(pairs[start : start + 7], np.intp).T
        labels = near.joined(labels, first, second)
    parents = [{i} for i in range(20)]
    for _ in range(20):
        for i, j in pairs:
            parents[i] = parents[j] = parents[i] | parents[j]
    for i in range(20):
        assert set(np.flatnonzero(labels == labels[i])) == parents[i]


def test_thumbnail_is_grey_and_smooth() -> None:
    ramp = np.tile(np.linspace(0, 255, 300).astype(np.uint8)[None, :, None], (200, 1, 3))
    small = near.thumbnail(ramp).reshape(16, 16)
    np.testing.assert_allclose(small, np.tile((np.arange(16) + 0.5) / 16 * 255, (16, 1)), atol=4)
    picture = Picture.fromarray(ramp)
    for mode in ("L", "P", "RGBA", "LA"):
        np.testing.assert_allclose(
            near.thumbnail(picture.convert(mode)).reshape(16, 16).astype(int), small, atol=4
        )
    deep = Picture.fromarray(ramp[..., 0].astype(np.uint16) << 8)
    np.testing.assert_array_equal(near.thumbnail(deep), small.reshape(-1))

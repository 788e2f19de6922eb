"""MNIST: each digit against the nine others."""

from __future__ import annotations

import gzip
import math
import re
import struct
import zlib
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from datasets._one_versus_rest import Labelled, OneVersusRest, by_class, parted

_WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
_FILE = re.compile(r"(train|t10k)-(images|labels)[.-]idx[13]-ubyte(\.gz)?", re.IGNORECASE)
_PARTS = {"train": ("train", "training"), "test": ("t10k", "testing", "test")}


class MNIST(OneVersusRest):
    """MNIST in idx files, plain or gzipped, or as PNG folders ``training/<digit>``, ``testing``.

    LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document recognition",
    Proceedings of the IEEE 1998.

    Parameters
    ----------
    root : str or Path
        Folder of ``train-images-idx3-ubyte`` and its three companions, or of the PNG folders.
    """

    folders = ("mnist", "mnist_png", "mnist-png")
    domain = "semantic"
    licence = "commonly given as CC BY-SA 3.0"
    homepage = "http://yann.lecun.com/exdb/mnist/"
    layout = "train-images-idx3-ubyte(.gz) and companions, or training/<digit> and testing/<digit>"
    counts: ClassVar = {
        "0": (5923, 980, 9020),
        "1": (6742, 1135, 8865),
        "2": (5958, 1032, 8968),
        "3": (6131, 1010, 8990),
        "4": (5842, 982, 9018),
        "5": (5421, 892, 9108),
        "6": (5918, 958, 9042),
        "7": (6265, 1028, 8972),
        "8": (5851, 974, 9026),
        "9": (5949, 1009, 8991),
    }
    objects: ClassVar = {
        str(digit): f"handwritten digit {word}" for digit, word in enumerate(_WORDS)
    }
    orientation = True

    def _recognises(self, folder: Path) -> bool:
        return len(_found(folder)) == 4 or all(
            parted(folder, self.counts, *names) for names in _PARTS.values()
        )

    def _labelled(self, part: str) -> Labelled:
        stem, *_ = _PARTS[part]
        files = _found(self.base)
        if len(files) < 4:
            place = parted(self.base, self.counts, *_PARTS[part])
            assert place is not None  # the tree was recognised
            return by_class(self.base, place)
        file = files[stem, "images"]
        labels = _idx(self.base / files[stem, "labels"], 1)
        pictures = len(self._held(file))
        if pictures != len(labels):
            raise ValueError(
                f"{self.base / file}: expected a picture for each of {len(labels)} labels. "
                f"Got {pictures}."
            )
        return [(f"{file}#{index}", str(label)) for index, label in enumerate(labels)]

    def _stack(self, file: str) -> NDArray[np.uint8]:
        return _idx(self.base / file, 3)


def _found(folder: Path) -> dict[tuple[str, str], str]:
    """Names of the idx files by (train or t10k, images or labels); plain before gzipped."""
    files: dict[tuple[str, str], str] = {}
    for path in sorted(folder.iterdir(), reverse=True):
        matched = _FILE.fullmatch(path.name)
        if matched and path.is_file():
            files[matched[1].lower(), matched[2].lower()] = path.name
    return files


def _idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """Read an idx file of bytes: two zeros, the type 8, the dimensions, their sizes, the data."""
    try:
        contents = path.read_bytes()
        if path.suffix.lower() == ".gz":
            contents = gzip.decompress(contents)
        kind, *shape = struct.unpack_from(f">{dimensions + 1}I", contents)
    except (EOFError, gzip.BadGzipFile, struct.error, zlib.error) as error:
        raise ValueError(f"{path}: expected an idx file. Got a damaged one: {error}.") from None
    body = len(contents) - 4 * (dimensions + 1)
    if kind != 0x800 + dimensions or body != math.prod(shape):
        raise ValueError(
            f"{path}: expected an idx file of {dimensions} dimensions. Got the number {kind:#x}, "
            f"sizes {shape} and {body} bytes."
        )
    return np.frombuffer(contents, np.uint8, offset=4 * (dimensions + 1)).reshape(shape)

"""CIFAR-10: each class against the nine others."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from datasets._one_versus_rest import Labelled, OneVersusRest, by_class, parted

_CLASSES = [
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
]
_BATCHES = {"train": [f"data_batch_{n}" for n in range(1, 6)], "test": ["test_batch"]}
_DAMAGED = (  # what unpickling and reading a file that is no batch can raise
    AttributeError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
)


class CIFAR10(OneVersusRest):
    """CIFAR-10 in its python batches, or as lossless pictures in folders by class.

    Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009. Copies as JPEG
    circulate; their artefacts change scores, so they are refused.

    Parameters
    ----------
    root : str or Path
        Folder of ``data_batch_1`` ... ``test_batch``, or of ``train/<class>`` and ``test/<class>``.
    """

    folders = ("cifar10", "cifar-10", "cifar-10-batches-py", "cifar10-pngs-in-folders")
    domain = "semantic"
    licence = "none stated"
    homepage = "https://www.cs.toronto.edu/~kriz/cifar.html"
    layout = "data_batch_1 ... data_batch_5 and test_batch, or train/<class> and test/<class>"
    counts: ClassVar = dict.fromkeys(_CLASSES, (5000, 1000, 9000))
    orientation = True

    def __init__(self, root: str | Path) -> None:
        super().__init__(root)
        self._labels: dict[str, list[int]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_labels": {}}

    def _recognises(self, folder: Path) -> bool:
        return _batched(folder) or all(parted(folder, self.counts, part) for part in _BATCHES)

    def _labelled(self, part: str) -> Labelled:
        if _batched(self.base):
            labelled: Labelled = []
            for file in _BATCHES[part]:
                self._held(file)  # leaves the labels
                labelled += [
                    (f"{file}#{i}", _CLASSES[label]) for i, label in enumerate(self._labels[file])
                ]
            return labelled
        place = parted(self.base, self.counts, part)
        assert place is not None  # the tree was recognised
        labelled = by_class(self.base, place)
        for source, _ in labelled:
            if source.lower().endswith((".jpg", ".jpeg")):
                raise ValueError(
                    f"{self.base / source}: expected lossless pictures such as PNG. Got a JPEG."
                )
        return labelled

    def _stack(self, file: str) -> NDArray[np.uint8]:
        path = self.base / file
        try:
            batch = _Batch(io.BytesIO(path.read_bytes()), encoding="bytes").load()
            named = {key if isinstance(key, str) else key.decode(): batch[key] for key in batch}
            data, labels = named["data"], named["labels"]
            pixels = np.asarray(data, np.uint8).reshape(-1, 3, 32, 32)
            if len(labels) != len(pixels) or not set(labels) <= set(range(len(_CLASSES))):
                raise ValueError("labels and pictures do not match")
        except _DAMAGED as error:
            raise ValueError(f"{path}: expected a batch of CIFAR-10: {error}") from None
        self._labels[file] = list(labels)
        return np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))


class _Batch(pickle.Unpickler):
    """Loads plain containers and numpy arrays, and runs nothing else that a file may name."""

    def find_class(self, module: str, name: str) -> Any:
        """The names that an array needs; an error for any other."""
        allowed: dict[tuple[str, str], Any] = {
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
            ("numpy", "_reconstruct"): _reconstruct,
            ("numpy", "_frombuffer"): _frombuffer,
            ("_codecs", "encode"): _encode,
        }
        package = module.partition(".")[0]
        if (module in ("numpy", "_codecs") or name.startswith("_")) and (package, name) in allowed:
            return allowed[package, name]
        raise pickle.UnpicklingError(f"the file names {module}.{name}")


def _reconstruct(kind: type, shape: tuple[int, ...], code: bytes) -> NDArray[Any]:
    """Stand in for numpy's function, which moved between versions: an array yet to be filled."""
    return np.ndarray.__new__(np.ndarray, shape, code.decode())


def _frombuffer(
    data: bytes, dtype: np.dtype[Any], shape: tuple[int, ...], order: str
) -> NDArray[Any]:
    """Stand in for numpy's function of protocol 5: an array over the bytes."""
    return np.frombuffer(data, dtype).reshape(shape, order="F" if order == "F" else "C")


def _encode(text: str, encoding: str | bytes) -> bytes:
    """How protocol 2 writes bytes."""
    return text.encode(encoding if isinstance(encoding, str) else encoding.decode())


def _batched(folder: Path) -> bool:
    return all((folder / file).is_file() for files in _BATCHES.values() for file in files)

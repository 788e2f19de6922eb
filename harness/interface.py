"""All that a plug-in author reads: three kinds of plug-in and what they exchange with the engine.

A plug-in is one class in one file. Its parameters are the named keywords of ``__init__``, which
keeps them and loads nothing. The engine seeds python, numpy and torch before every call. Images are
uint8 RGB; scores and maps are float32 and higher means more anomalous.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, SupportsFloat

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]  # (H, W, 3) RGB
Arrays = dict[str, NDArray[Any]]  # what a plug-in learned; stored without pickle


@dataclass(frozen=True, slots=True)
class Sample:
    """One image of a dataset, by reference: names and labels, never pixels."""

    image: str  # source of the pixels, relative to the dataset's root; see Dataset.open
    label: int = 0  # 0 normal, 1 anomalous
    mask: str | None = None  # source of the defect mask, same shape as the image's source
    defect: str = "good"  # kind of defect
    group: str = ""  # the physical thing it shows (item, patient, strip), "" when unknown
    box: tuple[int, int, int, int] | None = None  # left, upper, right, lower: a tile of the source

    @property
    def name(self) -> str:
        """The image's name within its dataset: its source, and its box if it is a tile."""
        return self.image if self.box is None else f"{self.image}@{','.join(map(str, self.box))}"


def content_hash(contents: bytes | NDArray[Any]) -> str:
    """32 hexadecimal digits of blake2b: of bytes, or of an array's type, shape and values."""
    hashed = hashlib.blake2b(digest_size=16)
    if isinstance(contents, np.ndarray):
        hashed.update(f"{contents.dtype.str} {contents.shape}\n".encode())
        contents = np.ascontiguousarray(contents).tobytes()
    hashed.update(contents)
    return hashed.hexdigest()


#: takes (step, steps, figures, file); what it hears is shown to the user
Listen = Callable[[int, int, Mapping[str, SupportsFloat], str], None]
_listeners: list[Listen] = []


def progress(
    step: int,
    steps: int,
    figures: Mapping[str, SupportsFloat] | None = None,
    file: str = "",
) -> None:
    """Tell how far long work is: call it at every step of a training, of images made, and the like.

    Terminal and logs show it with the rate, every few seconds at most. Call it as often as you
    like: nothing is computed in between, and nothing at all outside a sweep.

    Parameters
    ----------
    step : done so far, 1 to ``steps``
    steps : in all
    figures : such as {"loss": loss}; numbers, or tensors of one element, which are read (a GPU is
        waited for) only when they are shown
    file : name of a file that is downloaded, whose bytes are the steps
    """
    for listener in _listeners:
        listener(step, steps, figures or {}, file)


def listen(listener: Listen) -> None:
    """Have one listener, and no other, told of all progress in this process: for the engine."""
    _listeners[:] = [listener]


class Dataset(ABC):
    """Paths and labels of a public dataset, read as people have it on disk.

    An adapter that reads files takes a ``root`` keyword; the engine fills it with the folder found
    under the data root by one of ``folders``. Raise ``ValueError`` or ``FileNotFoundError`` with
    one clear line when the tree is not the dataset.
    """

    folders: ClassVar[tuple[str, ...]] = ()  # names the folder goes by under the data root
    domain: ClassVar[str] = ""  # industrial, medical, semantic
    licence: ClassVar[str] = ""
    homepage: ClassVar[str] = ""
    #: official numbers per category: (train normals, test normals, test anomalies)
    counts: ClassVar[Mapping[str, tuple[int, int, int]]] = {}
    orientation: ClassVar[bool] = False  # True where a flip or rotation makes an image abnormal
    #: True where the published partition has images of one group in train and test: supports are
    #: drawn of them all the same, and counted. Otherwise such images are never drawn.
    shares_groups: bool = False
    threshold: int = 0  # a mask marks what is above it
    root: Path | None = None

    @abstractmethod
    def categories(self) -> list[str]:
        """Names of the categories, sorted."""

    @abstractmethod
    def train(self, category: str) -> list[Sample]:
        """Normal images to draw supports from, in a stable order."""

    @abstractmethod
    def test(self, category: str) -> list[Sample]:
        """Queries, normal and anomalous, in a stable order."""

    def object_name(self, category: str) -> str:
        """Words for prompts: "metal nut" for metal_nut."""
        return category.replace("_", " ")

    def file(self, source: str) -> Path | None:
        """The file whose bytes ``open`` returns; None where a source is no file of its own."""
        return Path(self.root or ".") / source

    def open(self, source: str) -> bytes | NDArray[Any]:
        """Contents of a source: an encoded picture file, or decoded pixels.

        Pixels are (H, W) or (H, W, C), uint8 or uint16; in a mask what is above ``threshold`` is
        defect. Where sources are files, ``file`` is what to override.
        """
        path = self.file(source)
        if path is None:
            raise FileNotFoundError(f"{type(self).__name__} has no source {source!r}")
        return path.read_bytes()

    def stamp(self, source: str) -> str:
        """What equal contents have in common and others have not: a hash of them.

        It is part of every key. Files are hashed by the engine, which remembers them; it asks here
        where a source is no file. Override it only where pixels follow from something shorter, as
        those of a renderer do from its version, its parameters and the source.
        """
        return content_hash(self.open(source))


class Image:
    """An image as methods see it: ``pixels`` and a ``key`` that says nothing about its label.

    Parameters
    ----------
    key : str
        Equal keys mean equal pixels; a hash for images of a dataset.
    pixels : uint8 ndarray of shape (H, W, 3), or a function that decodes it on first use
    """

    __slots__ = ("_pixels", "key")

    def __init__(self, key: str, pixels: Pixels | Callable[[], Pixels]) -> None:
        self.key = key
        self._pixels = pixels

    @property
    def pixels(self) -> Pixels:
        """Pixels, uint8 (H, W, 3) RGB, read-only. A function is asked anew each time."""
        return self._pixels() if callable(self._pixels) else self._pixels

    def __repr__(self) -> str:
        return f"Image({self.key!r})"


@dataclass(frozen=True)
class Support:
    """The k normal images of a cell, and what a generator made of them when the cell names one."""

    images: tuple[Image, ...]
    object_name: str = "object"
    seed: int = 0
    pool: tuple[Image, ...] = ()  # support + generated images; empty without a generator
    customized: Arrays = field(default_factory=dict)  # the generator's state; empty without one
    orientation: bool = False  # of their dataset: a flip or rotation makes an image abnormal

    @property
    def normals(self) -> tuple[Image, ...]:
        """Every anomaly-free image at hand: the pool, or the support where there is none."""
        return self.pool or self.images


@dataclass(frozen=True)
class Queries:
    """A shard of a category's test images, in an order that says nothing about labels."""

    images: tuple[Image, ...]
    personalized: tuple[Image, ...] = ()  # one per image where the method declares ``personalized``
    maps: bool = True  # False: image scores are enough


@dataclass(frozen=True)
class Prediction:
    """What a method says of N queries. Any finite range will do: scores are only ranked."""

    scores: NDArray[np.float32]  # (N,)
    maps: NDArray[np.float32] | None = None  # (N, h, w), any h and w; stretched over the image
    parts: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)  # name -> (N,)
    part_maps: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)  # name -> (N, h, w)


@dataclass(frozen=True)
class AuxiliaryCategory:
    """A category a method may train on: never one of the tested dataset."""

    name: str
    object_name: str
    train: tuple[Image, ...]  # normal
    test: tuple[Image, ...]
    labels: NDArray[np.int64]  # (len(test),) 0 normal, 1 anomalous
    masks: Callable[[int], NDArray[np.bool_] | None]  # index into test -> (H, W), None without mask


@dataclass(frozen=True)
class Auxiliary:
    """What ``Method.train`` gets. ``shots`` is None unless the method trains once per shots."""

    categories: tuple[AuxiliaryCategory, ...]
    shots: int | None
    seed: int
    dataset: str = ""  # name of the adapter that they are of
    held_out: str = ""  # the tested category, where all others of its dataset are trained on


class Features(Protocol):
    """A worker's memory, shared by all its plug-ins: nothing costly is computed twice."""

    def get_or_compute(
        self,
        space: str,
        images: Sequence[Image],
        compute: Callable[[Sequence[Image]], Sequence[Any]],
        batch: int = 1,
    ) -> list[Any]:
        """One record per image, from memory or from ``compute`` on ``batch`` images at a time.

        ``space`` names everything the record depends on besides the image (encoder, weights,
        size, layers). Records are arrays, tensors or containers of them; when memory is full the
        ones longest unused go.
        """

    def get_or_create(self, name: str, compute: Callable[[], Any]) -> Any:
        """A thing that all plug-ins of this worker share under this name, such as weights."""


class Method(ABC):
    """An anomaly detector. Calls come in the order setup, [load,] then fit and predict per cell.

    What it declares stands in its class, or is set in ``__init__`` where it depends on parameters.
    """

    shots: range = range(1, 1_000_000)  # sizes of support it takes; 0 is zero-shot
    generator: bool = False  # cannot work without a generator's pool
    personalized: bool = False  # wants Queries.personalized; implies a generator
    auxiliary: bool = False  # trains beforehand: ``train`` and ``load``
    auxiliary_per_shots: bool = False  # ... one state for each number of shots
    #: ... and one for each seed, so that runs differ by training as by support; False where
    #: training draws nothing at random
    auxiliary_per_seed: bool = True
    trained_on: tuple[str, ...] = ()  # datasets that its weights have seen: never tested on them
    gpus: float = 0.0  # share of a GPU it needs when the cluster has GPUs
    deterministic: bool = True  # same input, same bits
    note: str = ""  # a caveat printed under every table it appears in
    #: packages that take seconds to import, which workers load as they start; None: of those the
    #: engine knows, all that the method's modules name anywhere, needed this time or not
    preload: tuple[str, ...] | None = None

    def files(self) -> Sequence[Path]:
        """Local files, besides code, that results depend on (weights): part of every key."""
        return ()

    def setup(self, device: str, features: Features) -> None:  # noqa: B027 - optional hook
        """Once per process: load weights to ``device`` ("cpu", "cuda"); keep ``features``."""

    def train(self, auxiliary: Auxiliary) -> Arrays:
        """Learn from the auxiliary categories. Only called when ``auxiliary`` is declared."""
        raise NotImplementedError

    def load(self, state: Arrays) -> None:
        """Take back what ``train`` returned, perhaps in another process."""
        raise NotImplementedError

    @abstractmethod
    def fit(self, support: Support) -> None:
        """Learn the support and forget every earlier one."""

    @abstractmethod
    def predict(self, queries: Queries) -> Prediction:
        """Score the queries, each on its own: no query may change another's score."""


@dataclass(frozen=True)
class Personalized:
    """One-to-normal images of N queries."""

    images: NDArray[np.uint8]  # (N, H, W, 3)
    prompts: tuple[str, ...] = ()  # the prompts tried, P of them
    chosen: NDArray[np.int64] | None = None  # (N,) index of the prompt kept
    similarity: NDArray[np.float32] | None = None  # (N, P) of each prompt's image to its query


class Generator(ABC):
    """A text-to-image model customized on a support; methods read the images it makes."""

    prior: bool = False  # ``prepare`` makes something shared by all supports of an object
    #: parameters that ``generate`` reads and ``prepare`` and ``customize`` do not, and those that
    #: ``personalize`` does: other values of them share what the others made. One that both read is
    #: in both; one that is in neither is taken to change everything
    generate_parameters: tuple[str, ...] = ()
    personalize_parameters: tuple[str, ...] = ()
    gpus: float = 1.0
    deterministic: bool = True
    note: str = ""

    def files(self) -> Sequence[Path]:
        """Local files, besides code, that results depend on (weights): part of every key."""
        return ()

    def setup(self, device: str, features: Features) -> None:  # noqa: B027 - optional hook
        """Once per process: load the base model."""

    def prepare(self, object_name: str, seed: int) -> Arrays:
        """Made once per object name for all shots and seeds, if ``prior``: prior images."""
        raise NotImplementedError

    @abstractmethod
    def customize(self, support: Support, prior: Arrays) -> Arrays:
        """Fine-tune on the support; the state is what changed, never the base."""

    @abstractmethod
    def load(self, state: Arrays, support: Support) -> None:
        """Take back a state, perhaps in another process."""

    @abstractmethod
    def generate(self, n: int, seed: int) -> Sequence[Pixels]:
        """``n`` anomaly-free images; the engine adds the support to make the pool."""

    @abstractmethod
    def personalize(self, images: Sequence[Image], seed: int) -> Personalized:
        """The one-to-normal image of each query, each on its own, whatever the others are."""

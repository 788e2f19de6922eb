"""What a payload refers to: images, datasets, plug-ins and supports, each as plain values.

They travel from the driver to workers: no pixels, and labels only where evaluation needs them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

from harness.interface import Sample

Role = Literal["method", "generator"]
Box = tuple[int, int, int, int]  # left, upper, right, lower: a tile of its source


class Source(NamedTuple):
    """An image of a dataset; nothing in it tells its label."""

    image: str
    box: Box | None
    key: str

    @property
    def sample(self) -> Sample:
        """The sample, as far as it is known."""
        return Sample(self.image, box=self.box)


class Truth(NamedTuple):
    """An image of a dataset, and what its score and map are compared to."""

    image: str
    box: Box | None
    key: str
    label: int
    mask: str | None
    defect: str
    group: str

    @property
    def sample(self) -> Sample:
        """The sample with its labels."""
        return Sample(self.image, self.label, self.mask, self.defect, self.group, self.box)


@dataclass(frozen=True, slots=True)
class CodeUse:
    """The code of a plug-in as it was when the sweep was planned."""

    source: str  # hash of what it says
    files: tuple[str, ...]  # that it is in, below one folder
    contents: str  # hash of these files


@dataclass(frozen=True, slots=True)
class DatasetUse:
    """A dataset as a worker opens it."""

    use: str
    params: Mapping[str, Any]
    code: CodeUse | None = None  # None: nobody looks whether it was changed


@dataclass(frozen=True, slots=True)
class AuxiliaryUse:
    """Categories of a dataset to train on."""

    id: str  # hash of all that training on them depends on
    dataset: DatasetUse
    categories: tuple[str, ...]
    object_names: Mapping[str, str]
    held_out: str = ""  # the tested category, where all others of its dataset are trained on


@dataclass(frozen=True, slots=True)
class PluginUse:
    """A method or generator as a worker makes it."""

    role: Role
    use: str
    params: Mapping[str, Any]
    id: str  # equal where code, parameters and weights are
    imports: tuple[str, ...] = ()  # heavy libraries that its modules name
    code: CodeUse | None = None  # None: nobody looks whether it was changed


@dataclass(frozen=True, slots=True)
class SupportUse:
    """The normal images of a cell, and the artifacts that a generator made of them."""

    dataset: DatasetUse
    images: tuple[Source, ...]
    object_name: str
    seed: int
    pool: str | None = None  # key of the images added by a generator
    customized: str | None = None  # key of the generator's state


class Context(Protocol):
    """What tasks look up in their sweep to write their payloads."""

    threads: int
    maps: bool  # wanted of methods
    gallery: int  # queries shown at each end of the ranking
    evaluation_size: int

    def method(self, index: int) -> PluginUse:
        """The sweep's method of this index."""

    def generator(self, name: str) -> PluginUse:
        """The sweep's generator of this name."""

    def auxiliary(self, name: str) -> AuxiliaryUse:
        """The auxiliary data of this name."""

    def support(
        self,
        category: int,
        shots: int,
        seed: int,
        pool: str | None = None,
        customized: str | None = None,
    ) -> SupportUse:
        """The support drawn of a category, with the artifacts that belong to it."""

    def dataset(self, category: int) -> DatasetUse:
        """The dataset of a category."""

    def queries(self, category: int, shard: int) -> tuple[Source, ...]:
        """Queries of a shard."""

    def truth(self, category: int) -> tuple[Truth, ...]:
        """Queries of all shards, in their order."""

    def masked(self, category: int) -> bool:
        """Whether some query of a category has a mask."""

    def places(self, key: str) -> tuple[str, ...]:
        """Where in the sweep's folder the files go of the cells whose result has this key."""

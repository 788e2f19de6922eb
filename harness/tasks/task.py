"""What a task is: a node of the graph, and the payload that a worker gets of it.

A task of the graph is small, for there may be a million: it refers to categories, methods and
generators by index or name. When a worker gets it, it becomes a payload, in which all that is
looked up.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from harness.tasks.references import Context, PluginUse, Role


class Sizes(NamedTuple):
    """A category, as costs depend on it."""

    shards: tuple[int, ...]  # queries in each
    masked: bool  # maps are kept


class Amounts(NamedTuple):
    """How much a task has to do with; the units of the cost table."""

    image: int = 0  # queries, or images to generate
    support: int = 0  # reference images
    pool: int = 0  # reference and generated images
    masked: bool = False  # maps are kept


@dataclass(frozen=True, slots=True, kw_only=True)
class Task(ABC):
    """A node of the graph. Equal keys mean the same artifact."""

    kind: ClassVar[str]
    seconds: ClassVar[float]  # it takes, roughly: for the longest path only proportions matter
    shared: ClassVar[bool] = False  # many tasks read its artifact
    final: ClassVar[bool] = False  # its artifact is a result: quick to make, and awaited
    role: ClassVar[Role | None] = None  # of the plug-in that it runs
    per_query: ClassVar[bool] = False  # its work is to do again for every further query

    key: str
    affinity: str  # tasks of one affinity share queries, features or weights
    #: what seeds its randomness: images, words and seeds, so that the same numbers are drawn
    #: whatever code or parameters do with them; tasks of one key have one draw
    draw: str = ""
    gpus: float = 0.0  # share of a GPU that it asks for

    @property
    @abstractmethod
    def needs(self) -> tuple[str, ...]:
        """Keys of the artifacts that it reads."""

    @property
    def state(self) -> str:
        """Within an affinity, tasks of one state share a customized model or a fitted method."""
        return self.key

    @property
    def plugin(self) -> tuple[Role, int | str] | None:
        """Role of the plug-in that it runs, with the method's index or the generator's name, which
        is in the field of that name.
        """
        return None if self.role is None else (self.role, getattr(self, self.role))

    def amounts(self, sizes: Sequence[Sizes]) -> Amounts:
        """How much it has to do with, given the sizes of the plan's categories."""
        return Amounts()

    @abstractmethod
    def payload(self, context: Context) -> Payload:
        """What a worker is told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Payload:
    """A task as a worker gets it: plain values, all it must know and no more."""

    #: done even where its artifact is there, for it also writes into the sweep's folder
    publishes: ClassVar[bool] = False

    task: Task
    threads: int
    repeat: bool = False  # an audit: what it makes is compared with its artifact, nothing written

    @property
    def plugin(self) -> PluginUse | None:
        """The method or generator that it runs, if any."""
        return None

    @property
    def imports(self) -> tuple[str, ...]:
        """Heavy libraries that its plug-in names."""
        return () if self.plugin is None else self.plugin.imports


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodPayload(Payload):
    """Of tasks that run a method."""

    method: PluginUse

    @property
    def plugin(self) -> PluginUse:
        """The method."""
        return self.method


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratorPayload(Payload):
    """Of tasks that run a generator."""

    generator: PluginUse

    @property
    def plugin(self) -> PluginUse:
        """The generator."""
        return self.generator

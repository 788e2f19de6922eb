"""Sweep to graph: which tasks there are, what each depends on, and the key that names its artifact.

Pure: no files, no torch. Samples, their keys and the hashes of code come in from outside
(``planning.inputs``), so a plan of a hundred thousand cells takes seconds and can be tested bare.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from harness.config.sweep import Sweep
from harness.errors import InputError, Problem, suggest
from harness.interface import Sample
from harness.keys import Cell, hashed
from harness.tasks.kinds import (
    Customize,
    Evaluate,
    Generate,
    Personalize,
    Predict,
    Prepare,
    Train,
)
from harness.tasks.task import Task

#: Part of every key: raised when the engine itself makes something else of the same inputs.
VERSION = 4


@dataclass(frozen=True)
class Reference:
    """A sample with the key of its image, as the engine passes it on."""

    sample: Sample
    key: str
    content: str = ""  # of the key, what is no code: the stamp of its source, and its box


@dataclass(frozen=True)
class Category:
    """A category of a tested dataset as the plan needs it."""

    dataset: str  # label of the dataset in the sweep
    name: str
    object_name: str
    queries: tuple[Reference, ...]  # by hash: the order is no hint of the label
    supports: Mapping[int, tuple[Reference, ...]]  # seed -> as many as the largest shots
    truth: str  # hash of labels and masks of the queries
    masked: bool = False  # some query has a mask
    #: seed -> what each image of its support shares with a query, "" for nothing; no part of a key
    leaks: Mapping[int, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Code:
    """What a plug-in of the sweep is: hash of source, parameters and weights; what it declares."""

    digest: str
    #: of a generator: the same without the parameters that customizing, or one of its two uses,
    #: does not read
    state: str = ""
    generate: str = ""
    personalize: str = ""
    #: what the digests are made of, by who reads it: "" everybody, or one of the two uses
    parts: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    gpus: float = 0.0
    auxiliary: bool = False
    auxiliary_per_shots: bool = False
    auxiliary_per_seed: bool = False
    trained_on: tuple[str, ...] = ()
    personalized: bool = False
    prior: bool = False


@dataclass(frozen=True)
class PlanInputs:
    """Everything the plan needs besides the sweep; see ``harness.planning.inputs``."""

    categories: tuple[Category, ...]
    methods: tuple[Code, ...]  # in the sweep's order
    generators: Mapping[str, Code]
    #: (method label, dataset label, category) -> name and digest of its auxiliary data
    auxiliary: Mapping[tuple[str, str, str], tuple[str, str]] = field(default_factory=dict)
    metrics: str = ""  # hash of the code that evaluates
    judges: Mapping[str, str] = field(default_factory=dict)  # its files, with their hashes


@dataclass(frozen=True)
class Plan:
    """The graph: tasks in an order in which each comes after its needs; and the cells' results."""

    tasks: Mapping[str, Task]
    cells: Mapping[Cell, str]  # cell -> key of its evaluate task


def draw_support(
    train: Sequence[Sample],
    shots: int,
    seed: int,
    *,
    dataset: str = "",
    category: str = "",
    base: int = 0,
    reject: Collection[str] = (),
    identity: Mapping[str, str] | None = None,
) -> list[Sample]:
    """The k normal images of a cell: one permutation per seed, of which k shots take the first k.

    So supports are nested (2 in 4 in 8), distinct, and the same for every method.

    Parameters
    ----------
    train : the category's normal training samples, in their stable order
    shots : how many to draw
    seed : the run
    dataset, category : names, so that two categories of equal size draw differently
    base : seed of the whole sweep
    reject : names of samples never to draw, for they duplicate a test image or share its group
    identity : name -> what equal images share; of those that share it only the first is drawn

    Raises
    ------
    ValueError
        Fewer than ``shots`` samples are left to draw from.
    """
    ids = [zlib.crc32(text.encode(errors="surrogateescape")) for text in (dataset, category)]
    order = np.random.default_rng([base, *ids, seed]).permutation(len(train))
    same = identity or {}
    drawn: list[Sample] = []
    seen: set[str] = set()
    for i in order:
        if len(drawn) == shots:
            break
        sample = train[int(i)]
        what = same.get(sample.name, sample.name)
        if sample.name in reject or what in seen:
            continue
        seen.add(what)
        drawn.append(sample)
    if len(drawn) < shots:
        where = f"{dataset}/{category}: " if dataset or category else ""
        left = f"{len(drawn)} normal training images can be drawn"
        others = "the others are duplicates or of what is tested too"
        duplicates = f" ({len(train)} in all, {others})" if reject or same else ""
        raise ValueError(f"{where}{shots} shots asked for, but {left}{duplicates}")
    return drawn


def shards(n: int, most: int) -> list[slice]:
    """``n`` queries in the fewest slices of at most ``most``, of nearly equal size."""
    count = -(-n // most)
    edges = [round(i * n / count) for i in range(count + 1)] if count else []
    return [slice(a, b) for a, b in itertools.pairwise(edges)]


def shard_queries(category: Category, most: int) -> list[tuple[Reference, ...]]:
    """A category's queries in shards; within one they are ordered by key."""
    parts = (category.queries[part] for part in shards(len(category.queries), most))
    return [tuple(sorted(part, key=lambda r: r.key)) for part in parts]


def cells(sweep: Sweep, categories: Sequence[Category]) -> Iterator[tuple[Cell, int, int]]:
    """Cells of the sweep with the indices of their method and category."""
    for c, category in enumerate(categories):
        for m, method in enumerate(sweep.methods):
            for k in sweep.shots if method.shots is None else method.shots:
                for seed in sweep.seeds:
                    yield Cell(str(method.label), category.dataset, category.name, k, seed), m, c


def plan(
    sweep: Sweep, inputs: PlanInputs, only: Mapping[str, Collection[str]] | None = None
) -> Plan:
    """Graph of the sweep, or of the cells that ``only`` (see ``config.only``) lets through.

    Raises
    ------
    InputError
        A value of ``only`` is in no cell.
    """
    for key, values in (only or {}).items():
        known = {str(getattr(cell, key)) for cell, _, _ in cells(sweep, inputs.categories)}
        for value in sorted(set(values) - known):
            raise InputError(Problem("--only", f"no {key} {value!r}.{suggest(value, known)}"))
    tasks: dict[str, Task] = {}
    results: dict[Cell, str] = {}
    planners = [_Planner(sweep, inputs, c, tasks) for c in range(len(inputs.categories))]
    for cell, m, c in cells(sweep, inputs.categories):
        if any(str(getattr(cell, key)) not in values for key, values in (only or {}).items()):
            continue
        results[cell] = planners[c].add(cell, m)
    return Plan(tasks, results)


class _Planner:
    """Adds the tasks of a category's cells to the graph, those that are not there yet.

    Parameters
    ----------
    category : its index
    tasks : the graph as far as it is made
    """

    def __init__(
        self, sweep: Sweep, inputs: PlanInputs, category: int, tasks: dict[str, Task]
    ) -> None:
        self._sweep, self._inputs, self._index, self._tasks = sweep, inputs, category, tasks
        self._category = inputs.categories[category]
        self._affinity = f"{self._category.dataset}/{self._category.name}"
        parts = shard_queries(self._category, sweep.shard)
        self._shards = [
            (
                i,
                f"{self._affinity}/{i}",
                hashed([r.key for r in part]),
                hashed([r.content for r in part]),
            )
            for i, part in enumerate(parts)
        ]
        self._supports: dict[tuple[int, int], tuple[str, str]] = {}

    def add(self, cell: Cell, m: int) -> str:
        """Add what a cell of the method of index ``m`` needs; key of its evaluate task."""
        entry, code, shots = self._sweep.methods[m], self._inputs.methods[m], cell.shots
        seed = cell.seed if shots else 0  # without a support all seeds are one
        support, draw = self._support(shots, seed)
        category, index = self._category, self._index
        trained = self._train(cell, m) if code.auxiliary else None
        customized = pool = personalized = None
        generated = 0
        if entry.generator is not None and shots:
            generated = self._sweep.generators[entry.generator].added(shots)
            customized, pool = self._customize(entry.generator, shots, seed, generated)
        before = [key for key in (trained, customized, pool) if key is not None]
        predictions = []
        for shard, affinity, queries, contents in self._shards:
            needs = before
            # a zero-shot cell has no support to customize a generator on, hence no such images
            if code.personalized and entry.generator is not None and customized is not None:
                of_support = (shots, seed, generated)
                made_by = (entry.generator, customized)
                personalized = self._personalize(shard, *made_by, *of_support)
                needs = [*before, personalized]
            asked = (self._sweep.maps, self._sweep.gallery, category.masked)
            task = Predict(
                key=_key(Predict, needs, code.digest, support, queries, *asked),
                affinity=affinity,
                draw=draw,
                draw_queries=hashed(draw, contents),
                gpus=code.gpus,
                category=index,
                shots=shots,
                seed=seed,
                generated=generated,
                method=m,
                shard=shard,
                support=support,
                trained=trained,
                customized=customized,
                pool=pool,
                personalized=personalized,
            )
            predictions.append(self._put(task))
        judged = (self._inputs.metrics, self._sweep.evaluation_size, self._sweep.gallery)
        # Methods that differ by label only end in the same key here, and are judged once.
        evaluate = Evaluate(
            key=_key(Evaluate, predictions, category.truth, *judged),
            affinity=self._affinity,
            category=index,
            shots=shots,
            seed=seed,
            generated=generated,
            method=m,
            predictions=tuple(predictions),
        )
        return self._put(evaluate)

    def _put(self, task: Task) -> str:
        return self._tasks.setdefault(task.key, task).key

    def _support(self, shots: int, seed: int) -> tuple[str, str]:
        """Hash of a drawn support and of what a plug-in is told with it; the same without code."""
        if (shots, seed) not in self._supports:
            drawn = self._category.supports[seed][:shots] if shots else ()
            parts = (self._category.object_name, self._sweep.seed, seed)
            keys, contents = [r.key for r in drawn], [r.content for r in drawn]
            self._supports[shots, seed] = hashed(keys, *parts), hashed(contents, *parts)
        return self._supports[shots, seed]

    def _train(self, cell: Cell, m: int) -> str:
        code = self._inputs.methods[m]
        name, digest = self._inputs.auxiliary[cell.method, cell.dataset, cell.category]
        shots = cell.shots if code.auxiliary_per_shots else None
        per_seed = code.auxiliary_per_seed and self._sweep.methods[m].training == "per-seed"
        seed = (cell.seed if cell.shots else 0) if per_seed else None
        task = Train(
            key=_key(Train, (), code.digest, digest, shots, seed, self._sweep.seed),
            affinity=f"auxiliary/{name}",
            draw=hashed(shots, seed, self._sweep.seed),
            gpus=code.gpus,
            method=m,
            auxiliary=name,
            shots=shots,
            seed=seed,
        )
        return self._put(task)

    def _customize(self, name: str, shots: int, seed: int, generated: int) -> tuple[str, str]:
        """Keys of a generator's state for a support, and of what it adds to its pool."""
        code, category = self._inputs.generators[name], self._category
        prepared = None
        if code.prior:
            words = category.object_name
            prepare = Prepare(
                key=_key(Prepare, (), code.state, words, self._sweep.seed),
                affinity=f"prior/{words}",
                draw=hashed(words, self._sweep.seed),
                gpus=code.gpus,
                generator=name,
                object_name=words,
            )
            prepared = self._put(prepare)
        needs = [] if prepared is None else [prepared]
        support, draw = self._support(shots, seed)
        customize = Customize(
            key=_key(Customize, needs, code.state, support),
            affinity=self._affinity,
            draw=draw,
            gpus=code.gpus,
            category=self._index,
            shots=shots,
            seed=seed,
            generated=generated,
            generator=name,
            prepared=prepared,
        )
        generate = Generate(
            key=_key(Generate, [customize.key], code.generate, generated),
            affinity=self._affinity,
            draw=draw,
            gpus=code.gpus,
            category=self._index,
            shots=shots,
            seed=seed,
            generated=generated,
            generator=name,
            customized=customize.key,
        )
        return self._put(customize), self._put(generate)

    def _personalize(
        self, shard: int, name: str, customized: str, shots: int, seed: int, generated: int
    ) -> str:
        code = self._inputs.generators[name]
        _, affinity, queries, _ = self._shards[shard]
        task = Personalize(
            key=_key(Personalize, [customized], code.personalize, queries),
            affinity=affinity,
            draw=self._support(shots, seed)[1],
            gpus=code.gpus,
            category=self._index,
            shots=shots,
            seed=seed,
            generated=generated,
            generator=name,
            customized=customized,
            shard=shard,
        )
        return self._put(task)


def _key(kind: type[Task], needs: Sequence[str], *parts: Any) -> str:
    return hashed(VERSION, kind.kind, needs, *parts)

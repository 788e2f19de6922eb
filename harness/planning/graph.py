"""Sweep to graph: which tasks there are, what each depends on, and the key that names its artifact.

Pure: no files, no torch. Samples, their keys and the hashes of code come in from outside
(``planning.inputs``), so a plan of a hundred thousand cells takes seconds and can be tested bare.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

from harness.config import Sweep
from harness.errors import InputError, Problem, suggest
from harness.interface import Sample
from harness.keys import Cell, hashed

#: Part of every key: raised when the engine itself makes something else of the same inputs.
VERSION = 2

Kind = Literal["train", "prepare", "customize", "generate", "personalize", "predict", "evaluate"]
KINDS: tuple[Kind, ...] = (
    "train",
    "prepare",
    "customize",
    "generate",
    "personalize",
    "predict",
    "evaluate",
)


@dataclass(frozen=True)
class Reference:
    """A sample with the key of its image, as the engine passes it on."""

    sample: Sample
    key: str


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


@dataclass(frozen=True)
class Code:
    """What a plug-in of the sweep is: hash of source, parameters and weights; what it declares."""

    digest: str
    #: of a generator: the same without the parameters that customizing, or one of its two uses,
    #: does not read
    state: str = ""
    generate: str = ""
    personalize: str = ""
    gpus: float = 0.0
    auxiliary: bool = False
    auxiliary_per_shots: bool = False
    auxiliary_per_seed: bool = False
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


class Task(NamedTuple):
    """A node of the graph. Equal keys mean the same artifact."""

    key: str
    kind: Kind
    needs: tuple[str, ...]
    affinity: str  # tasks of one affinity share queries, features or weights
    state: str  # within a affinity, tasks of one state share a customized model or a fitted method
    gpus: float
    method: int = -1  # indices into the sweep's methods and the inputs' categories
    generator: str = ""
    category: int = -1
    shots: int = 0
    seed: int = 0
    shard: int = -1
    auxiliary: str = ""  # name of the auxiliary data


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
    reject : names of samples never to draw, for they duplicate a test image
    identity : name -> what equal images share; of those that share it only the first is drawn

    Raises
    ------
    ValueError
        Fewer than ``shots`` samples are left to draw from.
    """
    ids = [zlib.crc32(text.encode()) for text in (dataset, category)]
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
        duplicates = f" ({len(train)} in all, the others are duplicates)" if reject or same else ""
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
    sweep: Sweep, inputs: PlanInputs, wanted: Mapping[str, Collection[str]] | None = None
) -> Plan:
    """Graph of the sweep, or of the cells that ``wanted`` (see ``config.only``) lets through.

    Raises
    ------
    InputError
        A value that is wanted is in no cell.
    """
    for key, values in (wanted or {}).items():
        known = {str(getattr(cell, key)) for cell, _, _ in cells(sweep, inputs.categories)}
        for value in sorted(set(values) - known):
            raise InputError(Problem("--only", f"no {key} {value!r}.{suggest(value, known)}"))
    tasks: dict[str, Task] = {}
    done: dict[Cell, str] = {}
    digests = [_Digests(sweep, category) for category in inputs.categories]
    for cell, m, c in cells(sweep, inputs.categories):
        if any(str(getattr(cell, key)) not in values for key, values in (wanted or {}).items()):
            continue
        done[cell] = _cell_tasks(sweep, inputs, cell, m, c, tasks, digests[c])
    return Plan(tasks, done)


class _Digests:
    """Hashes of a category's queries and supports, which all its cells share."""

    def __init__(self, sweep: Sweep, category: Category) -> None:
        self._sweep, self._category = sweep, category
        self.shards = [
            hashed([r.key for r in part]) for part in shard_queries(category, sweep.shard)
        ]
        self._supports: dict[tuple[int, int], str] = {}

    def support(self, shots: int, seed: int) -> str:
        """Hash of a drawn support and of what a plug-in is told with it."""
        if (shots, seed) not in self._supports:
            drawn = [r.key for r in self._category.supports[seed][:shots]] if shots else []
            found = hashed(drawn, self._category.object_name, self._sweep.seed, seed)
            self._supports[shots, seed] = found
        return self._supports[shots, seed]


def _cell_tasks(
    sweep: Sweep,
    inputs: PlanInputs,
    cell: Cell,
    m: int,
    c: int,
    tasks: dict[str, Task],
    digests: _Digests,
) -> str:
    """Add the tasks of one cell that are not there yet; key of its evaluate task."""

    def add(kind: Kind, affinity: str, needs: Sequence[str], *parts: Any, **fields: Any) -> str:
        key = hashed(VERSION, kind, needs, *parts)
        if key not in tasks:
            new = {"key": key, "kind": kind, "affinity": affinity, "needs": tuple(needs), **fields}
            tasks[key] = blank._replace(**{"state": key, **new})
        return key

    category, code, entry = inputs.categories[c], inputs.methods[m], sweep.methods[m]
    affinity = f"{category.dataset}/{category.name}"
    shots, seed = cell.shots, cell.seed if cell.shots else 0  # no support: all seeds are one
    blank = Task("", "predict", (), "", "", 0.0, category=c, shots=shots, seed=seed)
    support = digests.support(shots, seed)
    before: list[str] = []
    if code.auxiliary:
        name, digest = inputs.auxiliary[cell.method, cell.dataset, cell.category]
        k = shots if code.auxiliary_per_shots else None
        run = seed if code.auxiliary_per_seed and entry.training == "per-seed" else None
        fields = {"method": m, "auxiliary": name, "gpus": code.gpus}
        fields |= {"shots": k or 0, "seed": run or 0}
        training = (code.digest, digest, k, run, sweep.seed)
        before.append(add("train", f"auxiliary/{name}", (), *training, **fields))
    customize, g = "", Code("")
    if entry.generator is not None and shots:
        g, made = inputs.generators[entry.generator], sweep.generators[entry.generator]
        fields = {"generator": entry.generator, "gpus": g.gpus}
        prior = []
        if g.prior:
            what = category.object_name
            prior = [add("prepare", f"prior/{what}", (), g.state, what, sweep.seed, **fields)]
        customize = add("customize", affinity, prior, g.state, support, **fields)
        n = made.generated if made.generated is not None else max(0, made.pool - shots)
        pool = add("generate", affinity, [customize], g.generate, n, state=customize, **fields)
        before += [customize, pool]
    predicted = []
    for i, keys in enumerate(digests.shards):
        shard = f"{affinity}/{i}"
        needs = list(before)
        if code.personalized and customize:
            new = {"state": customize, "shard": i, "gpus": g.gpus, "generator": entry.generator}
            needs.append(add("personalize", shard, [customize], g.personalize, keys, **new))
        new = {"state": support, "shard": i, "gpus": code.gpus, "method": m}
        new["generator"] = entry.generator or ""
        asked = (code.digest, support, keys, sweep.maps, sweep.gallery, category.masked)
        predicted.append(add("predict", shard, needs, *asked, **new))
    settings = (category.truth, inputs.metrics, sweep.evaluation_size, sweep.gallery)
    return add("evaluate", affinity, predicted, *settings, state="", method=m)

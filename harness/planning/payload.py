"""Looks up in a sweep and its plan what the payloads of tasks are made of."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

from harness import plugins
from harness.config.sweep import Sweep
from harness.keys import Cell, hashed
from harness.planning.graph import Plan, shard_queries
from harness.planning.inputs import SweepInputs
from harness.tasks.kinds import Evaluate, OfSupport, Predict, Train
from harness.tasks.references import (
    AuxiliaryUse,
    CodeUse,
    DatasetUse,
    PluginUse,
    Source,
    SupportUse,
    Truth,
)
from harness.tasks.task import Payload, Task


class Payloads:
    """The ``Context`` of the tasks of one sweep.

    Parameters
    ----------
    sweep, inputs, graph : what was planned
    """

    def __init__(self, sweep: Sweep, inputs: SweepInputs, graph: Plan) -> None:
        self._sweep = sweep
        self._auxiliary = inputs.auxiliary
        self._inputs = inputs.plan_inputs
        self._cells: dict[str, list[Cell]] = {}
        for cell, key in graph.cells.items():
            self._cells.setdefault(key, []).append(cell)
        self._datasets = {str(d.label): d for d in sweep.datasets}
        self._code = cache(_code)
        self.threads = sweep.threads
        self.maps = sweep.maps
        self.gallery = sweep.gallery
        self.evaluation_size = sweep.evaluation_size

    def look(self) -> None:
        """Look at the code of all plug-ins now, for it may be edited while the sweep runs."""
        uses = [("method", m.use) for m in self._sweep.methods]
        uses += [("generator", g.use) for g in self._sweep.generators.values()]
        uses += [("dataset", d.use) for d in self._sweep.datasets]
        uses += [("dataset", a.dataset.use) for a in self._auxiliary.values()]
        for role, use in uses:
            self._code(role, use)

    def write(self, task: Task) -> Payload:
        """The payload for a task."""
        return task.payload(self)

    def cells_of(self, key: str) -> list[Cell]:
        """Cells whose result an evaluate task is; several when methods differ by label only."""
        return self._cells.get(key, [])

    def names(self, task: Task) -> dict[str, Any]:
        """What a task is, for people: its kind, affinity, numbers, and labels of its method,
        generator, dataset and category as far as it has them.
        """
        shown = ("key", "kind", "affinity", "generator", "shots", "seed", "shard")
        names = {name: getattr(task, name) for name in shown if hasattr(task, name)}
        if isinstance(task, Predict):
            names["generator"] = self._sweep.methods[task.method].generator
        if isinstance(task, (Train, Predict, Evaluate)):
            names["method"] = str(self._sweep.methods[task.method].label)
        if isinstance(task, OfSupport):
            category = self._inputs.categories[task.category]
            names |= {"dataset": category.dataset, "category": category.name}
        return {name: value for name, value in names.items() if value is not None}

    def method(self, index: int) -> PluginUse:
        """The sweep's method of this index."""
        entry = self._sweep.methods[index]
        code, heavy = self._code("method", entry.use)
        digest = self._inputs.methods[index].digest
        return PluginUse("method", entry.use, entry.params, digest, heavy, code)

    def generator(self, name: str) -> PluginUse:
        """The sweep's generator of this name."""
        entry = self._sweep.generators[name]
        code, heavy = self._code("generator", entry.use)
        digest = self._inputs.generators[name].digest
        return PluginUse("generator", entry.use, entry.params, digest, heavy, code)

    def auxiliary(self, name: str) -> AuxiliaryUse:
        """The auxiliary data of this name."""
        use = self._auxiliary[name]
        code, _ = self._code("dataset", use.dataset.use)
        return replace(use, dataset=replace(use.dataset, code=code))

    def support(
        self,
        category: int,
        shots: int,
        seed: int,
        pool: str | None = None,
        customized: str | None = None,
    ) -> SupportUse:
        """The support drawn of a category, with the artifacts that belong to it."""
        entry = self._inputs.categories[category]
        drawn = entry.supports[seed][:shots] if shots else ()
        return SupportUse(
            dataset=self.dataset(category),
            images=tuple(Source(r.sample.image, r.sample.box, r.key) for r in drawn),
            object_name=entry.object_name,
            # a sweep's own seed gives plug-ins other seeds, and support images that go with them
            seed=seed if self._sweep.seed == 0 else int(hashed(self._sweep.seed, seed)[:8], 16),
            pool=pool,
            customized=customized,
        )

    def dataset(self, category: int) -> DatasetUse:
        """The dataset of a category."""
        entry = self._datasets[self._inputs.categories[category].dataset]
        return DatasetUse(entry.use, entry.params, self._code("dataset", entry.use)[0])

    def queries(self, category: int, shard: int) -> tuple[Source, ...]:
        """Queries of a shard."""
        part = shard_queries(self._inputs.categories[category], self._sweep.shard)[shard]
        return tuple(Source(r.sample.image, r.sample.box, r.key) for r in part)

    def truth(self, category: int) -> tuple[Truth, ...]:
        """Queries of all shards, in their order."""
        parts = shard_queries(self._inputs.categories[category], self._sweep.shard)
        samples = ((r.sample, r.key) for part in parts for r in part)
        return tuple(
            Truth(s.image, s.box, k, s.label, s.mask, s.defect, s.group) for s, k in samples
        )

    def masked(self, category: int) -> bool:
        """Whether some query of a category has a mask."""
        return self._inputs.categories[category].masked

    def places(self, key: str) -> tuple[str, ...]:
        """Where in the sweep's folder the files go of the cells whose result has this key."""
        return tuple(place_of(self._sweep.name, cell) for cell in self.cells_of(key))


def place_of(sweep: str, cell: Cell) -> str:
    """Where a cell's files go in a sweep's folder; {} stands for the kind of file."""
    where = f"{cell.method}/{cell.dataset}/{cell.category}/k{cell.shots}_s{cell.seed}"
    return f"{sweep}/{{}}/{where}"


def _code(role: str, use: str) -> tuple[CodeUse, tuple[str, ...]]:
    """The code of a plug-in, and the heavy libraries that it imports."""
    source = plugins.source(plugins.find(role, use))
    heavy = tuple(sorted(source.imports & set(plugins.HEAVY)))
    return CodeUse(source.digest, tuple(source.files), source.contents), heavy

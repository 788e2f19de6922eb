"""A task of the plan written out for a worker: plain values, all it must know and no more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness import plugins
from harness.config import Sweep
from harness.keys import Cell, hashed
from harness.planning.graph import Plan, Reference, Task, shard_queries
from harness.planning.inputs import SweepInputs


class Payloads:
    """Writes payloads for the tasks of one sweep.

    Parameters
    ----------
    sweep, inputs, graph : what was planned
    folder : the sweep's folder below the storage root, where results are published
    """

    def __init__(self, sweep: Sweep, inputs: SweepInputs, graph: Plan) -> None:
        self._sweep = sweep
        self._inputs = inputs
        self._graph = graph
        self._cells: dict[str, list[Cell]] = {}
        for cell, key in graph.cells.items():
            self._cells.setdefault(key, []).append(cell)
        self._datasets = {str(d.label): d for d in sweep.datasets}

    def cells_of(self, key: str) -> list[Cell]:
        """Cells whose result an evaluate task is; several when methods differ by label only."""
        return self._cells.get(key, [])

    def names(self, task: Task) -> dict[str, Any]:
        """What a task is, for people: its kind, affinity, numbers, and labels of its method,
        generator, dataset and category as far as it has them.
        """
        shown = ("key", "kind", "affinity", "generator", "shots", "seed", "shard")
        names = {name: getattr(task, name) for name in shown}
        if task.kind in ("train", "predict", "evaluate"):
            names["method"] = str(self._sweep.methods[task.method].label)
        if task.category >= 0 and task.kind not in ("train", "prepare"):
            category = self._inputs.plan_inputs.categories[task.category]
            names |= {"dataset": category.dataset, "category": category.name}
        return names

    def write(self, task: Task) -> dict[str, Any]:
        """The payload for a task."""
        sweep, kind = self._sweep, task.kind
        payload: dict[str, Any] = {
            "key": task.key,
            "kind": kind,
            "threads": sweep.threads,
            "imports": [],
            "customize": "",
            "method": None,
            "generator": None,
            "gallery": sweep.gallery,
        }
        by_kind = {k: key for key in task.needs if (k := self._graph.tasks[key].kind) != "predict"}
        if kind == "evaluate":
            return payload | self._evaluate(task)
        if kind in ("train", "predict"):
            entry, code = sweep.methods[task.method], self._inputs.plan_inputs.methods[task.method]
            use, params = entry.use, entry.params
            payload["method"] = {"use": use, "params": params, "id": code.digest}
            payload["imports"] = _imports("method", use)
        else:
            made = sweep.generators[task.generator]
            digest = self._inputs.plan_inputs.generators[task.generator].digest
            payload["generator"] = {"use": made.use, "params": made.params, "id": digest}
            payload["imports"] = _imports("generator", made.use)
        if kind == "train":
            return payload | {
                "auxiliary": self._inputs.auxiliary[task.auxiliary],
                "shots": task.shots if code.auxiliary_per_shots else None,
            }
        category = self._inputs.plan_inputs.categories[task.category]
        payload["object_name"] = category.object_name
        if kind == "prepare":
            return payload
        drawn = category.supports[task.seed][: task.shots] if task.shots else ()
        payload |= {
            "dataset": self._dataset(category.dataset),
            "support": _listed(drawn),
            "seed": task.seed if sweep.seed == 0 else int(hashed(sweep.seed, task.seed)[:8], 16),
            "customize": by_kind.get("customize", ""),
            "generate": by_kind.get("generate", ""),
            "personalize": by_kind.get("personalize", ""),
            "prepare": by_kind.get("prepare", ""),
            "train": by_kind.get("train", ""),
        }
        if kind == "generate":
            config = sweep.generators[task.generator]
            payload["n"] = (
                max(0, config.pool - task.shots) if config.generated is None else config.generated
            )
        if kind in ("personalize", "predict"):
            payload["queries"] = _listed(shard_queries(category, sweep.shard)[task.shard])
        if kind == "predict":
            fit = hashed(payload["method"]["id"], task.state, payload["train"], payload["generate"])
            payload |= {"fit": fit, "maps": sweep.maps, "masks": category.masked}
        return payload

    def _evaluate(self, task: Task) -> dict[str, Any]:
        category = self._inputs.plan_inputs.categories[task.category]
        queries = [r for part in shard_queries(category, self._sweep.shard) for r in part]
        truth = [
            (s.image, s.box, r.key, s.label, s.mask, s.defect) for r in queries for s in (r.sample,)
        ]
        return {
            "dataset": self._dataset(category.dataset),
            "truth": truth,
            "predict": list(task.needs),
            "evaluation_size": self._sweep.evaluation_size,
            "publish": [place_of(self._sweep.name, cell) for cell in self.cells_of(task.key)],
        }

    def _dataset(self, label: str) -> Mapping[str, Any]:
        entry = self._datasets[label]
        return {"use": entry.use, "params": entry.params}


def place_of(sweep: str, cell: Cell) -> str:
    """Where a cell's files go in a sweep's folder; {} stands for the kind of file."""
    where = f"{cell.method}/{cell.dataset}/{cell.category}/k{cell.shots}_s{cell.seed}"
    return f"{sweep}/{{}}/{where}"


def _listed(references: tuple[Reference, ...]) -> list[tuple[str, Any, str]]:
    return [(r.sample.image, r.sample.box, r.key) for r in references]


def _imports(kind: str, use: str) -> list[str]:
    return sorted(plugins.source(plugins.find(kind, use)).imports & set(plugins.HEAVY))

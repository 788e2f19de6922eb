"""What a tracking server is told of a sweep besides its results: where every number comes from.

Pure: flat parameters, tags and fingerprints of what the plan knows. A group is a method on a
dataset with a number of shots, the unit people compare.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from harness import plugins
from harness.config.parameters import parameters
from harness.config.sweep import DatasetEntry, MethodEntry, Sweep
from harness.keys import Cell, hashed
from harness.planning import models
from harness.planning.graph import VERSION, PlanInputs
from harness.results.metrics import METRICS


class GroupKey(NamedTuple):
    """What a group's cells have in common."""

    method: str
    dataset: str
    shots: int

    def __str__(self) -> str:
        return f"{self.method} {self.dataset} k{self.shots}"


@dataclass(frozen=True)
class Group:
    """A group's parameters, and a hash of the code, parameters and data its results depend on."""

    digest: str
    params: Mapping[str, str]


@dataclass(frozen=True)
class TestSet:
    """Queries and references of a dataset, by what they are, wherever they lie."""

    digest: str
    source: str  # of the plug-in: where it comes from
    profile: Mapping[str, Any]  # sizes


@dataclass(frozen=True)
class Lineage:
    """All there is to say of a sweep before it has a result."""

    params: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    groups: Mapping[GroupKey, Group] = field(default_factory=dict)
    data: Mapping[str, TestSet] = field(default_factory=dict)


def lineage(
    sweep: Sweep, inputs: PlanInputs, cells: Iterable[Cell], environment: Mapping[str, Any]
) -> Lineage:
    """Of the cells of a plan; ``environment`` is what ``reporting.environment`` found."""
    names = {str(m.label): i for i, m in enumerate(sweep.methods)}
    entries = {str(d.label): d for d in sweep.datasets}
    listed = {category.dataset for category in inputs.categories}
    data = {label: _test_set(entries[label], inputs) for label in entries if label in listed}
    groups = {}
    for key in dict.fromkeys(GroupKey(c.method, c.dataset, c.shots) for c in cells):
        i = names[key.method]
        method, generator = sweep.methods[i], sweep.methods[i].generator or ""
        code = [inputs.methods[i].digest]
        code += [inputs.generators[generator].digest] if generator else []
        digest = hashed(VERSION, code, inputs.metrics, data[key.dataset].digest, key)
        params = {"method": key.method, "dataset": key.dataset, "shots": str(key.shots)}
        params |= _params(sweep, method, entries[key.dataset])
        groups[key] = Group(digest, params)
    params = {
        "datasets": ", ".join(entries),
        "methods": ", ".join(names),
        "shots": ", ".join(map(str, sweep.shots)),
        "seeds": ", ".join(map(str, sweep.seeds)),
        "config": sweep.digest()[:16],
    }
    tags = _environment(environment)
    tags["profile"] = "micro" if models.small(sweep) else "full"
    tags["data"] = hashed(sorted((label, each.digest) for label, each in data.items()))
    tags |= {f"data.{label}": each.digest for label, each in data.items()}
    return Lineage(params, tags, groups, data)


def curves(
    summary: Sequence[Mapping[Any, Any]], costs: Sequence[Mapping[str, Any]]
) -> dict[GroupKey, dict[int, dict[str, float]]]:
    """For each group its own figures and those of the same method with fewer shots, by shots."""
    spent = {(r["method"], r["dataset"], int(r["shots"])): r for r in costs}
    at: dict[tuple[str, str], dict[int, dict[str, float]]] = {}
    for row in summary:
        key = (row["method"], row["dataset"], int(row["shots"]))
        figures = {}  # in this order: charts and comparisons begin with the first
        for name, value in row.items():
            metric, _, what = str(name).rpartition("_")
            if metric in METRICS and what in ("mean", "std", "low", "high"):
                figures[metric if what == "mean" else str(name)] = value
        cost = spent.get(key, {})  # what did not happen is no chart
        figures |= {n: v for n, v in cost.items() if str(n).endswith("_ms") and v}
        at.setdefault(key[:2], {})[key[2]] = figures
    return {
        GroupKey(*place, shots): {k: v for k, v in points.items() if k <= shots}
        for place, points in at.items()
        for shots in points
    }


def _params(sweep: Sweep, method: MethodEntry, dataset: DatasetEntry) -> dict[str, str]:
    """Every parameter that results depend on, defaults too, under one flat name each."""
    flat = {"use": method.use}
    flat |= dict(_flat("params", _effective("method", method.use, method.params)))
    if method.generator:
        generator = sweep.generators[method.generator]
        flat |= {"generator": method.generator, "generator.use": generator.use}
        flat |= {"generator.pool": str(generator.pool)}
        flat |= dict(_flat("generator", _effective("generator", generator.use, generator.params)))
    flat |= dict(_flat("data", dataset.params))
    return flat


def _effective(kind: str, use: str, params: Mapping[str, Any]) -> dict[str, Any]:
    known = parameters(plugins.find(kind, use))
    defaults = {name: p.default for name, p in known.items() if not p.needed}
    return defaults | dict(params)


def _flat(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """Nested mappings as ("params.encoder.model", "micro")."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(f"{name}.{key}", inner)
    else:
        yield name, str(value)[:500]


def _test_set(entry: DatasetEntry, inputs: PlanInputs) -> TestSet:
    label = str(entry.label)
    tested = [c for c in inputs.categories if c.dataset == label]
    parts = [
        (c.name, c.truth, {s: [r.key for r in drawn] for s, drawn in c.supports.items()})
        for c in tested
    ]
    labels = [r.sample.label for c in tested for r in c.queries]
    profile = {
        "categories": [c.name for c in tested],
        "normal": len(labels) - sum(labels),
        "anomalous": sum(labels),
    }
    cls = plugins.find("dataset", entry.use)
    source = str(getattr(cls, "homepage", "") or entry.use)
    return TestSet(hashed(parts), source, profile)


def _environment(environment: Mapping[str, Any]) -> dict[str, str]:
    commit = str(environment.get("commit", ""))
    clean = commit.removesuffix("-dirty")
    tags = {"commit": clean, "dirty": str(commit != clean).lower()}
    tags |= {name: str(environment[name]) for name in ("host", "python") if name in environment}
    tags |= {f"versions.{name}": str(v) for name, v in environment.get("versions", {}).items()}
    return tags


def is_note(known: Any, uri: str) -> bool:
    """Whether it is a note of what is logged there: ids by name, and of runs their keys."""
    if not isinstance(known, dict) or known.get("uri") != uri:
        return False
    runs = [known.get("cells", {}), known.get("groups", {})]
    texts = [known.get(name, "") for name in ("parent", "experiment", "closed")]
    return all(isinstance(text, str) for text in texts) and all(
        isinstance(each, dict)
        and all(isinstance(v, list) and len(v) == 2 for v in each.values())
        and all(isinstance(part, str) for v in each.values() for part in v)
        for each in runs
    )

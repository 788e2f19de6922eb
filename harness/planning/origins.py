"""What keys are made of, kept with a sweep's results, so that a plan can say why a task is new.

Parts of keys are recorded by what they belong to (a method, the queries of a category, ...), not
by task, of which there may be a million. A task is new where a part it depends on is not what it
was when the sweep, or one like it, was last run.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from harness.config.sweep import Sweep
from harness.errors import amount
from harness.keys import hashed
from harness.planning.graph import VERSION, Category, Plan, PlanInputs
from harness.tasks.kinds import (
    Customize,
    Evaluate,
    Generate,
    OfSupport,
    Personalize,
    Predict,
    Prepare,
    Train,
)
from harness.tasks.task import Task

FILE = "keys.json"  # in a sweep's folder

Origins = Mapping[str, Mapping[str, str]]  # what parts belong to -> part -> hash or value


def origins(sweep: Sweep, inputs: PlanInputs) -> dict[str, dict[str, str]]:
    """Parts of the keys of a sweep's tasks, by what they belong to."""
    whole: dict[str, dict[str, str]] = {"engine": {"version": str(VERSION)}}
    whole["sweep"] = {"seed": str(sweep.seed)}
    whole["predictions"] = {"maps": str(sweep.maps), "gallery": str(sweep.gallery)}
    whole["evaluation"] = {f"source {name}": says for name, says in inputs.judges.items()}
    whole["evaluation"] |= {"size": str(sweep.evaluation_size), "gallery": str(sweep.gallery)}
    for entry, code in zip(sweep.methods, inputs.methods, strict=True):
        whole[f"method {entry.label}"] = dict(code.parts.get("", {}))
    for name, code in inputs.generators.items():
        for reader, parts in code.parts.items():
            whole[_generator(name, reader)] = dict(parts)
        for shots in sweep.shots:
            count = sweep.generators[name].added(shots)
            whole[f"pool of {name}, {_shots(shots)}"] = {"images": str(count)}
    for m, entry in enumerate(sweep.methods):
        for shots in sweep.shots if entry.shots is None else entry.shots:
            for seed in sweep.seeds:
                whole |= {group: {} for group in _training(sweep, inputs, m, shots, seed)}
    for name, digest in inputs.auxiliary.values():
        whole[f"auxiliary data {name}"] = {"images": digest}
    largest = max([*sweep.shots, *(k for m in sweep.methods for k in m.shots or ())])
    for category in inputs.categories:
        name = f"{category.dataset}/{category.name}"
        queries = hashed([r.key for r in category.queries])
        whole[f"queries of {name}"] = {"images": queries, "shard": str(sweep.shard)}
        whole[f"queries of {name}"] |= {"masked": str(category.masked)}
        whole[f"truth of {name}"] = {"labels and masks": category.truth}
        whole[f"words of {name}"] = {"object name": category.object_name}
        whole[f"object {category.object_name}"] = {}
        for seed, drawn in category.supports.items():
            whole[f"support of {name}, seed {seed}"] = {
                _shots(i + 1): hashed([r.key for r in drawn[: i + 1]])[:8] for i in range(largest)
            }
    return whole


class Reasons:
    """Says why tasks of a plan are new.

    Parameters
    ----------
    sweep, inputs : what is planned
    before : ``origins`` of an earlier run
    """

    def __init__(self, sweep: Sweep, inputs: PlanInputs, before: Origins) -> None:
        self._sweep, self._inputs = sweep, inputs
        self._now, self._before = origins(sweep, inputs), before

    def of(self, task: Task) -> tuple[str, ...]:
        """Why a task is new; empty where nothing is but its artifact is not there."""
        reasons = []
        for group, parts in self._groups(task):
            now, before = self._now.get(group, {}), self._before.get(group)
            if before is None:
                reasons.append(f"new: {group}")
                continue
            for part in sorted(now.keys() | before.keys()):
                same = now.get(part) == before.get(part)
                if not same and (parts is None or part in parts):
                    reasons.append(_difference(group, part, before.get(part), now.get(part)))
        return tuple(dict.fromkeys(reasons))

    def table(self, graph: Plan, keys: Collection[str]) -> str:
        """Tasks by their kind and why they are new, in lines, most of a kind first."""
        counts: dict[str, Counter[tuple[str, ...]]] = {}
        for key, task in graph.tasks.items():
            if key in keys:
                counts.setdefault(task.kind, Counter())[self.of(task)] += 1
        lines = []
        for kind, reasons in counts.items():
            for why, count in reasons.most_common():
                text = "; ".join(why) or "planned before, but not done, or no longer there"
                lines.append(f"{kind:<12}{count:>9}  {text}")
        return "\n".join(lines)

    def _groups(self, task: Task) -> Iterator[tuple[str, Collection[str] | None]]:
        """What a task's key depends on, through its needs as well: whole groups, or some parts."""
        yield "engine", None
        yield "sweep", None
        generator = None
        if isinstance(task, (Train, Predict, Evaluate)):
            entry = self._sweep.methods[task.method]
            generator = entry.generator if isinstance(task, OfSupport) and task.shots else None
            yield f"method {entry.label}", None
            yield from self._auxiliary(task)
        elif isinstance(task, (Prepare, Customize, Generate, Personalize)):
            generator = task.generator
        personalizes = isinstance(task, Personalize)
        if isinstance(task, (Predict, Evaluate)):
            personalizes = self._inputs.methods[task.method].personalized
        if generator is not None:
            yield _generator(generator, ""), None
            if isinstance(task, (Generate, Predict, Evaluate)):
                yield _generator(generator, Generate.kind), None
                yield f"pool of {generator}, {_shots(task.shots)}", None
            if personalizes:
                yield _generator(generator, Personalize.kind), None
        if isinstance(task, Prepare):
            yield f"object {task.object_name}", None
        if isinstance(task, OfSupport):
            yield from self._of_support(task, self._inputs.categories[task.category])

    def _of_support(
        self, task: OfSupport, category: Category
    ) -> Iterator[tuple[str, Collection[str] | None]]:
        name = f"{category.dataset}/{category.name}"
        yield f"words of {name}", None
        if task.shots:
            yield f"support of {name}, seed {task.seed}", {_shots(task.shots)}
        if isinstance(task, (Personalize, Predict, Evaluate)):
            yield f"queries of {name}", None
        if isinstance(task, (Predict, Evaluate)):
            yield "predictions", None
        if isinstance(task, Evaluate):
            yield f"truth of {name}", None
            yield "evaluation", None

    def _auxiliary(self, task: Train | Predict | Evaluate) -> Iterator[tuple[str, None]]:
        sweep, inputs = self._sweep, self._inputs
        for group in _training(sweep, inputs, task.method, task.shots, task.seed):
            yield group, None
        if isinstance(task, Train):
            yield f"auxiliary data {task.auxiliary}", None
            return
        category, label = inputs.categories[task.category], str(sweep.methods[task.method].label)
        data = inputs.auxiliary.get((label, category.dataset, category.name))
        if data is not None:
            yield f"auxiliary data {data[0]}", None


def read(text: str) -> Origins:
    """Origins as a sweep's folder has them; empty where they are damaged, which is no error."""
    try:
        whole: Any = json.loads(text)
    except ValueError:
        return {}
    groups = whole.items() if isinstance(whole, dict) else ()
    return {str(group): parts for group, parts in groups if isinstance(parts, dict)}


def nearest(now: Origins, others: Mapping[str, Origins]) -> str:
    """Name of the origins that have most parts in common with these; "" where there are none."""
    mine = {(group, *part) for group, parts in now.items() for part in parts.items()}
    common = {
        name: sum((g, *part) in mine for g, parts in other.items() for part in parts.items())
        for name, other in others.items()
    }
    return max(common, key=common.__getitem__, default="")


def _training(
    sweep: Sweep, inputs: PlanInputs, method: int, shots: int | None, seed: int | None
) -> list[str]:
    """What a method's training, if it has one, is for: all cells, or those of a size or seed."""
    entry, code = sweep.methods[method], inputs.methods[method]
    if not code.auxiliary:
        return []
    per_seed = code.auxiliary_per_seed and entry.training == "per-seed"
    parts = [f"training of {entry.label}"]
    parts += [_shots(shots or 0)] if code.auxiliary_per_shots else []
    parts += [f"seed {seed if shots != 0 else 0}"] if per_seed else []
    return [", ".join(parts)]


def _generator(name: str, reader: str) -> str:
    return f"generator {name}" + (f" ({reader})" if reader else "")


def _shots(count: int) -> str:
    return amount(count, "shot")


def _difference(group: str, part: str, before: str | None, now: str | None) -> str:
    """A part that is not what it was: values as they are, of hashes only that they differ."""
    readable = part.startswith("parameter ") or part in (
        *("version", "seed", "maps", "gallery", "size", "shard", "masked", "object name"),
    )
    if before is None or now is None:
        return f"{part} of {group}: {'added' if before is None else 'removed'}"
    return f"{part} of {group}: {before} -> {now}" if readable else f"{part} of {group} changed"

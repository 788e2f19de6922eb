"""Why tasks of a plan are new: what differs from the nearest task of an earlier plan.

Each task is compared to those that the earlier plan had of its kind: of the method, or generator,
and of the category that it is most like, under whatever label. What is told is a part of the key
that differs from there, or a cell that was not planned: a seed, shots, a category, a method.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cache
from operator import itemgetter

from harness.config.sweep import Sweep
from harness.errors import amount
from harness.planning import origins
from harness.planning.graph import Plan, PlanInputs
from harness.planning.origins import Origins
from harness.planning.record import Record
from harness.tasks.kinds import (
    Evaluate,
    Generate,
    OfGenerator,
    OfSupport,
    Personalize,
    Predict,
    Prepare,
    Train,
)
from harness.tasks.task import Task

LOST = "planned before, but not done, or no longer there"
NEW = "not planned before: "
MOST = 3  # differences from a method of another label that are told one by one


class Reasons:
    """Says why tasks of a plan are new.

    Parameters
    ----------
    sweep, inputs : what is planned
    before : ``origins`` of an earlier run, as ``origins.read`` has them
    """

    def __init__(self, sweep: Sweep, inputs: PlanInputs, before: Origins) -> None:
        self._sweep, self._inputs = sweep, inputs
        self._now, self._before = Record(origins.origins(sweep, inputs)), Record(before)
        self._differences = cache(self._compared)
        self._candidates = cache(self._alike)
        self._homes = cache(self._places)

    def of(self, task: Task) -> tuple[str, ...]:
        """Why a task is new; empty where nothing is but its artifact is not there."""
        _, nearest = min(self._comparisons(task), key=itemgetter(0))
        whole = dict.fromkeys([*nearest, *self._of_sweep(task)])
        new = ", ".join(why.removeprefix(NEW) for why in whole if why.startswith(NEW))
        changed = (why for why in whole if not why.startswith(NEW))
        return (*([NEW + new] if new else ()), *changed)

    def table(self, graph: Plan, keys: Collection[str]) -> str:
        """Tasks by their kind and why they are new, in lines, most of a kind first."""
        counts: dict[str, Counter[tuple[str, ...]]] = {}
        for key, task in graph.tasks.items():
            if key in keys:
                counts.setdefault(task.kind, Counter())[self.of(task)] += 1
        lines = []
        for kind, reasons in counts.items():
            for why, count in reasons.most_common():
                lines.append(f"{kind:<12}{count:>9}  {'; '.join(why) or LOST}")
        return "\n".join(lines)

    def _of_sweep(self, task: Task) -> Iterator[str]:
        yield from self._changed("engine", "version")
        yield from self._changed("sweep", "seed")
        if isinstance(task, (Predict, Evaluate)):
            yield from self._changed("predictions", "maps")
            yield from self._changed("predictions", "gallery")
        if isinstance(task, Evaluate):
            now, before = self._now.parts["evaluation"], self._before.parts.get("evaluation", {})
            yield from _differences("evaluation", now, before)

    def _changed(self, group: str, part: str) -> Iterator[str]:
        now, before = self._now.parts[group], self._before.parts.get(group, {})
        yield from _differences(group, {part: now[part]}, {part: before.get(part, "?")})

    def _comparisons(self, task: Task) -> Iterator[tuple[tuple[int, ...], list[str]]]:
        """What differs from each earlier task that is like this one, with how far it is: first
        comes that of the same code, or most like it, then that with less to tell, then that of the
        same category.
        """
        role = "method" if isinstance(task, (Train, Predict, Evaluate)) else "generator"
        name = self._label(task)
        homes: Iterable[str | None] = [None]
        if isinstance(task, OfSupport):
            homes = self._homes(self._category(task)) or [None]
        for home in homes:
            places = list(self._of_category(task, home))
            for other in self._candidates(role, name) or (None,):
                if other is None:
                    code = lines = [f"{NEW}{role} {name}"]
                    cells = self._nowhere(task)
                else:
                    code = self._of_code(task, role, name, other)
                    lines = _of_label(role, name, other, code)
                    of_role = self._of_method if role == "method" else self._of_generator
                    cells = of_role(task, name, other, home)
                reasons = [*lines, *cells, *places]
                moved = isinstance(task, OfSupport) and home != self._category(task)
                yield (len(code), len(reasons), moved), reasons

    def _label(self, task: Task) -> str:
        if isinstance(task, (Train, Predict, Evaluate)):
            return str(self._sweep.methods[task.method].label)
        assert isinstance(task, (Prepare, OfGenerator))
        return task.generator

    def _category(self, task: OfSupport) -> str:
        category = self._inputs.categories[task.category]
        return f"{category.dataset}/{category.name}"

    def _alike(self, role: str, name: str) -> tuple[str, ...]:
        """Earlier methods or generators to compare with, that of the same label first: it, and all
        of the same code; where there are none, those of its class.
        """
        before = self._before
        others = [*before.methods] if role == "method" else before.generators
        own = [name] if name in others else []
        alike = [*own, *(o for o in others if not self._differences(role, name, o))]
        if not alike:
            mine = self._now.parts[f"{role} {name}"].get("class")
            alike = [o for o in others if before.parts[f"{role} {o}"].get("class") == mine]
        return tuple(dict.fromkeys(alike))

    def _compared(self, role: str, name: str, other: str, reader: str = "") -> tuple[str, ...]:
        """How the code of a method or generator, or of one of its uses, differs from another's."""
        end = f" ({reader})" if reader else ""
        now = self._now.parts.get(f"{role} {name}{end}", {})
        before = self._before.parts.get(f"{role} {other}{end}", {})
        return tuple(_differences(f"{role} {name}{end}", now, before))

    def _of_code(self, task: Task, role: str, name: str, other: str) -> list[str]:
        readers = ["", *[task.kind] * isinstance(task, (Generate, Personalize))]
        each = [self._differences(role, name, other, reader) for reader in readers]
        return [line for lines in each for line in lines]

    # What was planned for a method, and what a generator adds to it

    def _of_method(self, task: Task, name: str, other: str, home: str | None) -> Iterator[str]:
        now, before = self._now.methods[name], self._before.methods[other]
        if isinstance(task, Train):
            yield from self._of_training(task, name, other)
            return
        assert isinstance(task, (Predict, Evaluate))
        if task.shots not in before.shots:
            yield self._new_shots(task.shots, name)
        if task.shots and task.seed not in self._before.seeds:
            yield f"{NEW}seed {task.seed}"
        if now.training != before.training and now.training and before.training:
            yield f"training of {name}: {before.training} -> {now.training}"
        category = self._category(task)
        if home is not None and (data := now.auxiliary.get(category)) is not None:
            yield from self._other_data(name, category, data, before.auxiliary.get(home))
        if (
            task.shots
            and now.generator != before.generator
            and ""
            in (
                now.generator,
                before.generator,
            )
        ):
            yield f"generator of {name}: {before.generator or 'none'} -> {now.generator or 'none'}"
        elif task.shots and now.generator:
            readers = ["", Generate.kind, *[Personalize.kind] * now.personalized]
            pair = now.generator, before.generator
            each = [self._differences("generator", *pair, reader) for reader in readers]
            lines = [line for lines in each for line in lines]
            if lines and now.generator != before.generator:
                yield f"generator of {name}: {before.generator} -> {now.generator}"
            else:
                yield from lines
            yield from self._of_pool(task.shots, *pair)

    def _of_training(self, task: Train, name: str, other: str) -> Iterator[str]:
        now, before = self._now.methods[name], self._before.methods[other]
        if task.shots is not None and task.shots not in before.shots:
            yield self._new_shots(task.shots, name)
        if now.training != before.training:
            if now.training and before.training:
                yield f"training of {name}: {before.training} -> {now.training}"
        elif task.seed is not None and task.shots != 0:
            supported = any(before.shots) if task.shots is None else True
            none = task.shots is None and task.seed == 0 and 0 in before.shots
            if not none and task.seed not in self._before.seeds:
                alone = task.seed not in self._now.seeds  # that of cells without a support
                yield self._new_shots(0, name) if alone else f"{NEW}seed {task.seed}"
            elif not none and not supported:
                yield self._new_shots(min(k for k in now.shots if k), name)
        mine = [c for c, data in now.auxiliary.items() if data == task.auxiliary]
        images = self._now.auxiliary_images(task.auxiliary)
        known = before.auxiliary.items()
        if any(self._before.auxiliary_images(data) == images for _, data in known):
            return
        if task.auxiliary in before.auxiliary.values():
            yield f"images of auxiliary data {task.auxiliary} changed"
            return
        replaced = [(c, data) for c in mine for h, data in known if h in self._homes(c)]
        if replaced:
            category, data = replaced[0]
            yield f"auxiliary data of {name} for {category}: {data} -> {task.auxiliary}"
        else:
            yield f"{NEW}auxiliary data {task.auxiliary}"

    def _other_data(self, name: str, category: str, now: str, before: str | None) -> Iterator[str]:
        if before is None:  # a method that had none: its code says so, which is another
            return
        same = self._now.auxiliary_images(now) == self._before.auxiliary_images(before)
        if not same and now == before:
            yield f"images of auxiliary data {now} changed"
        elif not same:
            yield f"auxiliary data of {name} for {category}: {before} -> {now}"

    def _of_pool(self, shots: int, name: str, other: str) -> Iterator[str]:
        size = amount(shots, "shot")
        now = self._now.parts[origins.pool(name)][size]
        before = self._before.parts.get(origins.pool(other), {}).get(size, now)
        if now != before:
            yield f"images that {name} adds to {size}: {before} -> {now}"

    # What was planned for a generator

    def _of_generator(self, task: Task, name: str, other: str, home: str | None) -> Iterator[str]:
        personalizes = isinstance(task, Personalize)
        users = self._before.users(other, personalizes)
        shots = task.shots if isinstance(task, OfGenerator) else None
        planned = {k for each in users.values() for k in each}
        if (shots not in planned) if shots is not None else not planned:
            yield self._new_users(task, name, other, shots, bool(planned))
        if isinstance(task, OfGenerator) and task.seed not in self._before.seeds:
            yield f"{NEW}seed {task.seed}"
        if isinstance(task, Generate):
            yield from self._of_pool(task.shots, name, other)
        if isinstance(task, Prepare):
            yield from self._of_object(task.object_name)

    def _new_users(self, task: Task, name: str, other: str, shots: int | None, known: bool) -> str:
        """Why a generator works at shots at which it did not: for whom it does.

        ``known`` is whether it did at other shots.
        """
        users = self._now.users(name, isinstance(task, Personalize)).items()
        sizes = ((label, k) for label, own in users for k in own if shots in (None, k))
        label, size = next(sizes)
        earlier = self._before.methods.get(label)
        if known or (earlier and earlier.generator == other and size not in earlier.shots):
            return self._new_shots(size, label)
        if earlier is None:
            return f"{NEW}method {label}"
        if earlier.generator != other:
            return f"generator of {label}: {earlier.generator or 'none'} -> {name}"
        return f"{NEW}personalized images for {label}"

    def _of_object(self, words: str) -> Iterator[str]:
        if words in self._before.words.values():
            return
        names = [n for n, name in self._now.words.items() if name == words]
        known = [(n, home) for n in names for home in self._homes(n)]
        if known:
            name, home = known[0]
            yield f"object name of {origins.words(name)}: {self._before.words[home]} -> {words}"
        else:
            yield self._new_category(names[0])

    # What was planned of a category

    def _places(self, name: str) -> tuple[str, ...]:
        """Earlier categories to compare one with: of its name, or that show some of the same."""
        seeds = self._now.seeds
        mine = self._now.content(name, seeds)
        alike = {o: len(mine & self._before.content(o, seeds)) for o in self._before.words}
        ranked = sorted(alike, key=lambda o: (-alike[o], o != name))
        return tuple(o for o in ranked if alike[o] or o == name)

    def _of_category(self, task: Task, home: str | None) -> Iterator[str]:
        if not isinstance(task, OfSupport):
            return
        name = self._category(task)
        if home is None:
            yield self._new_category(name)
            return
        now, before = self._now.parts, self._before.parts

        def parts(group: str, other: str, *some: str) -> Iterator[str]:
            mine, its = now[group], before[other]
            yield from _differences(group, *({k: d[k] for k in some} for d in (mine, its)))

        yield from parts(origins.words(name), origins.words(home), "object name")
        size = amount(task.shots, "shot")
        drawn = now.get(origins.support(name, task.seed), {}).get(size)
        earlier = before.get(origins.support(home, task.seed), {}).get(size)
        if task.shots and earlier is not None and drawn != earlier:
            yield f"{size} of {origins.support(name, task.seed)} changed"
        if isinstance(task, (Personalize, Predict, Evaluate)):
            yield from self._of_queries(task, name, home)
        if isinstance(task, (Predict, Evaluate)):
            yield from parts(origins.queries(name), origins.queries(home), "masked")
        if isinstance(task, Evaluate):
            yield from parts(origins.truth(name), origins.truth(home), "labels and masks")

    def _of_queries(
        self, task: Personalize | Predict | Evaluate, name: str, home: str
    ) -> Iterator[str]:
        """Whether shards hold other queries; and whether that is of their size alone."""
        mine, its = self._now.shards[name], self._before.shards[home]
        if mine == its if isinstance(task, Evaluate) else mine[task.shard] in its:
            return
        group, other = origins.queries(name), origins.queries(home)
        now, before = self._now.parts[group], self._before.parts[other]
        count = len(self._inputs.categories[task.category].queries)
        if -(-count // int(now["shard"])) != -(-count // int(before["shard"])):
            yield f"shard of {group}: {before['shard']} -> {now['shard']}"
        if now["images"] != before["images"]:
            yield f"images of {group} changed"

    # Cells that were not planned

    def _nowhere(self, task: Task) -> Iterator[str]:
        """Of a method or generator that is new: what else of its cell no method had."""
        shots, seed = getattr(task, "shots", None), getattr(task, "seed", None)
        if shots is not None and not any(shots in m.shots for m in self._before.methods.values()):
            yield f"{NEW}{amount(shots, 'shot')}"
        if shots != 0 and seed is not None and seed not in self._before.seeds:
            yield f"{NEW}seed {seed}"

    def _new_shots(self, shots: int, label: str) -> str:
        others = any(shots in method.shots for method in self._before.methods.values())
        return f"{NEW}{amount(shots, 'shot')}" + (f" of {label}" if others else "")

    def _new_category(self, name: str) -> str:
        dataset = name.partition("/")[0]
        known = any(n.partition("/")[0] == dataset for n in self._before.words)
        return f"{NEW}category {name}" if known else f"{NEW}dataset {dataset}"


def _of_label(role: str, name: str, other: str, lines: list[str]) -> list[str]:
    """How code differs, for people: from that of another label as one thing that is new."""
    if name == other or not lines:
        return lines
    shown = [line.replace(f" of {role} {name}", "") for line in lines[:MOST]]
    shown += [f"{len(lines) - MOST} more"] if len(lines) > MOST else []
    return [f"{NEW}{role} {name} ({other} but for {', '.join(shown)})"]


def _differences(group: str, now: Mapping[str, str], before: Mapping[str, str]) -> Iterator[str]:
    """Parts that are not what they were; of another class nothing else."""
    names = sorted(now.keys() | before.keys())
    if now.get("class") != before.get("class"):
        names = ["class"]
    for part in names:
        if now.get(part) != before.get(part):
            yield _difference(group, part, before.get(part), now.get(part))


def _difference(group: str, part: str, before: str | None, now: str | None) -> str:
    """A part that is not what it was: values as they are, of hashes only that they differ."""
    values = part.startswith("parameter ") and not part.endswith(" in full")
    readable = values or part in (
        *("version", "seed", "maps", "gallery", "size", "masked", "object name", "class"),
    )
    if before is None or now is None:
        return f"{part} of {group}: {'added' if before is None else 'removed'}"
    return f"{part} of {group}: {before} -> {now}" if readable else f"{part} of {group} changed"

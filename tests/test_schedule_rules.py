"""The schedule against its rules written down plainly: everything is looked up anew each time."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pytest

from harness.execution.schedule import Schedule
from harness.tasks.task import Task
from tests.test_schedule import Step, ancestors

AFFINITIES = {"d/a/0": "predict", "d/a/1": "predict", "d/b/0": "personalize", "x": "train"}
#: least and largest share of a GPU that a worker's tasks may ask for
WORKERS = {"any": (0.0, 9.0), "cpu": (0.0, 0.0), "gpu": (0.5, 1.0), "half": (0.0, 0.5)}


@dataclass(frozen=True, kw_only=True)
class Timed(Step):
    """A step of a length of its own: no two paths are equally long."""

    length: float

    @property
    def seconds(self) -> float:  # type: ignore[override]
        return self.length


def graph(rng: random.Random) -> dict[str, Task]:
    tasks: dict[str, Task] = {}
    for i in range(rng.randint(4, 16)):
        needs = tuple(rng.sample(sorted(tasks), min(len(tasks), rng.choice([0, 0, 1, 2]))))
        affinity = rng.choice(sorted(AFFINITIES))
        tasks[f"t{i:02}"] = Timed(
            key=f"t{i:02}",
            kind=AFFINITIES[affinity],
            needs=needs,
            affinity=affinity,
            state=rng.choice("uvw"),
            gpus=rng.choice([0.0, 0.0, 0.5, 1.0]),
            length=rng.uniform(0.1, 1) * 10 ** rng.randint(0, 2),
        )
    for i in range(rng.randint(2, 6)):
        needs = tuple(rng.sample(sorted(k for k in tasks if k[0] == "t"), rng.randint(1, 3)))
        more = {"affinity": "d/a", "length": rng.uniform(0.1, 1)}
        tasks[f"e{i}"] = Timed(key=f"e{i}", kind="evaluate", needs=needs, **more)  # type: ignore
    return tasks


class Rules:
    """What the schedule's docstring says, at any cost."""

    def __init__(self, tasks: Mapping[str, Task], targets: list[str]) -> None:
        self.tasks = tasks
        needed = {n for t in targets for n in ancestors(tasks, t)} | set(targets)
        self.todo = [key for key in tasks if key in needed]
        self.index = {key: i for i, key in enumerate(tasks)}
        self.rank = {key: self._path(key) for key in self.todo}
        self.cell = {key: self._cheapest_cell(key) for key in self.todo}
        self.running: dict[str, str] = {}
        self.at: dict[str, tuple[str, str]] = {}
        self.last: dict[str, str] = {}
        self.paces: dict[tuple[str, bool], float] = {}
        self.evaluations: list[str] = []
        self._queue()

    def _dependents(self, key: str) -> list[str]:
        return [other for other in self.todo if key in self.tasks[other].needs]

    def _path(self, key: str) -> float:
        longest = max(map(self._path, self._dependents(key)), default=0.0)
        return self.tasks[key].seconds + longest

    def _cheapest_cell(self, key: str) -> float:
        costs = [self._cheapest_cell(other) for other in self._dependents(key)]
        if not costs:
            costs = [sum(self.tasks[k].seconds for k in {key} | ancestors(self.tasks, key))]
        return min(costs)

    def _ready(self) -> list[str]:
        return [
            key
            for key in self.todo
            if key not in self.running and not set(self.tasks[key].needs) & set(self.todo)
        ]

    def _queue(self) -> None:
        self.evaluations += [
            k for k in self._ready() if self.tasks[k].final and k not in self.evaluations
        ]

    def _of(self, keys: Iterable[str], affinity: str) -> list[str]:
        return [key for key in keys if self.tasks[key].affinity == affinity]

    def next(self, worker: str, least: float, most: float) -> str | None:
        if self.evaluations and least == 0:
            return self._start(worker, self.evaluations.pop(0))
        ready = [
            k
            for k in self._ready()
            if not self.tasks[k].final and least <= self.tasks[k].gpus <= most
        ]
        if not ready:
            return None
        affinity, state = self.at.get(worker, ("", ""))
        longest = max(self.rank[k] for k in [*ready, *self.running])
        work = sum(self.tasks[k].seconds for k in self.todo)
        slack = work / (len(self.running) + 1) > 1.5 * longest
        if not self._of(ready, affinity):
            affinity = self._elsewhere(worker, ready, affinity)
        if slack and affinity:
            affinity = self._cheap_elsewhere(ready, affinity) or affinity
        if not affinity:
            return None
        heads = self._heads(self._of(ready, affinity))
        cheapest = min(self.cell[k] for k in heads)

        def order(key: str) -> tuple[bool, bool, float]:
            costly = slack and self.cell[key] > 2 * cheapest
            return costly, self.tasks[key].state != state, -self.rank[key]

        key = min(heads, key=order)
        self.at[worker] = (affinity, self.tasks[key].state)
        return self._start(worker, key)

    def _start(self, worker: str, key: str) -> str:
        self.running[key] = worker
        return key

    def _heads(self, keys: Iterable[str]) -> list[str]:
        """The task with the longest path of each state and share of a GPU."""
        heads: dict[tuple[str, float], str] = {}
        for key in sorted(keys, key=lambda k: -self.rank[k]):
            heads.setdefault((self.tasks[key].state, self.tasks[key].gpus), key)
        return list(heads.values())

    def _elsewhere(self, worker: str, ready: list[str], current: str) -> str:
        shares = {self.tasks[k].gpus for k in ready}
        taken = {
            self.at[w][0]
            for k, w in self.running.items()
            if w in self.at and self.tasks[k].gpus in shares
        }
        dataset = current.split("/")[:2]
        offers = []
        for share in shares:
            for name in AFFINITIES:
                keys = [k for k in self._of(ready, name) if self.tasks[k].gpus == share]
                if not keys or (name in taken and not self._in_time(AFFINITIES[name], len(keys))):
                    continue
                near = name.split("/")[:2] == dataset
                offers.append((name not in taken, near, max(self.rank[k] for k in keys), name))
        return max(offers)[-1] if offers else ""

    def _in_time(self, kind: str, count: int) -> bool:
        first, later = self.paces.get((kind, True)), self.paces.get((kind, False))
        return first is None or later is None or first < (count + 1) * later

    def _cheap_elsewhere(self, ready: list[str], affinity: str) -> str:
        best = min(ready, key=lambda k: self.cell[k])
        least_left = min(self.cell[k] for k in self._heads(self._of(ready, affinity)))
        other = self.tasks[best].affinity
        taken = {self.at.get(w, ("", ""))[0] for w in self.running.values()}
        return other if self.cell[best] * 2 <= least_left and other not in taken else ""

    def finish(self, key: str, seconds: float) -> None:
        worker, task = self.running.pop(key), self.tasks[key]
        if seconds and not task.final:
            pace = task.kind, self.last.get(worker) != task.affinity
            self.paces[pace] = (self.paces.get(pace, seconds) + seconds) / 2
            self.last[worker] = task.affinity
        self.todo.remove(key)
        self._queue()

    def release(self, key: str) -> None:
        worker = self.running.pop(key)
        self.at.pop(worker, None)
        self.last.pop(worker, None)
        self._queue()


@pytest.mark.parametrize("part", range(4))
def test_each_worker_gets_the_task_that_the_rules_say(part: int) -> None:
    for seed in range(100 * part, 100 * part + 100):
        rng = random.Random(seed)
        tasks = graph(rng)
        targets = [key for key in tasks if key[0] == "e" or rng.random() < 0.05]
        schedule, rules = Schedule(tasks, targets), Rules(tasks, targets)
        names = ["any", *rng.sample(sorted(set(WORKERS) - {"any"}), rng.randint(0, 3))]
        while rules.todo:
            for name in rng.sample(names, len(names)):
                if name in rules.running.values():
                    continue
                least, most = WORKERS[name]
                task, expected = schedule.next(name, most, least), rules.next(name, least, most)
                assert (task.key if task else None) == expected, f"seed {seed}"
            key = rng.choice(sorted(rules.running))
            if rng.random() < 0.2:
                schedule.release(key)
                rules.release(key)
            else:
                seconds = rng.choice([0.0, 1.0, tasks[key].seconds])
                schedule.finish(key, *[seconds] * bool(seconds))  # unknown, it is left out
                rules.finish(key, seconds)
            assert schedule.todo == set(rules.todo)
            assert schedule.running == rules.running


def step(key: str, *needs: str, kind: str = "predict") -> Task:
    return Step(key=key, kind=kind, needs=needs, affinity="d/c/0")


def keys(schedule: Schedule) -> list[str]:
    """Tasks in the order in which a worker that never fails does the rest."""
    order = []
    while task := schedule.next("w"):
        order.append(task.key)
        schedule.finish(task.key)
    return order


def test_what_was_done_is_not_done_again_for_what_lacks() -> None:
    tasks = {t.key: t for t in (step("a"), step("b", "a"), step("e", "a", "b", kind="evaluate"))}
    schedule = Schedule(tasks, ["e"])
    for key in ("a", "b"):
        assert schedule.next("w") == tasks[key]
        schedule.finish(key)
    assert schedule.next("w") == tasks["e"]
    schedule.redo("e", ["b"])
    assert keys(schedule) == ["b", "e"]


def test_what_lacked_and_could_not_be_made_again_is_not_there() -> None:
    steps = [step("a"), step("b", "a")]
    steps += [step("e0", "a", kind="evaluate"), step("e1", "b", kind="evaluate")]
    tasks = {t.key: t for t in steps}
    schedule = Schedule(tasks, ["e0", "e1"], stored=["a", "b"])
    assert schedule.next("w0") == tasks["e0"]
    assert schedule.next("w1") == tasks["e1"]
    schedule.redo("e0", ["a"])
    assert schedule.next("w0") == tasks["a"]
    assert schedule.fail("a") == ["a", "e0"]
    schedule.redo("e1", ["b"])
    assert keys(schedule) == ["a", "b", "e1"]


@pytest.mark.parametrize("shared", ["a", "b"])
def test_of_what_a_failed_task_needed_only_what_others_need_is_done(shared: str) -> None:
    steps = [step("x"), step("a"), step("b"), step("e", "x", "a", "b", kind="evaluate")]
    steps.append(step("f", shared, kind="evaluate"))
    schedule = Schedule({t.key: t for t in steps}, ["e", "f"])
    assert schedule.fail("x") == ["x", "e"]
    assert keys(schedule) == [shared, "f"]

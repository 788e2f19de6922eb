"""The scheduler, simulated: random graphs, random workers, deaths, failures, lost artifacts."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.execution.attempts import Attempts
from harness.execution.outcome import Outcome
from harness.execution.schedule import Schedule
from harness.tasks import kinds
from harness.tasks.references import Context
from harness.tasks.task import Payload, Task

KINDS = ("train", "customize", "generate", "personalize", "predict")


@dataclass(frozen=True, kw_only=True)
class Step(Task):
    """A task of a kind that the engine does not know: the schedule needs to know none."""

    kind: str  # type: ignore[misc]
    needs: tuple[str, ...] = ()  # type: ignore[misc]
    state: str = "s"  # type: ignore[misc]

    @property
    def seconds(self) -> float:  # type: ignore[override]
        return kinds.KINDS[self.kind].seconds

    @property
    def final(self) -> bool:  # type: ignore[override]
        return self.kind == "evaluate"

    def payload(self, context: Context) -> Payload:
        raise NotImplementedError


def task(
    key: str, kind: str, needs: tuple[str, ...] = (), affinity: str = "d/c/0", **fields: Any
) -> Task:
    return Step(key=key, kind=kind, needs=needs, affinity=affinity, **fields)


@st.composite
def graphs(draw: st.DrawFn) -> dict[str, Task]:
    """Tasks in layers, then evaluate tasks that need some of them; like a plan, only wilder."""
    tasks: dict[str, Task] = {}
    for i in range(draw(st.integers(1, 14))):
        earlier = sorted(tasks)
        needs = draw(st.lists(st.sampled_from(earlier), unique=True, max_size=3)) if earlier else []
        affinity = draw(st.sampled_from(["d/a/0", "d/a/1", "d/b/0", "auxiliary/x"]))
        new = task(f"t{i:02}", draw(st.sampled_from(KINDS)), tuple(needs), affinity=affinity)
        tasks[new.key] = replace(new, state=draw(st.sampled_from(["u", "v"])))
    middle = sorted(tasks)
    for i in range(draw(st.integers(1, 5))):
        needs = draw(st.lists(st.sampled_from(middle), unique=True, min_size=1, max_size=5))
        tasks[f"e{i}"] = task(f"e{i}", "evaluate", tuple(needs))
    return tasks


class Log:
    """A listener that remembers."""

    def __init__(self) -> None:
        self.done: Counter[str] = Counter()
        self.dropped: list[str] = []

    def started(self, task: Task, worker: str) -> None: ...

    def finished(self, task: Task, outcome: Outcome) -> None:
        self.done[task.key] += 1

    def failed(self, task: Task, outcome: Outcome, dropped: list[str]) -> None:
        self.dropped += dropped

    def lost(self, task: Task, reason: str) -> None: ...

    def told(self, task: Task, worker: str, text: str) -> None: ...

    def tick(self) -> None: ...


def ancestors(tasks: Mapping[str, Task], key: str) -> set[str]:
    above = set(tasks[key].needs)
    for need in tasks[key].needs:
        above |= ancestors(tasks, need)
    return above


def simulate(
    tasks: dict[str, Task],
    stored: set[str],
    workers: int,
    rng: random.Random,
    failing: frozenset[str] = frozenset(),
    deaths: float = 0.0,
    damage: float = 0.0,
) -> tuple[Log, Counter[str], set[str]]:
    """Run a schedule with workers that end in any order; log, times started, what exists."""
    targets = [k for k, t in tasks.items() if t.kind == "evaluate"]
    schedule = Schedule(tasks, targets, stored)
    log = Log()
    attempts = Attempts(schedule, log, most=1_000)
    exists = set(stored)
    started: Counter[str] = Counter()
    busy: dict[str, Task] = {}
    for _ in range(10_000):
        if not schedule.todo:
            break
        for name in (f"w{i}" for i in range(workers)):
            if name not in busy and (new := schedule.next(name)) is not None:
                assert new.key not in {t.key for t in busy.values()}, "handed out twice at a time"
                busy[name] = new
                started[new.key] += 1
                if not damage:
                    assert set(new.needs) <= exists, "started before what it needs"
        assert busy, f"nothing runs and {schedule.todo} are left"
        name = rng.choice(sorted(busy))
        done = busy.pop(name)
        if damage and rng.random() < damage and exists:
            exists.discard(rng.choice(sorted(exists)))
        missing = [n for n in done.needs if n not in exists]
        if rng.random() < deaths:
            attempts.died(done, "shot")
        elif missing:
            attempts.done(done, Outcome(done.key, "lacks something", missing=missing[:1]))
        elif done.key in failing:
            attempts.done(done, Outcome(done.key, "on purpose"))
        else:
            if done.kind != "evaluate":
                exists.add(done.key)
            attempts.done(done, Outcome(done.key))
    assert not schedule.todo
    return log, started, exists


@settings(max_examples=150, deadline=None)
@given(graphs(), st.integers(1, 4), st.integers(0, 2**32), st.data())
def test_every_task_once_and_after_what_it_needs(
    tasks: dict[str, Task], workers: int, seed: int, data: st.DataObject
) -> None:
    middle = sorted(k for k, t in tasks.items() if t.kind != "evaluate")
    stored = data.draw(st.sets(st.sampled_from(middle)))
    log, started, _ = simulate(tasks, set(stored), workers, random.Random(seed))
    targets = {k for k, t in tasks.items() if t.kind == "evaluate"}
    needed, front = set(), list(targets)  # what is needed and not there, walked independently
    while front:
        if (key := front.pop()) not in stored and key not in needed:
            needed.add(key)
            front += tasks[key].needs
    assert started == Counter(needed)
    assert log.done == started
    assert log.dropped == []


@settings(max_examples=150, deadline=None)
@given(graphs(), st.integers(1, 4), st.integers(0, 2**32), st.data())
def test_a_failure_costs_what_depends_on_it_and_nothing_else(
    tasks: dict[str, Task], workers: int, seed: int, data: st.DataObject
) -> None:
    failing = frozenset(data.draw(st.sets(st.sampled_from(sorted(tasks)), max_size=3)))
    log, _, _ = simulate(tasks, set(), workers, random.Random(seed), failing, deaths=0.2)
    for key in (k for k, t in tasks.items() if t.kind == "evaluate"):
        lost = bool(failing & (ancestors(tasks, key) | {key}))
        assert (key in log.dropped) == lost
        assert log.done[key] == (0 if lost else 1)
    assert len(log.dropped) == len(set(log.dropped)), "a cell's failure was told twice"
    assert all(n == 1 for n in log.done.values())


@settings(max_examples=150, deadline=None)
@given(graphs(), st.integers(1, 4), st.integers(0, 2**32))
def test_lost_artifacts_and_workers_are_made_good(
    tasks: dict[str, Task], workers: int, seed: int
) -> None:
    log, _, _ = simulate(tasks, set(), workers, random.Random(seed), deaths=0.2, damage=0.15)
    for key in (k for k, t in tasks.items() if t.kind == "evaluate"):
        assert log.done[key] == 1
    assert log.dropped == []


def test_shards_of_a_cell_that_failed_are_not_computed() -> None:
    tasks = {f"p{i}": task(f"p{i}", "predict", affinity=f"d/a/{i}") for i in range(20)}
    tasks["e"] = task("e", "evaluate", tuple(tasks))
    schedule = Schedule(tasks, ["e"])
    first = schedule.next("w")
    assert first is not None
    assert schedule.fail(first.key) == [first.key, "e"]
    assert not schedule.todo
    assert schedule.next("w") is None


def test_what_another_cell_needs_survives_a_failure() -> None:
    tasks = {
        "c": task("c", "customize"),
        "p": task("p", "predict", ("c",)),
        "q": task("q", "predict", ("c",)),
        "e": task("e", "evaluate", ("p",)),
        "f": task("f", "evaluate", ("q",)),
    }
    schedule = Schedule(tasks, ["e", "f"])
    schedule.finish(schedule.next("w").key)  # type: ignore[union-attr]
    assert set(schedule.fail(schedule.next("w").key)) == {"p", "e"}  # type: ignore[union-attr]
    assert schedule.todo == {"q", "f"}


def test_a_need_made_anew_does_not_start_a_task_that_waits_for_another() -> None:
    tasks = {
        "c": task("c", "customize"),
        "z": task("z", "personalize"),
        "p": task("p", "predict", ("c", "z"), affinity="d/a/1"),
        "q": task("q", "predict", ("c",), affinity="d/a/2"),
        "e": task("e", "evaluate", ("p", "q")),
    }
    schedule = Schedule(tasks, ["e"])
    running = {t.key for t in (schedule.next("v"), schedule.next("w")) if t}
    assert running == {"c", "z"}
    schedule.finish("c")
    assert schedule.next("v").key == "q"  # type: ignore[union-attr]
    schedule.redo("q", ["c"])  # c was damaged
    assert schedule.next("v").key == "c"  # type: ignore[union-attr]
    schedule.finish("c")
    assert schedule.next("v").key == "q"  # type: ignore[union-attr]
    assert schedule.next("u") is None, "p is ready although z is still running"


def test_a_worker_stays_with_its_place_and_state() -> None:
    tasks = {
        f"{affinity}{state}{i}": task(
            f"{affinity}{state}{i}", "predict", affinity=affinity, state=state
        )
        for affinity in ("d/a/0", "d/b/0")
        for i in range(3)
        for state in "xy"
    }
    tasks["e"] = task("e", "evaluate", tuple(tasks))
    schedule = Schedule(tasks, ["e"])
    order = []
    for _ in range(12):
        new = schedule.next("w")
        assert new is not None
        order.append((new.affinity, new.state))
        schedule.finish(new.key)
    changes = sum(a != b for a, b in itertools.pairwise(order))
    assert changes == 3, order


def test_two_workers_share_places_before_they_help_each_other() -> None:
    tasks = {
        f"{affinity}{i}": task(f"{affinity}{i}", "predict", affinity=affinity)
        for affinity in ("d/a/0", "d/b/0")
        for i in range(2)
    }
    tasks["e"] = task("e", "evaluate", tuple(tasks))
    schedule = Schedule(tasks, ["e"])
    first, second = schedule.next("v"), schedule.next("w")
    assert first is not None
    assert second is not None
    assert first.affinity != second.affinity


def test_a_worker_without_gpu_is_not_given_what_needs_one() -> None:
    tasks = {"c": task("c", "customize", gpus=1.0, state="c"), "p": task("p", "predict")}
    tasks["e"] = task("e", "evaluate", ("c", "p"))
    schedule = Schedule(tasks, ["e"])
    assert schedule.next("cpu", 0.0).key == "p"  # type: ignore[union-attr]
    assert schedule.next("other", 0.0) is None
    assert schedule.next("gpu", 1.0).key == "c"  # type: ignore[union-attr]


def test_longest_path_first() -> None:
    tasks = {
        "short": task("short", "predict", affinity="d/a/0"),
        "long": task("long", "customize", affinity="d/b/0"),
        "after": task("after", "personalize", ("long",), affinity="d/b/0"),
        "e": task("e", "evaluate", ("short",)),
        "f": task("f", "evaluate", ("after",)),
    }
    assert Schedule(tasks, ["e", "f"]).next("w").key == "long"  # type: ignore[union-attr]


@pytest.mark.parametrize("most", [1, 2, 3])
def test_attempts_of_a_dying_task_are_bounded(most: int) -> None:
    tasks = {"p": task("p", "predict"), "e": task("e", "evaluate", ("p",))}
    schedule, log = Schedule(tasks, ["e"]), Log()
    attempts = Attempts(schedule, log, most)
    for _ in range(most):
        assert schedule.todo
        attempts.died(schedule.next("w"), "shot")  # type: ignore[arg-type]
    assert not schedule.todo
    assert log.dropped == ["p", "e"]


def test_every_damaged_need_of_a_task_is_made_again_with_a_single_attempt() -> None:
    tasks = {f"p{i}": task(f"p{i}", "predict") for i in range(4)}
    tasks["e"] = task("e", "evaluate", tuple(tasks))
    schedule, log = Schedule(tasks, ["e"], set(tasks) - {"e"}), Log()
    attempts = Attempts(schedule, log, most=1)
    for i in range(4):
        attempts.done(schedule.next("w"), Outcome("e", "damaged", missing=[f"p{i}"]))  # type: ignore[arg-type]
        attempts.done(schedule.next("w"), Outcome(f"p{i}"))  # type: ignore[arg-type]
    attempts.done(schedule.next("w"), Outcome("e"))  # type: ignore[arg-type]
    assert log.done["e"] == 1
    assert not log.dropped


@pytest.mark.parametrize(("later", "helps"), [(0.5, False), (3.0, True)])
def test_help_comes_only_where_it_is_in_time(later: float, helps: bool) -> None:
    """What the worker of a affinity holds, a newcomer would have to decode and encode first."""
    tasks = {key: task(key, "predict", affinity=f"d/c/{key[0]}") for key in ("a0", "a1")}
    tasks |= {key: task(key, "predict", affinity="d/c/b") for key in ("b0", "b1", "b2", "b3")}
    tasks["e"] = task("e", "evaluate", tuple(tasks))
    schedule = Schedule(tasks, ["e"])

    def given(worker: str) -> str:
        chosen = schedule.next(worker)
        return chosen.key if chosen else ""

    for seconds in (4.0, later):  # the first is given where most is to do
        for key in (given("busy"), given("idle")):
            schedule.finish(key, seconds)
    assert given("busy") == "b2"
    assert given("idle") == ("b3" if helps else "")
    schedule.finish("b2", later)
    assert given("busy") == ("" if helps else "b3")

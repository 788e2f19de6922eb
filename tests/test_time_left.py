"""The time left, on simulated runs with a clock of their own and on records of real ones."""

from __future__ import annotations

import csv
import heapq
import random
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from harness.reporting.live.pace import Work
from harness.reporting.live.time_left import Earlier, TimeLeft, words

RECORDED = Path(__file__).parent / "recorded"
WEIGHTS = {"customize": 300.0, "personalize": 60.0, "predict": 5.0, "evaluate": 1.0}


def mixed(noise: float) -> list[tuple[Work, float]]:
    """Two quick methods on four shards each, and a slow one on customized models: with seconds."""
    rng = random.Random(3)
    tasks: list[tuple[Work, float]] = []
    seen: set[str] = set()

    def add(kind: str, plugin: str, affinity: str, needs: list[str], seconds: float) -> str:
        key = f"{kind}/{plugin}/{affinity}/{len(tasks)}"
        seconds *= rng.uniform(1 - noise, 1 + noise)
        work = Work(key, kind, plugin, affinity, tuple(needs), WEIGHTS[kind])
        tasks.append((work, seconds))
        return key

    for run in range(6):
        for method, cost in (("quick", 0.2), ("middling", 0.6), ("slow", 2.5)):
            model = [add("customize", "g", "d/c", [], 12.0)] if method == "slow" else []
            shards = []
            for shard in range(4):
                affinity = f"d/c/{shard}"
                needs = list(model)
                if model:
                    needs.append(add("personalize", "g", affinity, model, 6.0))
                encoding = 0.0 if affinity in seen else 8.0
                seen.add(affinity)
                shards.append(add("predict", method, affinity, needs, cost + encoding))
            add("evaluate", method, "d/c", shards, 0.05 + run * 0)
    return tasks


def estimates(tasks: list[tuple[Work, float]], workers: int) -> list[tuple[float, float]]:
    """Estimate and truth, as shares of the whole run, each time a task ends."""
    now = 0.0
    left = TimeLeft([task for task, _ in tasks], workers, clock=lambda: now)
    seconds = {task.key: taken for task, taken in tasks}
    waiting = {task.key: set(task.needs) for task, _ in tasks}
    queue = [task.key for task, _ in tasks]
    running: list[tuple[float, str]] = []
    points = []
    while queue or running:
        ready = [key for key in queue if not waiting[key]]
        while ready and len(running) < workers:
            key = ready.pop(0)
            queue.remove(key)
            left.started(key)
            heapq.heappush(running, (now + seconds[key], key))
        now, key = heapq.heappop(running)
        left.finished(key)
        for needs in waiting.values():
            needs.discard(key)
        estimate = left.seconds()
        assert estimate is not None
        points.append((now, estimate))
    return [(at / now, (at + estimate) / now) for at, estimate in points]


def as_before(tasks: list[tuple[Work, float]], speed: float) -> list[tuple[Work, float]]:
    """The same tasks as an earlier run on a machine of another speed tells what to expect."""
    taken: dict[tuple[str, ...], list[float]] = defaultdict(list)
    for task, seconds in tasks:
        taken[task.kind, task.plugin].append(seconds)
    mean = {kind: speed * sum(values) / len(values) for kind, values in taken.items()}
    return [
        (replace(task, seconds=mean[task.kind, task.plugin], earlier=True), seconds)
        for task, seconds in tasks
    ]


@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.parametrize("speed", [None, 0.5, 1, 3])
def test_from_a_third_on_the_estimate_is_near(workers: int, speed: float | None) -> None:
    """What it foretells is within a quarter of what is left, or within 5 % of the whole run."""
    tasks = mixed(0.3)
    for at, end in estimates(as_before(tasks, speed) if speed else tasks, workers):
        if at > 1 / 3:
            assert abs(end - 1) <= max(0.25 * (1 - at), 0.05), (at, end)


def test_an_earlier_run_helps_at_once() -> None:
    tasks = mixed(0.2)
    known = estimates(as_before(tasks, 1), 2)
    early = [abs(end - 1) for at, end in known if 0.02 < at < 1 / 3]
    cold = [abs(end - 1) for at, end in estimates(tasks, 2) if 0.02 < at < 1 / 3]
    assert 2 * sum(early) < sum(cold)


@dataclass(frozen=True)
class Done:
    """A task of a run that was recorded."""

    work: Work
    shots: str
    worker: str
    began: float
    seconds: float


def run_of(name: str) -> list[Done]:
    """A run on two cores, with what the table of costs expected of each task."""
    with (RECORDED / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [
        Done(
            Work(
                str(i),
                row["kind"],
                row["plugin"],
                row["affinity"],
                tuple(row["needs"].split()),
                float(row["expected"]),
            ),
            row["shots"],
            row["worker"],
            float(row["began"]),
            float(row["seconds"]),
        )
        for i, row in enumerate(rows)
    ]


def known(run: list[Done], noise: float) -> list[Done]:
    """The same run where the storage has one before it, whose tasks took more or less."""
    rng = random.Random(5)
    records = [
        {
            "kind": done.work.kind,
            "method": done.work.plugin,
            "affinity": done.work.affinity,
            "shots": done.shots,
            "seconds": done.seconds * rng.uniform(1 - noise, 1 + noise),
            "status": "done",
        }
        for done in run
    ]
    earlier = Earlier(records)
    works = []
    for done, record in zip(run, records, strict=True):
        task: Any = Numbered(
            done.work.kind, done.work.affinity, int(done.shots) if done.shots else None
        )
        seconds = earlier.seconds(task, record, lambda task: 1.0)
        assert seconds is not None
        works.append(replace(done, work=replace(done.work, seconds=seconds, earlier=True)))
    return works


def replayed(run: list[Done], step: float, speak: tuple[str, ...]) -> list[tuple[float, float]]:
    """True and estimated seconds left every ``step`` seconds from a third of the run on.

    ``speak`` are kinds of tasks that tell of their steps, which take equally long.
    """
    now = 0.0
    left = TimeLeft([done.work for done in run], 2, clock=lambda: now)
    whole = max(done.began + done.seconds for done in run)
    events = [(done.began, 1, i) for i, done in enumerate(run)]
    events += [(done.began + done.seconds, 0, i) for i, done in enumerate(run)]
    events += [(i * step, 2, 0) for i in range(1, int(whole / step))]
    points = []
    for now, event, i in sorted(events):
        if event == 0:
            left.finished(run[i].work.key)
        elif event == 1:
            left.started(run[i].work.key, run[i].worker)
        else:
            for done in run:
                end = done.began + done.seconds
                if done.work.kind in speak and done.began + 2 < now < end:
                    left.told(done.work.key, end - now)
            estimate = left.seconds()
            if now > whole / 3:
                assert estimate is not None
                points.append((whole - now, estimate))
    return points


def worst(points: list[tuple[float, float]]) -> float:
    """Largest error as a share of what is left, but of a tenth of the run at least."""
    whole = 1.5 * max(true for true, _ in points)
    return max(abs(estimate - true) / max(true, 0.1 * whole) for true, estimate in points)


@pytest.mark.parametrize("name", ["demo", "mixed"])
def test_real_runs_are_foretold_from_a_third_on(name: str) -> None:
    """The demo, and six methods of which two train and one customizes, on three categories."""
    run = run_of(name)
    for each in (run, known(run, 0.0), known(run, 0.3)):
        assert worst(replayed(each, 1.0, ("train", "customize"))) <= 0.25
    assert worst(replayed(known(run, 0.0), 1.0, ())) <= 0.25


def test_a_run_on_a_busy_machine_is_foretold_by_one_before_it() -> None:
    """Five methods, of which two train and one customizes, while others took more and more of both
    cores: all took 1.6 times what the table says, later ones twice. No table foretells that.
    """
    run = run_of("learned")
    for each in (known(run, 0.0), known(run, 0.3)):
        for speak in ((), ("train", "customize")):
            assert worst(replayed(each, 1.0, speak)) <= 0.25
    assert worst(replayed(run, 1.0, ("train", "customize"))) <= 0.35


def test_a_table_that_is_wrong_of_one_plugin_misleads_of_no_other() -> None:
    """A training of which it expected 20 times too much does not make another one quick."""
    quick = [Work(f"a{i}", "train", "a", f"x{i}", seconds=75) for i in range(4)]
    others = [Work(f"b{i}", "predict", "b", "y", seconds=4) for i in range(6)]
    slow = [Work(f"c{i}", "train", "c", f"x{i}", seconds=80) for i in range(2)]
    now = 0.0
    left = TimeLeft([*quick, *others, *slow], 1, clock=lambda: now)
    for task in quick:
        left.started(task.key)
        now += 3
        left.finished(task.key)
    for task in others:
        left.started(task.key)
        now += 5
        left.finished(task.key)
    assert left.seconds() == pytest.approx(2 * 80 * 5 / 4, rel=0.4)


def test_what_a_start_takes_is_not_expected_of_everything_after_it() -> None:
    """The first task loads weights: twice what the table says. What comes after does not."""
    first = Work("a", "personalize", "m", "p", seconds=10)
    others = [Work(f"b{i}", "predict", "m", "p", seconds=10) for i in range(6)]
    now = 0.0
    left = TimeLeft([first, *others], 1, clock=lambda: now)
    left.started("a")
    now = 20.0
    left.finished("a")
    assert left.seconds() == pytest.approx(60, rel=0.3)


def test_sizes_that_the_table_knows_are_kept_apart() -> None:
    """Twice as many references, twice as long: seen of 2 and 4, foretold of 8."""
    tasks = [Work(f"{k}/{i}", "predict", "m", "p", seconds=k) for k in (2, 4, 8) for i in range(3)]
    now = 0.0
    left = TimeLeft(tasks, 1, clock=lambda: now)
    for task in tasks[:6]:
        left.started(task.key)
        now += 3 * task.seconds
        left.finished(task.key)
    assert left.seconds() == pytest.approx(3 * 3 * 8, rel=0.02)


def test_steps_tell_how_long_a_task_and_its_like_take() -> None:
    now = 0.0
    left = TimeLeft([Work(k, "train", "m", k, seconds=10) for k in "abc"], 1, clock=lambda: now)
    left.started("a")
    now = 30.0
    left.told("a", 70.0)
    now = 40.0
    assert left.seconds() == pytest.approx(60 + 2 * 100, rel=0.05)
    now = 100.0
    left.finished("a")
    left.started("b")
    now = 130.0
    left.told("b", 370.0)  # four times as long as the first
    estimate = left.seconds()
    assert estimate is not None
    assert 370 + 100 < estimate < 370 + 400


def test_what_is_overdue_goes_on() -> None:
    now = 0.0
    left = TimeLeft(
        [Work(k, "train", k, k, seconds=10, earlier=True) for k in "ab"], 2, lambda: now
    )
    left.started("a")
    left.started("b")
    now = 100.0
    estimate = left.seconds()
    assert estimate is not None
    assert 5 <= estimate <= 50


def test_what_is_not_known_is_not_invented() -> None:
    left = TimeLeft([Work("a", "predict", "m", "p")], 1)
    assert left.seconds() is None
    left.started("a")
    assert left.seconds() is None
    left.finished("a")
    assert left.seconds() == 0


def test_tasks_that_wait_for_one_another_are_not_shared_out() -> None:
    """A chain of three takes its whole length, however many workers there are."""
    now = 0.0
    chain = [Work(str(i), "predict", "m", "p", (str(i - 1),) if i else ()) for i in range(5)]
    left = TimeLeft(chain, 8, clock=lambda: now)
    for key in "01":
        left.started(key)
        now += 10.0
        left.finished(key)
    assert left.seconds() == pytest.approx(30, rel=0.05)


def test_what_was_dropped_takes_no_time() -> None:
    left = TimeLeft([Work("a", "predict", "m", "p", seconds=4, earlier=True)], 1)
    assert left.seconds() == pytest.approx(4)
    left.drop(["a"])
    assert left.seconds() == 0


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (None, "time left not known yet"),
        (0, "done"),
        (2, "about 5 s left"),
        (44, "about 45 s left"),
        (68, "about 70 s left"),
        (119, "about 2 min left"),
        (200, "about 3.5 min left"),
        (36 * 60, "about 36 min left"),
        (5400, "about 1.5 h left"),
        (20 * 3600, "about 20 h left"),
        (80 * 3600, "about 3 days left"),
    ],
)
def test_words_cannot_be_taken_for_a_clock(seconds: float | None, expected: str) -> None:
    assert words(seconds) == expected


@dataclass(frozen=True)
class Numbered:
    """What an earlier run is asked of."""

    kind: str
    affinity: str
    shots: int | None


ROWS: list[Mapping[str, object]] = [
    {"kind": "predict", "method": "m", "affinity": "x", "shots": "2", "seconds": "2"},
    {"kind": "predict", "method": "m", "affinity": "x", "shots": "2", "seconds": "4"},
    {"kind": "predict", "method": "m", "affinity": "y", "shots": "2", "seconds": "9"},
    {"kind": "predict", "method": "m", "affinity": "y", "shots": "4", "seconds": "20"},
    {"kind": "predict", "method": "m", "affinity": "x", "shots": "2", "seconds": ""},
    {"kind": "prepare", "generator": "g", "affinity": "z", "shots": "", "seconds": "30"},
]


@pytest.mark.parametrize(
    ("kind", "plugin", "affinity", "shots", "expected"),
    [
        ("predict", "m", "x", 2, 3.0),  # where it was done before
        ("predict", "m", "new", 2, 5.0),  # elsewhere
        ("predict", "m", "y", 8, 40.0),  # of the nearest number of shots, as the table has it
        ("prepare", "g", "z", None, 30.0),
        ("predict", "other", "x", 2, None),
        ("customize", "m", "x", 2, None),
    ],
)
def test_earlier_runs_tell_what_to_expect(
    kind: str, plugin: str, affinity: str, shots: int | None, expected: float | None
) -> None:
    rows = [{"status": "done"} | dict(row) for row in ROWS]
    rows.append({**ROWS[0], "seconds": "900", "status": "failed"})
    task: Any = Numbered(kind, affinity, shots)
    names = {"method": plugin} if kind == "predict" else {"generator": plugin}
    assert Earlier(rows).seconds(task, names, lambda t: float(t.shots)) == expected

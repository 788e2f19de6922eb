"""The time left, on simulated runs with a clock of their own."""

from __future__ import annotations

import heapq
import random

import pytest

from harness.reporting.time_left import TimeLeft, Work, measured, words

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


def estimates(
    tasks: list[tuple[Work, float]], workers: int, before: dict[tuple[str, str], float] | None
) -> list[tuple[float, float]]:
    """Estimate and truth, as shares of the whole run, each time a task ends."""
    now = 0.0
    left = TimeLeft([task for task, _ in tasks], workers, before, clock=lambda: now)
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


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_from_a_third_on_the_estimate_is_near(workers: int) -> None:
    """What it foretells is within a quarter of what is left, or within 5 % of the whole run."""
    for at, end in estimates(mixed(0.3), workers, None):
        if at > 1 / 3:
            assert abs(end - 1) <= max(0.25 * (1 - at), 0.05), (at, end)


def test_an_earlier_run_helps_at_once() -> None:
    tasks = mixed(0.2)
    totals: dict[tuple[str, str], list[float]] = {}
    for task, seconds in tasks:
        totals.setdefault((task.kind, task.plugin), []).append(seconds)
    before = {key: sum(values) / len(values) for key, values in totals.items()}
    known = estimates(tasks, 2, before)
    early = [abs(end - 1) for at, end in known if 0.02 < at < 1 / 3]
    cold = [abs(end - 1) for at, end in estimates(tasks, 2, None) if 0.02 < at < 1 / 3]
    assert sum(early) < sum(cold)


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
    chain = [Work(str(i), "predict", "m", f"p{i}", (str(i - 1),) if i else ()) for i in range(4)]
    left = TimeLeft(chain, 8, clock=lambda: now)
    left.started("0")
    now = 10.0
    left.finished("0")
    assert left.seconds() == pytest.approx(30)


def test_what_was_dropped_takes_no_time() -> None:
    left = TimeLeft([Work("a", "predict", "m", "p")], 1, {("predict", "m"): 4.0})
    assert left.seconds() == 4
    left.drop(["a"])
    assert left.seconds() == 0


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (None, "time left not known yet"),
        (2, "about 5 s left"),
        (44, "about 45 s left"),
        (68, "about 1 min left"),
        (36 * 60, "about 36 min left"),
        (5400, "about 1.5 h left"),
        (20 * 3600, "about 20 h left"),
        (80 * 3600, "about 3 days left"),
    ],
)
def test_words_cannot_be_taken_for_a_clock(seconds: float | None, expected: str) -> None:
    assert words(seconds) == expected


def test_an_earlier_runs_table_is_averaged() -> None:
    rows = [
        {"kind": "predict", "method": "m", "generator": "", "seconds": "2", "status": "done"},
        {"kind": "predict", "method": "m", "generator": "", "seconds": "4", "status": "done"},
        {"kind": "predict", "method": "m", "generator": "", "seconds": "90", "status": "failed"},
        {"kind": "customize", "method": "", "generator": "g", "seconds": "30", "status": "done"},
        {"kind": "predict", "method": "m", "seconds": "", "status": "done"},
    ]
    assert measured(rows) == {("predict", "m"): 3.0, ("customize", "g"): 30.0}

"""Quick results first where they cost nothing, by a clock of the tasks' own seconds."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from harness.execution.schedule import Schedule
from harness.tasks.task import Task
from tests.test_schedule import task


def mixed_sweep() -> dict[str, Task]:
    """Six cells that need a customized model, and twelve that need only two predictions."""
    tasks: dict[str, Task] = {}

    def add(key: str, kind: str, needs: tuple[str, ...], affinity: str, state: str) -> str:
        tasks[key] = task(key, kind, needs, affinity=affinity, state=state)
        return key

    for i in range(6):
        model = add(f"c{i}", "customize", (), "d/c", f"c{i}")
        parts = []
        for shard in range(2):
            where = f"d/c/{shard}"
            image = add(f"p{i}{shard}", "personalize", (model,), where, model)
            parts.append(add(f"o{i}{shard}", "predict", (model, image), where, model))
        add(f"slow{i}", "evaluate", tuple(parts), "d/c", "")
        for n in range(2):
            each = (add(f"q{i}{n}{s}", "predict", (), f"d/c/{s}", f"s{i}{n}") for s in range(2))
            add(f"quick{i}{n}", "evaluate", tuple(each), "d/c", "")
    return tasks


def ends(tasks: Mapping[str, Task], workers: int) -> dict[str, float]:
    """When each cell has its result, by a clock of the tasks' own seconds."""
    targets = [key for key, each in tasks.items() if each.kind == "evaluate"]
    schedule = Schedule(tasks, targets)
    running: list[tuple[float, str, str]] = []
    idle = [f"w{i}" for i in range(workers)]
    now, results = 0.0, {}
    while schedule.todo:
        for worker in list(idle):
            if each := schedule.next(worker):
                idle.remove(worker)
                running.append((now + each.seconds, each.key, worker))
        running.sort()
        now, key, worker = running.pop(0)
        schedule.finish(key, tasks[key].seconds)
        idle.append(worker)
        if key in targets:
            results[key] = now
    return results


@pytest.mark.parametrize("workers", [1, 2])
def test_cheap_cells_come_first_while_there_is_slack(
    workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = mixed_sweep()
    now = ends(tasks, workers)
    with monkeypatch.context() as patch:
        patch.setattr("harness.execution.schedule.SLACK", float("inf"))  # longest path first
        before = ends(tasks, workers)
    whole = max(now.values())
    assert whole <= 1.01 * max(before.values()), "at no cost"
    quick = sorted(end for key, end in now.items() if key.startswith("quick"))
    assert quick[-1] < 0.2 * whole
    assert sum(quick) < sum(end for key, end in before.items() if key.startswith("quick"))


def test_without_slack_the_longest_path_comes_first() -> None:
    """One long chain decides when all is done: nothing quick may go before it."""
    tasks = {
        "c": task("c", "customize", (), "d/c", state="c"),
        "p": task("p", "personalize", ("c",), "d/c/0", state="c"),
        "long": task("long", "evaluate", ("p",), "d/c"),
        "q": task("q", "predict", (), "d/c/1"),
        "short": task("short", "evaluate", ("q",), "d/c"),
    }
    schedule = Schedule(tasks, ["long", "short"])
    first = schedule.next("w")
    assert first is not None
    assert first.key == "c"

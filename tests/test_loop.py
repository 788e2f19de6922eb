"""The loop that all executors share, on workers that do what a test says."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from harness.execution.executor import Event, Executor, Settings, Shares
from harness.execution.local_executor import LocalExecutor
from harness.execution.loop import Loop
from harness.execution.outcome import Outcome
from harness.execution.schedule import Schedule
from harness.storage.room import Full
from harness.tasks.kinds import Evaluate, Predict
from harness.tasks.task import Payload, Task

SETTINGS = Settings("", None, 2, 1, time_limit=5.0, attempts=3, gpus=0.0)
Answers = Callable[[int, Payload], list[Event]]


class Scripted(Executor):
    """Workers in no process: what each answers to a task is a function's."""

    def __init__(self, answers: Answers, shares: Sequence[Shares] = (Shares(), Shares())) -> None:
        self.answers, self.shares = answers, shares
        self.events = [Event(i) for i in range(len(shares))]
        self.submitted: list[tuple[int, str]] = []
        self.restarted: list[int] = []

    def start(self) -> Sequence[Shares]:
        return self.shares

    def submit(self, slot: int, payload: Payload) -> None:
        self.submitted.append((slot, payload.task.key))
        self.events += self.answers(slot, payload)

    def poll(self, seconds: float) -> Sequence[Event]:
        events, self.events = self.events, []
        return events

    def restart(self, slot: int) -> None:
        self.restarted.append(slot)
        self.events.append(Event(slot))

    def close(self) -> None: ...


class Log:
    """A listener that writes down what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.workers: dict[str, str] = {}

    def started(self, task: Task, worker: str) -> None:
        self.workers[task.key] = worker

    def finished(self, task: Task, outcome: Outcome) -> None:
        self.lines.append(f"finished {task.key}")

    def failed(self, task: Task, outcome: Outcome, dropped: list[str]) -> None:
        self.lines.append(f"failed {task.key}: {outcome.error}")

    def lost(self, task: Task, reason: str) -> None:
        self.lines.append(f"lost {task.key}: {reason}")

    def replaced(self, task: Task, reason: str) -> None:
        self.lines.append(f"replaced after {task.key}: {reason}")

    def told(self, task: Task, worker: str, text: str) -> None:
        self.lines.append(f"{task.key} of {worker}: {text}")

    def tick(self) -> None: ...


def tasks(gpus: Sequence[float] = (0.0, 0.0)) -> dict[str, Task]:
    """As many predictions, and the evaluation that needs them all."""
    cell: dict[str, Any] = {"category": 0, "shots": 1, "seed": 0, "generated": 0, "method": 0}
    listed: list[Task] = [
        Predict(
            key=f"p{i}",
            affinity=f"d/c/{i}",
            gpus=each,
            shard=i,
            support="s",
            draw_queries="q",
            **cell,
        )
        for i, each in enumerate(gpus)
    ]
    keys = tuple(task.key for task in listed)
    listed.append(Evaluate(key="e", affinity="d/c", predictions=keys, **cell))
    return {task.key: task for task in listed}


def run(
    executor: Scripted, graph: dict[str, Task], settings: Settings = SETTINGS
) -> tuple[Log, Schedule]:
    log, schedule = Log(), Schedule(graph, ["e"])
    loop = Loop(executor, executor.start(), settings)
    loop.run(schedule, lambda task: Payload(task=task, threads=1), log)
    return log, schedule


def done(slot: int, payload: Payload) -> list[Event]:
    return [Event(slot, Outcome(payload.task.key))]


def test_everything_is_done_once() -> None:
    executor = Scripted(done)
    log, schedule = run(executor, tasks())
    assert sorted(log.lines) == ["finished e", "finished p0", "finished p1"]
    assert not schedule.todo
    assert len(executor.submitted) == 3
    assert executor.restarted == []


def test_a_lost_worker_gets_a_successor_and_its_task_another_try() -> None:
    tried: list[str] = []

    def once(slot: int, payload: Payload) -> list[Event]:
        tried.append(payload.task.key)
        if payload.task.key == "p0" and tried.count("p0") == 1:
            return [Event(slot, lost="died of signal SIGSEGV")]
        return done(slot, payload)

    executor = Scripted(once)
    log, _ = run(executor, tasks())
    assert log.lines[0] == "lost p0: its worker died of signal SIGSEGV"
    assert "finished e" in log.lines
    assert len(executor.restarted) == 1
    assert len(set(log.workers.values())) >= 2
    assert "worker-2" in log.workers.values(), "its successor has a name of its own"


def test_a_task_that_always_ends_its_worker_is_given_up() -> None:
    def deadly(slot: int, payload: Payload) -> list[Event]:
        if payload.task.key == "p0":
            return [Event(slot, lost="exited with status 3")]
        return done(slot, payload)

    executor = Scripted(deadly)
    log, schedule = run(executor, tasks())
    assert log.lines[-1] == "failed p0: its worker exited with status 3 (tried 3 times)"
    assert len(executor.restarted) == 3
    assert not schedule.todo


def test_a_full_disk_ends_the_run_and_costs_no_task() -> None:
    """The next task would fare no better; this one is not to blame."""

    def full(slot: int, payload: Payload) -> list[Event]:
        if payload.task.key == "p0":
            why = "/data: No space left on device: p0 takes 9.0 MB"
            return [Event(slot, Outcome("p0", "Full: ...", full=why, replace="an error"))]
        return done(slot, payload)

    executor = Scripted(full)
    log, schedule = Log(), Schedule(tasks(), ["e"])
    loop = Loop(executor, executor.start(), SETTINGS)
    with pytest.raises(Full, match=r"^/data: No space left on device: p0 takes 9.0 MB$"):
        loop.run(schedule, lambda task: Payload(task=task, threads=1), log)
    assert not any(line.startswith("failed") for line in log.lines)
    assert {"p0", "e"} <= schedule.todo


def test_workers_that_never_start_end_the_run() -> None:
    executor = Scripted(done)
    executor.events = []
    executor.poll = lambda seconds: [Event(0, lost="exited with status 1")]  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="workers do not start: one exited with status 1"):
        run(executor, tasks())
    assert len(executor.restarted) == 3 * 2, "each may fail three times"


def test_a_task_past_its_limit_is_ended_before_it_is_tried_again() -> None:
    executor = Scripted(lambda slot, payload: [])
    settings = Settings("", None, 1, 1, time_limit=0.0, attempts=2, gpus=0.0)
    log, _ = run(executor, tasks([0.0]), settings)
    limit = "exceeded the time limit of 0 s"
    assert log.lines == [f"lost p0: {limit}", f"failed p0: {limit} (tried 2 times)"]
    assert len(executor.restarted) == 2


def test_a_worker_that_a_task_has_spoilt_gets_no_other() -> None:
    def spoilt(slot: int, payload: Payload) -> list[Event]:
        why = "it changed numpy.sort" if payload.task.key == "p0" else ""
        return [Event(slot, Outcome(payload.task.key, replace=why))]

    executor = Scripted(spoilt)
    log, _ = run(executor, tasks())
    assert "replaced after p0: it changed numpy.sort" in log.lines
    assert len(executor.restarted) == 1


def test_tasks_go_where_there_is_what_they_ask_for() -> None:
    executor = Scripted(done, [Shares(least=1e-6), Shares(most=0.0)])
    run(executor, tasks([1.0, 0.0, 0.5, 0.0]))
    slots = {key: slot for slot, key in executor.submitted}
    assert (slots["p0"], slots["p1"], slots["p2"], slots["p3"]) == (0, 1, 0, 1)
    assert slots["e"] == 1


def test_a_task_for_a_local_worker_that_has_just_died_is_no_error_of_the_driver(
    tmp_path: Path,
) -> None:
    executor = LocalExecutor(Settings(str(tmp_path), None, 1, 1, 60.0, 2, 0.0))
    executor.start()
    try:
        worker = executor._workers[0]
        while not worker.started:
            executor.poll(1)
        os.kill(worker._pid, signal.SIGKILL)
        worker.pipe.poll(10)  # until its end is closed
        executor.submit(0, Payload(task=tasks()["p0"], threads=1))
        assert executor.poll(1) == [Event(0, lost="died of signal SIGKILL")]
        executor.restart(0)
        while not executor._workers[0].started:
            executor.poll(1)
    finally:
        executor.close()

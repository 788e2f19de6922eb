"""The loop that all executors share, on workers that do what a test says."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from harness.execution import shortage
from harness.execution.executors.executor import Event, Executor, Settings, Shares
from harness.execution.executors.local_executor import LocalExecutor
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
        self.waits: list[float] = []

    def start(self) -> Sequence[Shares]:
        return self.shares

    def submit(self, slot: int, payload: Payload) -> None:
        self.submitted.append((slot, payload.task.key))
        self.events += self.answers(slot, payload)

    def poll(self, seconds: float) -> Sequence[Event]:
        events, self.events = self.events, []
        return events

    def restart(self, slot: int, after: float = 0.0) -> None:
        self.restarted.append(slot)
        self.waits.append(after)
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

    def waits(self, worker: str, reason: str) -> None:
        self.lines.append(f"{worker} {reason}")

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


STARVED = "was ended, for its node ran short of memory: 22.8 of 23.5 GB used, 4.1 GB by it"


def starved(keys: Mapping[str, int], share: float) -> tuple[Scripted, list[str]]:
    """Workers that are ended for want of memory, the first so many times that they have a key."""
    tried: list[str] = []

    def answers(slot: int, payload: Payload) -> list[Event]:
        key = payload.task.key
        tried.append(key)
        if tried.count(key) <= keys.get(key, 0):
            return [Event(slot, lost=STARVED, memory=share)]
        return done(slot, payload)

    return Scripted(answers), tried


def test_a_node_short_of_memory_is_waited_for_and_costs_no_attempts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Others fill it: five times, though a task has three attempts; the next ones wait longer."""
    monkeypatch.setattr(shortage, "PAUSE", 0.01)
    executor, tried = starved({"p0": 5}, 0.2)
    began = time.monotonic()
    log, schedule = run(executor, tasks())
    assert not schedule.todo
    assert sorted(line for line in log.lines if line.startswith("finished")) == [
        *("finished e", "finished p0", "finished p1")
    ]
    assert log.lines[0] == f"lost p0: its worker {STARVED}; it waits 0 s"
    assert executor.waits == pytest.approx([0.01, 0.02, 0.04, 0.08, 0.16])
    assert time.monotonic() - began >= 0.31
    assert tried.index("p1") < 3, "others go on meanwhile"


def test_a_task_that_takes_the_memory_itself_has_its_usual_attempts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shortage, "PAUSE", 0.01)
    executor, tried = starved({"p0": 99}, 0.7)
    log, _ = run(executor, tasks())
    assert tried.count("p0") == 3
    assert log.lines[-1] == f"failed p0: its worker {STARVED} (tried 3 times)"


def test_a_node_that_is_never_free_of_others_is_given_up_by_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shortage, "PAUSE", 0.001)
    executor, tried = starved({"p0": 99}, 0.1)
    log, _ = run(executor, tasks())
    assert tried.count("p0") == shortage.TRIES
    assert log.lines[-1].endswith(f"{STARVED} (tried {shortage.TRIES} times)")


def test_workers_that_find_no_memory_to_start_wait_as_well(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shortage, "PAUSE", 0.001)
    executor = Scripted(done)
    executor.events = [Event(0, lost=STARVED, memory=0.0), Event(1)]
    log, _ = run(executor, tasks())
    assert log.lines[0] == f"worker-0 {STARVED}; the next starts in 0 s"
    assert executor.waits == [0.001]
    never = Scripted(done)
    never.poll = lambda seconds: [Event(0, lost=STARVED, memory=0.0)]  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="workers do not start: one was ended, for its node"):
        run(never, tasks())
    assert len(never.waits) == shortage.TRIES


#: As Ray 2.56 has it, shortened where it goes on about other things.
KILLED = """2 worker(s) were killed due to the node running low on memory. Memory on the node \
(IP: 10.0.0.7, ID: dd227381) was 22.80GB used / 23.54GB limit (0.968565)
OOM kill reason: Memory usage 24481513472B exceeded threshold of 24012676914B
Considered workers: [
Selected to kill: (Actor(aa11): job ID=01, task name=A.__init__, required resources={CPU: 1}, \
pid=9748, actual memory used=14.14GB, worker ID=ad06)
Selected to kill: (Actor(bb22): job ID=01, task name=A.__init__, required resources={CPU: 1}, \
pid=9749, actual memory used=0.71GB, worker ID=ad07)
]"""


def test_what_ray_says_of_a_worker_it_ended_is_told_in_a_line() -> None:
    words = "was ended, for its node ran short of memory: 22.8 of 23.5 GB used"
    text, share = shortage.described(KILLED, "aa11")
    assert text == f"{words}, 14.1 GB by it (10.0.0.7)"
    assert share == pytest.approx(14.14 / 22.8)
    text, share = shortage.described(KILLED, "bb22")
    assert text == f"{words}, 0.7 GB by it (10.0.0.7)"
    assert share < shortage.BLAME
    assert shortage.described(KILLED, "cc33") == (f"{words} (10.0.0.7)", 0.0)
    assert shortage.described("worded otherwise", "aa11")[1] == 0.0


def test_waits_grow_to_a_minute() -> None:
    assert [shortage.pause(n) for n in (1, 2, 3, 4, 5, 6, 100)] == [5, 10, 20, 40, 60, 60, 60]


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


def test_a_local_worker_that_the_system_ended_for_memory_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the count that Linux keeps: one killed by somebody else is told from it."""
    kernel = tmp_path / "proc" / "vmstat"
    kernel.parent.mkdir()
    kernel.write_text("nr_free_pages 7\noom_kill 4\nnuma_hit 12\n")
    count = shortage.ended_by_linux
    assert (count(tmp_path), count(tmp_path / "nowhere")) == (4, 0)
    monkeypatch.setattr(shortage, "ended_by_linux", lambda: count(tmp_path))
    executor = LocalExecutor(Settings(str(tmp_path), None, 1, 1, 60.0, 2, 0.0))
    executor.start()
    events: list[Event] = []
    try:
        for kills in (4, 5, 5):
            while not executor._workers[0].started:
                executor.poll(1)
            kernel.write_text(f"oom_kill {kills}\n")
            os.kill(executor._workers[0]._pid, signal.SIGKILL)
            events += executor.poll(10)
            executor.restart(0)
    finally:
        executor.close()
    other = Event(0, lost="died of signal SIGKILL")
    assert events == [other, Event(0, lost=shortage.BY_LINUX, memory=1.0), other]

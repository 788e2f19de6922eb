"""What the driver itself costs: planning many cells, and handing out tasks that do nothing.

Wanted: 100,000 cells planned in under 10 s and 1 GB; 200 tasks a second on 2 cores; memory that
does not grow with the number of finished tasks.

    python -m benchmarks.overhead
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from harness.config.sweep import DatasetEntry, MethodEntry, Sweep
from harness.execution.executors.executor import Settings, load
from harness.execution.loop import Loop
from harness.execution.outcome import Outcome
from harness.execution.schedule import Schedule
from harness.interface import Sample
from harness.planning.graph import Category, Code, Plan, PlanInputs, Reference, plan
from harness.tasks.kinds import Prepare
from harness.tasks.task import Payload, Task

SECONDS, GIGABYTES, RATE = 10.0, 1.0, 200.0


def swept(categories: int, methods: int, seeds: int) -> tuple[Sweep, PlanInputs]:
    """A sweep of 50 queries in each category and one shot; nothing is on disk."""
    listed = [
        MethodEntry(use="mean_color", label=f"m{i}", params={"grid": i + 1}) for i in range(methods)
    ]
    sweep = Sweep(
        name="many",
        datasets=[DatasetEntry(use="folder", label="many")],
        methods=listed,
        shots=[1],
        seeds=list(range(seeds)),
    )
    planned = []
    for c in range(categories):
        queries = tuple(Reference(Sample(f"{c}/{i}"), f"{c}/{i}") for i in range(50))
        supports = {s: (Reference(Sample(f"{c}/t{s}"), f"{c}/t{s}"),) for s in range(seeds)}
        planned.append(Category("many", f"c{c}", "thing", queries, supports, str(c)))
    return sweep, PlanInputs(tuple(planned), tuple(Code(f"m{i}") for i in range(methods)), {})


def megabytes() -> float:
    """Memory that this process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


class Meter:
    """Listens, and notes memory now and then."""

    def __init__(self) -> None:
        self.count = 0
        self.memory: list[float] = []
        self.first = self.cpu = 0.0  # clock and processor time when the first task was finished

    def started(self, task: Task, worker: str) -> None:
        """Nothing to note."""

    def finished(self, task: Task, outcome: Outcome) -> None:
        """Count."""
        if not self.count:
            self.first, self.cpu = time.monotonic(), time.process_time()
        self.count += 1
        if self.count % 500 == 0:
            self.memory.append(megabytes())

    def failed(self, task: Task, outcome: Outcome, dropped: list[str]) -> None:
        """Nothing may fail."""
        raise RuntimeError(outcome.error)

    def lost(self, task: Task, reason: str) -> None:
        """No worker may be lost."""
        raise RuntimeError(reason)

    def waits(self, worker: str, reason: str) -> None:
        """No worker may be lost."""
        raise RuntimeError(reason)

    def replaced(self, task: Task, reason: str) -> None:
        """No worker may be replaced."""
        raise RuntimeError(reason)

    def told(self, task: Task, worker: str, text: str) -> None:
        """Nothing to note."""

    def tick(self) -> None:
        """Nothing to note."""


def chain(count: int) -> Plan:
    """Tasks of one kind whose artifacts are there, so that a worker has nothing to do."""
    keys = [f"{i:032x}" for i in range(count)]
    tasks: dict[str, Task] = {
        key: Prepare(key=key, affinity=f"prior/{i % 8}", generator="", object_name="")
        for i, key in enumerate(keys)
    }
    return Plan(tasks, {})


class HandedOut(NamedTuple):
    """What it took to hand out tasks, from the first answer on."""

    rate: float  # tasks a second
    cpu: float  # processor seconds of the driver, for each task
    memory: list[float]  # megabytes on the way


def handed_out(tasks: int, workers: int, runner: str) -> HandedOut:
    """Have a runner do tasks that are done already."""
    from harness.storage.store import Store, artifact

    graph, meter = chain(tasks), Meter()
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        for key in graph.tasks:
            path = Path(store.path(artifact(Prepare.kind, key)))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        settings = Settings(folder, None, workers, 1, 60.0, 1, 0.0)
        executor = load(runner, settings)
        loop = Loop(executor, executor.start(), settings)
        schedule = Schedule(graph.tasks, graph.tasks)

        def payload(task: Task) -> Payload:
            return Payload(task=task, threads=1)

        loop.run(schedule, payload, meter)
        rate = (meter.count - 1) / (time.monotonic() - meter.first)
        cpu = (time.process_time() - meter.cpu) / (meter.count - 1)
        executor.close()
    return HandedOut(rate, cpu, meter.memory)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--cells", type=int, default=100_000)
    parser.add_argument("--tasks", type=int, default=10_000, help="0: plan only")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--runner", choices=("local", "ray"), default="ray")
    arguments = parser.parse_args()
    good = True
    sweep, stuff = swept(-(-arguments.cells // 2000), 20, 100)
    began, cpu = time.perf_counter(), time.process_time()
    graph = plan(sweep, stuff)
    took, cpu = time.perf_counter() - began, time.process_time() - cpu
    began = time.process_time()
    Schedule(graph.tasks, graph.cells.values())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    text = "{} cells, {} tasks: planned in {:.1f} s ({:.1f} s of CPU), "
    text += "scheduled in {:.1f} s, {:.2f} GB"
    spent = time.process_time() - began
    print(text.format(len(graph.cells), len(graph.tasks), took, cpu, spent, peak), flush=True)
    good &= cpu < SECONDS and peak < GIGABYTES
    del graph, sweep, stuff
    if arguments.tasks:
        rate, _, memory = handed_out(arguments.tasks, arguments.workers, arguments.runner)
        half = memory[len(memory) // 2 :]
        growth = half[-1] - half[0] if half else 0.0
        text = "{} tasks that do nothing on {} {} workers: {:.0f} a second; "
        text += "{:.0f} MB, {:+.1f} MB in the second half"
        print(
            text.format(
                arguments.tasks,
                arguments.workers,
                arguments.runner,
                rate,
                memory[-1] if memory else 0,
                growth,
            )
        )
        good &= rate >= RATE
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())

"""The full reproduction on simulated clusters: how busy the GPUs are, and a Gantt chart.

The scheduler is the real one and the plan is that of ``conf/full.yaml``, with as many queries as
the datasets have; tasks take what ``conf/costs.yaml`` says, times a random factor, for estimates
are never exact. Nothing runs. Wanted, until the last 5 % of the makespan: GPUs at least 97 % busy
with 8 of them, 90 % with 64.

    python -m benchmarks.schedule --gantt /tmp/gantt.png
"""

from __future__ import annotations

import argparse
import heapq
import math
import random
import resource
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from harness import config
from harness.config.sweep import Subset, Sweep
from harness.execution.schedule import Schedule
from harness.interface import Sample
from harness.planning import costs
from harness.planning.graph import Category, Code, Plan, PlanInputs, Reference, plan
from harness.tasks.task import Task

HOME = Path(__file__).resolve().parents[1]
WANTED = {8: 0.97, 64: 0.90}
SHARE = 1e-6  # the least a GPU worker takes: what needs none is for CPU workers

#: dataset -> category -> test images, as docs/datasets.md counts them; one number: one category
#: or, with a letter x, so many alike
QUERIES: dict[str, dict[str, int]] = {
    "mvtec": {
        "bottle": 83, "cable": 150, "capsule": 132, "carpet": 117, "grid": 78, "hazelnut": 110,
        "leather": 124, "metal_nut": 115, "pill": 167, "screw": 160, "tile": 117, "toothbrush": 42,
        "transistor": 100, "wood": 79, "zipper": 151,
    },
    "visa": {
        "candle": 200, "capsules": 160, "cashew": 150, "chewinggum": 150, "fryum": 150,
        "macaroni1": 200, "macaroni2": 200, "pcb1": 200, "pcb2": 200, "pcb3": 201, "pcb4": 201,
        "pipe_fryum": 150,
    },
    "ksdd": {"ksdd": 340},
    "aitex": {"aitex": 747},
    "elpv": {"elpv": 1092},
    "oct2017": {"oct2017": 968},
    "resc": {"resc": 1805},
    "brainmri": {"brainmri": 180},
    "headct": {"headct": 125},
    "mnist": {str(i): 10_000 for i in range(10)},
    "cifar10": {f"class{i}": 10_000 for i in range(10)},
}  # fmt: skip
MASKED = ("mvtec", "visa", "ksdd", "aitex", "resc")


class Span(NamedTuple):
    """What a worker did when, in seconds."""

    worker: int
    task: Task
    begin: float
    end: float


def inputs(sweep: Sweep) -> PlanInputs:
    """What the disk would say of the sweep: counts are real, keys are not."""
    categories = []
    most = max(sweep.shots)
    for entry in sweep.datasets:
        for name, count in QUERIES[entry.use].items():
            if isinstance(entry.queries, Subset):
                count = min(count, entry.queries.normal + entry.queries.anomalous)
            stem = f"{entry.label}/{name}"
            queries = tuple(Reference(Sample(f"{stem}/{i}"), f"{stem}/{i}") for i in range(count))
            supports = {
                s: tuple(Reference(Sample(f"{stem}/t{i}"), f"{stem}/t{s}.{i}") for i in range(most))
                for s in sweep.seeds
            }
            masked = entry.use in MASKED
            words = name.rstrip("0123456789") or name
            category = Category(str(entry.label), name, words, queries, supports, stem, masked)
            categories.append(category)
    codes = [_code("method", m.use, m.params, str(m.label)) for m in sweep.methods]
    generators = {n: _code("generator", g.use, g.params, n) for n, g in sweep.generators.items()}
    uses = {str(d.label): d.use for d in sweep.datasets}
    auxiliary = {}
    for m in sweep.methods:
        for c in categories:
            name = next(a.use for a in sweep.auxiliary if a.use != uses[c.dataset])
            auxiliary[str(m.label), c.dataset, c.name] = (name, name)
    return PlanInputs(tuple(categories), tuple(codes), generators, auxiliary, "metrics")


def _code(kind: str, use: str, params: dict[str, Any], digest: str) -> Code:
    plugin = config.build(kind, use, params)
    names = ("gpus", "auxiliary", "auxiliary_per_shots", "personalized", "prior")
    return Code(digest, **{n: getattr(plugin, n) for n in names if hasattr(plugin, n)})


def simulate(
    graph: Plan,
    seconds: Callable[[Task], float],
    gpus: int,
    cpus: int,
    spread: float = 0.0,
    seed: int = 0,
) -> list[Span]:
    """Run the plan on workers that take as long as estimated, times e^(spread * normal).

    Workers 0 to gpus - 1 have a whole GPU each, the others a core.
    """
    rng = random.Random(seed)
    schedule = Schedule(graph.tasks, graph.cells.values(), seconds=seconds)
    events: list[tuple[float, int, str]] = []
    idle = list(range(gpus + cpus))
    spans: list[Span] = []
    now = 0.0
    took: dict[str, float] = {}
    while schedule.todo:
        left = []
        for worker in idle:
            bounds = (1.0, SHARE) if worker < gpus else (0.0, 0.0)
            task = schedule.next(f"w{worker}", *bounds)
            if task is None:
                left.append(worker)
                continue
            end = now + seconds(task) * math.exp(spread * rng.gauss(0, 1))
            heapq.heappush(events, (end, worker, task.key))
            took[task.key] = end - now
            spans.append(Span(worker, task, now, end))
        idle = left
        now, worker, key = heapq.heappop(events)
        ended = [(worker, key)]
        while events and events[0][0] <= now:
            _, worker, key = heapq.heappop(events)
            ended.append((worker, key))
        for worker, key in ended:
            schedule.finish(key, took.pop(key))
            idle.append(worker)
        idle.sort()
    return spans


def busy(spans: Sequence[Span], gpus: int, until: float = 0.95) -> tuple[float, float]:
    """Share of time that GPU workers work, up to this share of the makespan; the makespan, seconds.

    The makespan ends with the last task of any worker.
    """
    makespan = max(s.end for s in spans)
    edge = until * makespan
    worked = sum(min(s.end, edge) - s.begin for s in spans if s.worker < gpus and s.begin < edge)
    return worked / (gpus * edge), makespan


def draw(spans: Sequence[Span], gpus: int, path: Path, title: str) -> None:
    """Gantt chart: a line per worker, a colour per kind of task."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.collections import PolyCollection
    from matplotlib.patches import Patch

    kinds = list(dict.fromkeys(s.task.kind for s in spans))
    colours = dict(zip(kinds, plt.get_cmap("tab10").colors, strict=False))
    shown = [s for s in spans if s.worker < gpus]
    corners = [
        [(s.begin / 3600, s.worker), (s.begin / 3600, s.worker + 0.9),
         (s.end / 3600, s.worker + 0.9), (s.end / 3600, s.worker)]
        for s in shown
    ]  # fmt: skip
    figure, axes = plt.subplots(figsize=(12, 2 + gpus / 10))
    faces = [colours[s.task.kind] for s in shown]
    axes.add_collection(PolyCollection(corners, facecolors=faces, linewidths=0))
    axes.set(xlim=(0, max(s.end for s in spans) / 3600), ylim=(0, gpus))
    axes.set(xlabel="hours", ylabel="GPU worker", title=title)
    axes.invert_yaxis()
    used = dict.fromkeys(s.task.kind for s in shown)
    handles = [Patch(color=colours[k], label=k) for k in used]
    axes.legend(handles=handles, ncols=len(handles), loc="upper center", bbox_to_anchor=(0.5, -0.2))
    figure.savefig(path, dpi=120, bbox_inches="tight")
    plt.close(figure)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--conf", type=Path, default=HOME / "conf" / "full.yaml")
    parser.add_argument("--costs", type=Path, default=costs.TABLE)
    parser.add_argument("--gpus", type=int, nargs="+", default=sorted(WANTED))
    parser.add_argument("--cpus-per-gpu", type=int, default=4, help="CPU workers beside each GPU")
    parser.add_argument("--spread", type=float, default=0.2, help="of real durations, as a sigma")
    parser.add_argument("--only", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--gantt", type=Path, help="PNG or SVG; the number of GPUs is added")
    arguments = parser.parse_args()
    sweep = config.load(arguments.conf, arguments.set)
    stuff = inputs(sweep)
    begun = time.perf_counter()
    graph = plan(sweep, stuff, config.only(arguments.only))
    table = costs.read(arguments.costs)
    estimate = costs.Estimator(table, sweep, stuff.categories, costs.parameters(sweep))
    took = time.perf_counter() - begun
    print(f"{len(graph.cells)} cells, {len(graph.tasks)} tasks, planned in {took:.1f} s")
    for stage in estimate.stages(graph, graph.tasks):
        hours, gpu = stage.seconds / 3600, stage.gpu_seconds / 3600
        print(f"{stage.kind:<12}{stage.tasks:>8} tasks{hours:>10.1f} h{gpu:>10.1f} GPU-hours")
    good = True
    for gpus in arguments.gpus:
        begun = time.process_time()
        spans = simulate(
            graph, estimate.seconds, gpus, gpus * arguments.cpus_per_gpu, arguments.spread
        )
        took = time.process_time() - begun
        share, makespan = busy(spans, gpus)
        last = max(s.end for s in spans if s.worker < gpus)
        moves = sum(len({s.task.affinity for s in spans if s.worker == w}) for w in range(gpus))
        text = "{} GPUs: {:.1f} % busy until 95 % of {:.2f} h (GPUs done after {:.2f} h); "
        text += "{:.0f} affinities per GPU worker; scheduled at {:.0f} tasks/s"
        print(text.format(gpus, 100 * share, makespan / 3600, last / 3600, moves / gpus,
                          len(spans) / took), flush=True)  # fmt: skip
        good &= share >= WANTED.get(gpus, 0.0)
        if arguments.gantt is not None:
            path = arguments.gantt.with_stem(f"{arguments.gantt.stem}-{gpus}")
            draw(spans, gpus, path, f"{sweep.name} on {gpus} GPUs: {100 * share:.1f} % busy")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"peak memory {peak:.2f} GB")
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())

"""How near a run's estimates of the time left were: ``python -m benchmarks.time_left CONF FOLDER``.

Replays ``tasks.csv`` of a finished sweep's folder, which one run made, through the estimate that
the terminal shows: with nothing known beforehand, and as if an earlier run's records were there.
The goal is an error of at most 25 % of what is left from one third of the run on; in the last
tenth seconds are compared to the whole run, since a quarter of next to nothing is nothing.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from harness.options import Options
from harness.planning import costs
from harness.planning.payload import Payloads
from harness.reporting.time_left import estimate
from harness.run import Prepared, prepare

Record = Mapping[str, str]
GOAL, LATE = 0.25, 0.9


def replay(
    ready: Prepared, records: Sequence[Record], workers: int, earlier: Sequence[Record]
) -> list[tuple[float, float, float]]:
    """Seconds since the start, seconds truly left and as estimated, whenever a task ended."""
    moment = 0.0
    payloads = Payloads(ready.sweep, ready.inputs, ready.graph)
    todo = [ready.graph.tasks[record["key"]] for record in records]
    cost = costs.estimator(ready.sweep, ready.inputs.plan_inputs.categories).seconds
    left = estimate(todo, payloads.names, workers, earlier, cost, clock=lambda: moment)
    events: list[tuple[float, bool, str]] = []
    for record in records:
        began = datetime.fromisoformat(record["started"]).timestamp()
        events.append((began, False, record["key"]))
        events.append((began + float(record["seconds"]), True, record["key"]))
    events.sort()
    first, last = events[0][0], events[-1][0]
    points = []
    for at, over, key in events:
        moment = at - first
        if not over:
            left.started(key)
            continue
        left.finished(key)
        points.append((moment, last - at, left.seconds() or 0.0))
    return points


def worst(points: Sequence[tuple[float, float, float]], since: float) -> float:
    """The largest error from a share of the run on, as a share of what was left."""
    whole = points[-1][0]
    late = (1 - LATE) * whole
    return max(abs(e - true) / max(true, late) for at, true, e in points if at >= since * whole)


def main() -> int:
    """Print the errors; 1 where the goal is missed."""
    parser = argparse.ArgumentParser(description="Score a run's estimates of the time left.")
    parser.add_argument("conf", type=Path)
    parser.add_argument("folder", type=Path, help="the sweep's folder, such as runs/demo")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--data-root", type=Path)
    arguments = parser.parse_args()
    ready = prepare(Options(conf=arguments.conf, data_root=arguments.data_root))
    with (arguments.folder / "tasks.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["key"] in ready.graph.tasks]
    missed = False
    for name, earlier in (("nothing known", ()), ("an earlier run known", rows)):
        points = replay(ready, rows, arguments.workers, earlier)
        error = worst(points, 1 / 3)
        missed |= error > GOAL
        print(f"{name}: from one third on {error:.0%} of what is left at worst (goal {GOAL:.0%})")
        for at, true, expected in points[:: max(1, len(points) // 12)]:
            print(f"  {at:6.0f} s: {true:6.0f} s left, estimated {expected:6.0f}")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())

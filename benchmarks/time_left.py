"""How near a run's estimates of the time left were: ``python -m benchmarks.time_left CONF FOLDER``.

Replays ``tasks.csv`` of a finished sweep's folder, which one run made, through the estimate that
the terminal shows: with nothing known beforehand, and as if an earlier run's records were there.
What tasks said of their steps meanwhile is not recorded, so that a run's own estimates are better.
Tasks are known by what they are, not by their keys: other code may have made them since.
The goal is an error of at most 25 % of what is left from one third of the run on; in the last
tenth seconds are compared to the whole run, since a quarter of next to nothing is nothing.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from harness.errors import InputError
from harness.planning import costs
from harness.planning.payload import Payloads
from harness.reporting.live.time_left import estimate
from harness.run import Prepared, prepare
from harness.running.options import Options

Record = Mapping[str, str]
NAMES = ("kind", "affinity", "method", "generator", "dataset", "category", "shots", "seed", "shard")
GOAL, LATE = 0.25, 0.9


def recorded(ready: Prepared, rows: Sequence[Record]) -> dict[str, Record]:
    """Key -> record, of the tasks of a plan that a run did, in the plan's order."""
    names = Payloads(ready.sweep, ready.inputs, ready.graph).names
    by_name = {tuple(row[name] for name in NAMES): row for row in rows if row["status"] == "done"}
    records = {}
    for key, task in ready.graph.tasks.items():
        named = names(task)
        row = by_name.get(tuple(str(named.get(name, "")) for name in NAMES))
        if row is not None:
            records[key] = row
    return records


def replay(
    ready: Prepared, records: Mapping[str, Record], workers: int, earlier: Sequence[Record]
) -> list[tuple[float, float, float]]:
    """Seconds since the start, seconds truly left and as estimated, whenever a task ended."""
    moment = 0.0
    payloads = Payloads(ready.sweep, ready.inputs, ready.graph)
    todo = [ready.graph.tasks[key] for key in records]
    cost = costs.estimator(ready.sweep, ready.inputs.plan_inputs.categories).seconds
    left = estimate(todo, payloads.names, workers, earlier, cost, clock=lambda: moment)
    events: list[tuple[float, bool, str]] = []
    for key, record in records.items():
        began = datetime.fromisoformat(record["started"]).timestamp()
        events.append((began, False, key))
        events.append((began + float(record["seconds"]), True, key))
    events.sort()
    first, last = events[0][0], events[-1][0]
    points = []
    for at, over, key in events:
        moment = at - first
        if not over:
            left.started(key, records[key]["worker"])
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
    parser.add_argument("--workers", type=int, help="default: those that are in the records")
    parser.add_argument("--data-root", type=Path)
    arguments = parser.parse_args()
    try:
        ready = prepare(Options(conf=arguments.conf, data_root=arguments.data_root))
        with (arguments.folder / "tasks.csv").open(encoding="utf-8", newline="") as file:
            records = recorded(ready, list(csv.DictReader(file)))
    except (InputError, OSError) as error:
        parser.error(str(error))
    if not records:
        parser.error(f"{arguments.folder} has no task of {arguments.conf} that is done")
    workers = arguments.workers or len({record["worker"] for record in records.values()})
    missed = False
    for name, earlier in (("nothing known", []), ("an earlier run known", [*records.values()])):
        points = replay(ready, records, workers, earlier)
        miss = worst(points, 1 / 3)
        missed |= miss > GOAL
        print(f"{name}: from one third on {miss:.0%} of what is left at worst (goal {GOAL:.0%})")
        for at, true, expected in points[:: max(1, len(points) // 12)]:
            print(f"  {at:6.0f} s: {true:6.0f} s left, estimated {expected:6.0f}")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())

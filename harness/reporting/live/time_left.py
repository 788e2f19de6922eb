"""How long a run will still take, learned from how long its tasks took.

What a task takes depends on its kind, on the plug-in that does it, on its size, and on whether its
worker holds what the task's affinity shares: the first prediction on a shard decodes and encodes
its queries, later ones find them. What earlier runs in the same storage took, or else a table of
costs, says what to expect; how far that is from the truth is learned while the run goes on
(``pace``), also from tasks under way that tell their steps or last longer than expected. Then the
tasks left are played through, longest path first, as the schedule does it.
"""

from __future__ import annotations

import heapq
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from harness.reporting.live.pace import Paces, Work
from harness.tasks.task import Task

#: tasks left up to which their order is played through: it matters towards the end
PATHS = 3000
#: what lasts longer than expected goes on for this share of what it has taken: where tasks like it
#: were measured, and where the expectation is a table's
OVERDUE, UNKNOWN = 0.1, 0.5


@dataclass(slots=True)
class _Running:
    """A task under way."""

    since: float
    first: bool  # of its kind and plug-in that its worker does at its affinity
    heard: float = 0.0  # when it said how far it is
    steps: float | None = None  # seconds that its steps had left then


class TimeLeft:
    """Estimates the seconds left of a run.

    Parameters
    ----------
    tasks : those to do, each after its needs
    workers : how many do them
    clock : seconds, for tests
    """

    def __init__(
        self,
        tasks: Iterable[Work],
        workers: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._left = {task.key: task for task in tasks}
        self._workers, self._clock = max(1, workers), clock
        self._paces = Paces()
        self._earlier = any(task.earlier for task in self._left.values())
        self._opened: set[tuple[str, str, str]] = set()  # kind, plug-in, affinity: by any worker
        self._been: set[tuple[str, str, str, str]] = set()  # worker, and the same
        self._running: dict[str, _Running] = {}

    def started(self, key: str, worker: str = "") -> None:
        """A worker begins a task."""
        task = self._left.get(key)
        if task is not None:
            place = worker, *_place(task)
            self._running[key] = _Running(self._clock(), place not in self._been)
            self._been.add(place)
            self._opened.add(_place(task))

    def told(self, key: str, seconds: float) -> None:
        """A task under way says that the steps it counts take so many more seconds."""
        running = self._running.get(key)
        if running is not None:
            running.heard, running.steps = self._clock(), seconds

    def finished(self, key: str) -> None:
        """A task is over, one way or the other."""
        task, running = self._left.pop(key, None), self._running.pop(key, None)
        if task is not None and running is not None:
            self._paces.count(task, running.first, self._clock() - running.since)

    def lost(self, key: str) -> None:
        """A task under way came to nothing, and is to do again."""
        self._running.pop(key, None)

    def drop(self, keys: Iterable[str]) -> None:
        """Tasks will not be done, for what they need has failed."""
        for key in keys:
            self._left.pop(key, None)
            self._running.pop(key, None)

    def seconds(self) -> float | None:
        """Seconds left, None where nothing at all is known yet."""
        if not self._left:
            return 0.0
        costs = self._costs()
        if costs is None:
            return None
        tails = self._tails(costs)
        if len(costs) > PATHS:
            return max(sum(costs.values()) / self._workers, max(tails.values()))
        return self._played(costs, tails)

    def _costs(self) -> dict[str, float] | None:
        """Seconds of each task left; of those under way, of what is left of them."""
        costs, under_way = {}, []
        for key, running in self._running.items():
            task, elapsed = self._left[key], self._clock() - running.since
            expected = self._paces.seconds(task, running.first)
            costs[key] = self._rest(task, running, expected - elapsed, elapsed)
            if running.steps is not None:
                under_way.append((task, running.first, elapsed + costs[key]))
            elif elapsed > expected:
                under_way.append((task, running.first, elapsed))
        # What is under way foretells others like it: no less than it has taken by now.
        for task, first, total in under_way:
            self._paces.count(task, first, total)
        known = self._earlier or self._paces.known
        opened = set(self._opened)
        for key, task in self._left.items():
            if key not in costs:
                costs[key] = self._paces.seconds(task, _place(task) not in opened)
                opened.add(_place(task))
        for task, first, total in under_way:
            self._paces.count(task, first, total, -1)
        return costs if known else None

    def _rest(self, task: Work, running: _Running, expected: float, elapsed: float) -> float:
        """Seconds that a task under way still takes, of which some are expected by now."""
        measured = self._paces.measured(task)
        if running.steps is None:
            return max(expected, (OVERDUE if measured else UNKNOWN) * elapsed)
        steps = max(running.steps - (self._clock() - running.heard), 0.0)
        if measured and steps < expected:  # there may be other work after these steps
            return (steps + expected) / 2
        return steps

    def _tails(self, costs: Mapping[str, float]) -> dict[str, float]:
        """Seconds of the longest path from each task on, itself included."""
        tails: dict[str, float] = {}
        after: dict[str, float] = defaultdict(float)
        for key in reversed(self._left):  # each comes after its needs
            tails[key] = costs[key] + after[key]
            for need in self._left[key].needs:
                after[need] = max(after[need], tails[key])
        return tails

    def _played(self, costs: Mapping[str, float], tails: Mapping[str, float]) -> float:
        """Seconds until all is done when free workers take the ready task of the longest path."""
        waiting = {
            key: len([need for need in task.needs if need in self._left])
            for key, task in self._left.items()
        }
        dependents: dict[str, list[str]] = defaultdict(list)
        for key, task in self._left.items():
            for need in task.needs:
                dependents[need].append(key)
        # What runs already has its worker; the rest is taken up as workers become free.
        ends = [(costs[key], key) for key in self._running]
        heapq.heapify(ends)
        ready = [(-tails[k], k) for k, n in waiting.items() if not n and k not in self._running]
        heapq.heapify(ready)
        free, now = self._workers - len(ends), 0.0
        while ends or ready:
            while ready and free > 0:
                key = heapq.heappop(ready)[1]
                heapq.heappush(ends, (now + costs[key], key))
                free -= 1
            now, key = heapq.heappop(ends)
            free += 1
            for dependent in dependents[key]:
                waiting[dependent] -= 1
                if not waiting[dependent]:
                    heapq.heappush(ready, (-tails[dependent], dependent))
        return now


def _place(task: Work) -> tuple[str, str, str]:
    return task.kind, task.plugin, task.affinity


class Earlier:
    """What tasks took in earlier runs.

    Parameters
    ----------
    records : rows of ``tasks.csv``
    """

    def __init__(self, records: Iterable[Mapping[str, object]]) -> None:
        #: kind, plug-in -> (affinity or "", shots or "") -> seconds
        self._seconds: dict[tuple[str, str], dict[tuple[str, str], list[float]]] = {}
        for record in records:
            if record.get("status") != "done":
                continue
            try:
                seconds = float(str(record["seconds"]))
            except (KeyError, ValueError):
                continue
            places = self._seconds.setdefault((str(record.get("kind")), plugin(record)), {})
            shots = str(record.get("shots") or "")
            for affinity in {str(record.get("affinity") or ""), ""}:
                places.setdefault((affinity, shots), []).append(seconds)

    def seconds(
        self, task: Task, names: Mapping[str, object], cost: Callable[[Task], float]
    ) -> float | None:
        """Mean of tasks most like it; None where there are none.

        Of its kind and plug-in, at its affinity if there are such, with as many shots: else with
        the next number of shots, corrected by what the table of costs says of the two.
        """
        places = self._seconds.get((task.kind, plugin(names)))
        if places is None:
            return None
        shots = getattr(task, "shots", None)
        for affinity in (task.affinity, ""):
            known = {s: seconds for (a, s), seconds in places.items() if a == affinity}
            if not known:
                continue
            near = min(known, key=lambda s: _steps(s, shots))
            mean = sum(known[near]) / len(known[near])
            if not near.isdigit() or shots in (None, int(near)):
                return mean
            return mean * cost(task) / max(cost(_with_shots(task, int(near))), 1e-9)
        return None


def _steps(known: str, shots: object) -> float:
    if known.isdigit() and isinstance(shots, int):
        return abs(int(known) - shots)
    return 0.0 if known == str("" if shots is None else shots) else float("inf")


def _with_shots(task: Task, shots: int) -> Task:
    changed: Task = replace(task, shots=shots)  # type: ignore[call-arg]
    return changed


def estimate(
    todo: Sequence[Task],
    names: Callable[[Task], Mapping[str, object]],
    workers: int,
    records: Iterable[Mapping[str, object]],
    cost: Callable[[Task], float],
    clock: Callable[[], float] = time.monotonic,
) -> TimeLeft:
    """An estimate for tasks of a plan that starts from the records of earlier runs.

    Parameters
    ----------
    todo : in the plan's order
    names : gives the labels of a task's method and generator, under these names
    workers : how many do them
    records : rows of ``tasks.csv``
    cost : seconds of a task by a table
    clock : seconds, for replays
    """
    earlier, work = Earlier(records), []
    for t in todo:
        label = names(t)
        seconds = earlier.seconds(t, label, cost)
        expected = cost(t) if seconds is None else seconds
        place = t.kind, plugin(label), t.affinity
        work.append(Work(t.key, *place, tuple(t.needs), expected, seconds is not None))
    return TimeLeft(work, workers, clock)


def plugin(names: Mapping[str, object]) -> str:
    """Label of the method that does a task, or else of the generator; "" where neither does."""
    return str(names.get("method") or names.get("generator") or "")


def words(seconds: float | None) -> str:
    """Time left as people say it, which cannot be taken for a clock: "about 3 min left"."""
    if seconds is None:
        return "time left not known yet"
    if seconds == 0:
        return "done"
    if seconds < 50:
        return f"about {max(5, 5 * round(seconds / 5))} s left"
    if seconds < 95:
        return f"about {10 * round(seconds / 10)} s left"
    if seconds < 5 * 60:
        return f"about {round(seconds / 30) / 2:g} min left"
    if seconds < 50 * 60:
        return f"about {max(1, round(seconds / 60))} min left"
    hours = seconds / 3600
    if hours < 10:
        return f"about {hours:.1f} h left"
    return f"about {round(hours)} h left" if hours < 48 else f"about {round(hours / 24)} days left"

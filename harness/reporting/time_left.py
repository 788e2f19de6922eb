"""How long a run will still take, learned from how long its tasks took.

What a task takes depends on its kind, on the plug-in that does it, and on whether its worker holds
what the task's affinity shares: the first prediction on a shard decodes and encodes its queries,
later ones find them. So durations are averaged by these three; where nothing was seen yet, by fewer
of them; and at the start by what an earlier sweep in the same storage took, or by a table of costs,
corrected by how far that was from the truth for the tasks of that kind that are done.
"""

from __future__ import annotations

import heapq
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from harness.planning.task import Task

#: tasks left up to which their order is played through: it matters towards the end
PATHS = 3000
#: how much an earlier duration weighs beside those of this run, in tasks
PRIOR = 1.0
#: how much the table of costs weighs beside what tasks took, in seconds
TRUST = 5.0


@dataclass(frozen=True, slots=True)
class Work:
    """A task as far as its duration goes."""

    key: str
    kind: str
    plugin: str  # label of the method or generator that does it, "" where there is none
    affinity: str
    needs: tuple[str, ...] = ()
    seconds: float = 1.0  # what a table of costs says it takes


class _Mean:
    """Mean of the seconds seen."""

    def __init__(self, prior: float | None = None) -> None:
        self.count, self.sum = (0.0, 0.0) if prior is None else (PRIOR, PRIOR * prior)

    def add(self, seconds: float) -> None:
        self.count, self.sum = self.count + 1, self.sum + seconds

    @property
    def value(self) -> float | None:
        return self.sum / self.count if self.count else None


class _Rate:
    """What tasks took for each second that the table of costs gave them."""

    def __init__(self) -> None:
        self._taken = self._expected = TRUST

    def add(self, taken: float, expected: float) -> None:
        self._taken += taken
        self._expected += expected

    @property
    def value(self) -> float:
        return self._taken / self._expected


class TimeLeft:
    """Estimates the seconds left of a run.

    Parameters
    ----------
    tasks : those to do
    workers : how many do them
    before : (kind, plug-in) -> mean seconds in an earlier run
    clock : seconds, for tests
    """

    def __init__(
        self,
        tasks: Iterable[Work],
        workers: int,
        before: Mapping[tuple[str, str], float] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._left = {task.key: task for task in tasks}
        self._workers, self._clock = max(1, workers), clock
        self._before = dict(before or {})
        self._means: dict[tuple[str, ...], _Mean] = {}
        self._opened: set[tuple[str, str]] = set()  # kind, affinity that some task has begun
        self._running: dict[str, tuple[float, bool]] = {}  # since when, first of its kind there
        self._rates: dict[str, _Rate] = defaultdict(_Rate)  # by kind
        self._rate = _Rate()  # of all kinds

    def started(self, key: str) -> None:
        """A worker begins a task."""
        task = self._left.get(key)
        if task is not None:
            opening = (task.kind, task.affinity)
            self._running[key] = self._clock(), opening not in self._opened
            self._opened.add(opening)

    def finished(self, key: str) -> None:
        """A task is over, one way or the other."""
        task, (since, first) = self._left.pop(key, None), self._running.pop(key, (None, False))
        if task is None or since is None:
            return
        seconds = self._clock() - since
        for group in _groups(task, first):
            self._means.setdefault(group, self._fresh(group)).add(seconds)
        self._rates[task.kind].add(seconds, task.seconds)
        self._rate.add(seconds, task.seconds)

    def drop(self, keys: Iterable[str]) -> None:
        """Tasks will not be done, for what they need has failed."""
        for key in keys:
            self._left.pop(key, None)
            self._running.pop(key, None)

    def seconds(self) -> float | None:
        """Seconds left, None where nothing at all is known yet."""
        if not self._left:
            return 0.0
        if not self._means and not self._before:
            return None
        costs = self._costs()
        now = self._clock()
        for key, (since, _) in self._running.items():
            if key in costs:  # at least a tenth of it: what lasts longer than expected is not over
                costs[key] = max(costs[key] - (now - since), 0.1 * costs[key])
        if len(costs) > PATHS:
            return sum(costs.values()) / self._workers
        return self._played(costs)

    def _costs(self) -> dict[str, float]:
        """Seconds of each task left; the first of an affinity nobody has begun pays for all."""
        opened = set(self._opened)
        costs = {}
        for key, task in self._left.items():
            opening = (task.kind, task.affinity)
            first = self._running[key][1] if key in self._running else opening not in opened
            opened.add(opening)
            costs[key] = self._cost(task, first)
        return costs

    def _cost(self, task: Work, first: bool) -> float:
        for group in _groups(task, first):
            mean = self._means.get(group)
            if mean is not None and mean.value is not None:
                return mean.value
        if (task.kind, task.plugin) in self._before:
            return self._before[task.kind, task.plugin]
        rate = self._rates.get(task.kind, self._rate)
        return rate.value * task.seconds

    def _fresh(self, group: tuple[str, ...]) -> _Mean:
        # An earlier run's mean does not tell first tasks from later ones: it stands for either.
        return _Mean(self._before.get((group[0], group[1])) if len(group) == 2 else None)

    def _played(self, costs: Mapping[str, float]) -> float:
        """Seconds until all is done when free workers take what is ready, in the plan's order."""
        waiting = {
            key: len([need for need in task.needs if need in self._left])
            for key, task in self._left.items()
        }
        dependents: dict[str, list[str]] = defaultdict(list)
        for key, task in self._left.items():
            for need in task.needs:
                dependents[need].append(key)
        # What runs already has its worker; the rest is taken up as workers become free.
        ends = [(costs[key], key) for key in self._running if key in costs]
        heapq.heapify(ends)
        ready = deque(k for k, n in waiting.items() if not n and k not in self._running)
        free, now = self._workers - len(ends), 0.0
        while ends or ready:
            while ready and free > 0:
                key = ready.popleft()
                heapq.heappush(ends, (now + costs[key], key))
                free -= 1
            now, key = heapq.heappop(ends)
            free += 1
            for dependent in dependents[key]:
                waiting[dependent] -= 1
                if not waiting[dependent]:
                    ready.append(dependent)
        return now


def _groups(task: Work, first: bool) -> tuple[tuple[str, ...], ...]:
    """From the most alike tasks to those that are merely of one plug-in."""
    return (task.kind, task.plugin, "first" if first else "later"), (task.kind, task.plugin)


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
    records : rows of ``tasks.csv``, older ones first
    cost : seconds of a task by a table
    clock : seconds, for replays
    """
    work = [
        Work(t.key, t.kind, plugin(names(t)), t.affinity, tuple(t.needs), cost(t)) for t in todo
    ]
    return TimeLeft(work, workers, measured(records), clock)


def plugin(names: Mapping[str, object]) -> str:
    """Label of the method that does a task, or else of the generator; "" where neither does."""
    return str(names.get("method") or names.get("generator") or "")


def words(seconds: float | None) -> str:
    """Time left as people say it, which cannot be taken for a clock: "about 3 min left"."""
    if seconds is None:
        return "time left not known yet"
    if seconds < 50:
        return f"about {max(5, 5 * round(seconds / 5))} s left"
    if seconds < 50 * 60:
        return f"about {max(1, round(seconds / 60))} min left"
    hours = seconds / 3600
    if hours < 10:
        return f"about {hours:.1f} h left"
    return f"about {round(hours)} h left" if hours < 48 else f"about {round(hours / 24)} days left"


def measured(records: Iterable[Mapping[str, object]]) -> dict[tuple[str, str], float]:
    """(kind, plug-in) -> mean seconds, from the records of an earlier run's ``tasks.csv``."""
    seconds: dict[tuple[str, str], list[float]] = defaultdict(list)
    for record in records:
        if record.get("status") != "done":
            continue
        try:
            taken = float(str(record["seconds"]))
        except (KeyError, ValueError):
            continue
        seconds[str(record.get("kind")), plugin(record)].append(taken)
    return {key: sum(values) / len(values) for key, values in seconds.items()}

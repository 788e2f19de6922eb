"""Which ready task goes to which worker next. Pure: no processes, no clock; simulated in tests.

Workers with a share of a GPU do the tasks that ask for one, workers without the others, where a
cluster has both (``next``'s bounds say so). Rules, in this order:

1. A result that is ready to be evaluated is evaluated: it is cheap, and somebody is waiting.
2. A worker keeps its affinity (a shard of a category, whose queries it has decoded and encoded)
   and, within it, the state it holds (a customized model, a fitted support).
3. Otherwise the longest remaining path first, so that no long chain is left alone at the end. While
   there is slack (the work left would keep all workers busy for longer than the longest path
   takes), cells that need least come first instead: somebody sees results early, at no cost.
4. A worker with nothing left of its affinity takes one that no other works at, near its own if it
   can, that has most to do; when there is none it helps where most is left, unless those who are
   at it would be done before it had decoded and encoded what they hold.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping

from harness.tasks.task import Task

#: work left over the longest path, per worker, from which on there is slack
SLACK = 1.5
#: how much less a cell must need to come first: less would cost more in warmth than it gains
CHEAPER = 2.0

Entry = tuple[float, int, str]  # minus the seconds of the longest path, position in the plan, key


class _Affinity:
    """What is ready of one affinity for workers of one kind: for each state a heap of entries."""

    def __init__(self) -> None:
        self.heaps: dict[str, list[Entry]] = {}
        self.load = 0.0  # seconds of all that is ready
        self._urgent: float | None = 0.0

    def add(self, state: str, entry: Entry, seconds: float) -> None:
        """A task became ready."""
        heapq.heappush(self.heaps.setdefault(state, []), entry)
        self.load += seconds
        self._urgent = None

    def pop(self, state: str) -> Entry:
        """Take the most urgent entry of a state."""
        heap = self.heaps[state]
        entry = heapq.heappop(heap)
        if not heap:
            del self.heaps[state]
        self._urgent = None
        return entry

    def urgent(self) -> float:
        """Seconds of the longest path from anything ready."""
        if self._urgent is None:
            self._urgent = max(-heap[0][0] for heap in self.heaps.values())
        return self._urgent


class Schedule:
    """Tasks that are still to do, in dependency order, handed out one at a time.

    Parameters
    ----------
    tasks : all tasks, each after its needs
    targets : keys of the tasks whose results are wanted
    there : keys of artifacts that exist already
    seconds : estimates how long a task takes; without it the task's own ``seconds``
    """

    def __init__(
        self,
        tasks: Mapping[str, Task],
        targets: Iterable[str],
        stored: Collection[str] = (),
        seconds: Callable[[Task], float] | None = None,
    ) -> None:
        self._tasks = tasks
        self._seconds = seconds or (lambda task: task.seconds)
        self._stored = set(stored)
        self._index = {key: i for i, key in enumerate(tasks)}
        self.todo: set[str] = set()
        self.running: dict[str, str] = {}  # task -> worker
        self._dependents: dict[str, dict[str, None]] = {}  # in the order they were admitted
        self._waiting: dict[str, set[str]] = {}  # task -> those of its needs that are to do
        self._rank: dict[str, float] = {}  # seconds of the longest path from its start
        #: share of a GPU -> affinity -> what is ready
        self._pools: dict[float, dict[str, _Affinity]] = {}
        self._evaluations: deque[str] = deque()
        #: seconds that are left of the cheapest cell that a task is for
        self._cell: dict[str, float] = {}
        self._work = 0.0  # seconds of all that is to do
        #: share of a GPU -> ready tasks by that, the cheapest first; some are no longer ready
        self._quick: dict[float, list[Entry]] = {}
        #: seconds of tasks by kind: of a worker's first of an affinity (True), of those after it
        self._paces: dict[tuple[str, bool], float] = {}
        self._been: dict[str, str] = {}  # worker -> affinity it has finished a task at
        self._at: dict[str, tuple[str, str]] = {}  # worker -> affinity, state
        self._admit(list(targets))

    def next(self, worker: str, gpus: float = float("inf"), least: float = 0.0) -> Task | None:
        """The task this worker should do now, None when none is ready that suits it.

        Parameters
        ----------
        worker : its name
        gpus, least : the largest and smallest share of a GPU that tasks for it may ask for
        """
        while (key := self._pop(worker, gpus, least)) is not None:
            if key in self.todo and key not in self.running and not self._waiting[key]:
                self.running[key] = worker
                return self._tasks[key]  # the others were dropped since they became ready
        return None

    def _pop(self, worker: str, gpus: float, least: float) -> str | None:
        """Take the key that suits the worker best out of what became ready."""
        if self._evaluations and least <= 0:
            return self._evaluations.popleft()
        pools = {g: p for g, p in self._pools.items() if p and least <= g <= gpus}
        if not pools:
            return None
        affinity, state = self._at.get(worker, ("", ""))
        slack = self._slack(pools)
        if not any(affinity in affinities for affinities in pools.values()):
            affinity = self._choose_affinity(pools, worker, affinity)
        if slack:
            affinity = self._cheaper(pools, affinity) or affinity
        if not affinity:
            return None
        ready = {
            share: affinities[affinity]
            for share, affinities in pools.items()
            if affinity in affinities
        }
        heads = [
            (s, heap[0], share) for share, pool in ready.items() for s, heap in pool.heaps.items()
        ]
        least_left = min(self._cell[entry[2]] for _, entry, _ in heads)
        _, _, _, share, state = min(
            (slack and self._cell[entry[2]] > CHEAPER * least_left, s != state, entry, share, s)
            for s, entry, share in heads
        )
        pool = ready[share]
        key = pool.pop(state)[2]
        pool.load -= self._seconds(self._tasks[key])
        if not pool.heaps:
            del self._pools[share][affinity]
        self._at[worker] = (affinity, state)
        return key

    def finish(self, key: str, seconds: float = 0.0) -> None:
        """A task is done, in so many seconds if known: what waited for it may become ready."""
        worker, task = self.running.pop(key, ""), self._tasks[key]
        if seconds and not task.final:
            pace = task.kind, self._been.get(worker) != task.affinity
            # half of what is known is forgotten, for methods differ
            self._paces[pace] = (self._paces.get(pace, seconds) + seconds) / 2
            self._been[worker] = task.affinity
        self._leave(key)
        self._stored.add(key)
        for dependent in self._dependents.get(key, ()):
            waiting = self._waiting[dependent]
            if key in waiting:
                waiting.discard(key)
                if not waiting:
                    self._ready(dependent)

    def release(self, key: str) -> None:
        """A task's worker was lost: the task is ready again."""
        worker = self.running.pop(key)
        self._at.pop(worker, None)
        self._been.pop(worker, None)
        self._drop_unwanted([key])
        self._ready(key)

    def redo(self, key: str, missing: Iterable[str]) -> None:
        """A running task found artifacts missing: make those again, then it."""
        self.running.pop(key, None)
        awaited = list(missing)
        self._stored.difference_update(awaited)
        for need in awaited:
            self._dependents.setdefault(need, {})[key] = None
        self._waiting[key] = set(awaited)
        self._admit(awaited)

    def fail(self, key: str) -> list[str]:
        """A task failed: it and all that depends on it are dropped; their keys, itself first.

        What only they needed, such as the other shards of a cell, is dropped as well.
        """
        self.running.pop(key, None)
        lost, front = [], [key]
        while front:
            if (reached := front.pop()) in self.todo:
                self._leave(reached)
                lost.append(reached)
                front += self._dependents.get(reached, ())
        self._drop_unwanted(need for dropped in lost for need in self._tasks[dropped].needs)
        return lost

    def _drop_unwanted(self, keys: Iterable[str]) -> None:
        """Drop tasks that nothing to do needs any longer, unless they run or are targets."""
        front = list(keys)
        while front:
            key = front.pop()
            after = self._dependents.get(key)
            if key in self.running or not after or any(d in self.todo for d in after):
                continue
            if key in self.todo:
                self._leave(key)
                front += self._tasks[key].needs

    def _admit(self, targets: list[str]) -> None:
        """Add targets that are to do, and what is missing on the way to them."""
        new = {key for key in targets if key not in self.todo}
        front = list(new)
        while front:
            for need in self._tasks[front.pop()].needs:
                if need not in self._stored and need not in self.todo and need not in new:
                    new.add(need)
                    front.append(need)
        self.todo |= new
        ordered = sorted(new, key=self._index.__getitem__)
        for key in ordered:
            needs = [n for n in self._tasks[key].needs if n in self.todo]
            self._waiting[key] = set(needs)
            for need in needs:
                self._dependents.setdefault(need, {})[key] = None
        for key in reversed(ordered):
            after = max((self._rank.get(d, 0.0) for d in self._dependents.get(key, ())), default=0)
            self._rank[key] = self._seconds(self._tasks[key]) + after
            self._work += self._seconds(self._tasks[key])
        for key in reversed(ordered):
            task = self._tasks[key]
            if task.final or key not in self._dependents:
                self._cell[key] = self._seconds(task) + self._needed(key)
            cells = [self._cell[d] for d in self._dependents.get(key, ()) if d in self._cell]
            self._cell[key] = min([self._cell.get(key, float("inf")), *cells])
        for key in ordered:
            if not self._waiting[key]:
                self._ready(key)

    def _needed(self, key: str) -> float:
        """Seconds of all that is to do before a task can be done."""
        front, seen = [key], {key}
        while front:
            for need in self._tasks[front.pop()].needs:
                if need in self.todo and need not in seen:
                    seen.add(need)
                    front.append(need)
        return sum(self._seconds(self._tasks[need]) for need in seen - {key})

    def _leave(self, key: str) -> None:
        """A task is no longer to do."""
        if key in self.todo:
            self.todo.discard(key)
            self._work -= self._seconds(self._tasks[key])

    def _slack(self, pools: Mapping[float, Mapping[str, _Affinity]]) -> bool:
        """Whether the workers are kept busy for longer than the longest path takes anyway."""
        longest = max(a.urgent() for affinities in pools.values() for a in affinities.values())
        running = max((self._rank[key] for key in self.running), default=0.0)
        workers = len(self.running) + 1
        return self._work / workers > SLACK * max(longest, running)

    def _cheaper(self, pools: Mapping[float, Mapping[str, _Affinity]], current: str) -> str:
        """Another affinity, nobody's, with a task for a far cheaper cell than any left here."""
        mine = [
            self._cell[heap[0][2]]
            for affinities in pools.values()
            if current in affinities
            for heap in affinities[current].heaps.values()
        ]
        others = [self._cheapest(share) for share in pools]
        best = min((entry for entry in others if entry is not None), default=None)
        if best is None or not mine or best[0] * CHEAPER > min(mine):
            return ""
        affinity = self._tasks[best[2]].affinity
        taken = any(self._at.get(w, ("",))[0] == affinity for w in self.running.values())
        return "" if taken else affinity

    def _cheapest(self, share: float) -> Entry | None:
        """The ready task of the cheapest cell; entries of tasks that are gone are let go."""
        heap = self._quick.get(share, [])
        while heap:
            key = heap[0][2]
            if key in self.todo and key not in self.running and not self._waiting[key]:
                return heap[0]
            heapq.heappop(heap)
        return None

    def _ready(self, key: str) -> None:
        if key not in self.todo:
            return
        task = self._tasks[key]
        if task.final:
            self._evaluations.append(key)
            return
        affinity = self._pools.setdefault(task.gpus, {}).setdefault(task.affinity, _Affinity())
        entry = (-self._rank[key], self._index[key], key)
        affinity.add(task.state, entry, self._seconds(task))
        quick = (self._cell[key], self._index[key], key)
        heapq.heappush(self._quick.setdefault(task.gpus, []), quick)

    def _choose_affinity(
        self, pools: Mapping[float, Mapping[str, _Affinity]], worker: str, current: str
    ) -> str:
        """The affinity for a worker that has nothing left of its own, if any: rules 3 and 4."""
        taken = {
            self._at[w][0]
            for key, w in self.running.items()
            if w != worker and w in self._at and self._tasks[key].gpus in pools
        }
        category = "/".join(current.split("/")[:2]) + "/"
        best, chosen = (False, False, 0.0, 0.0), ""
        for affinities in pools.values():
            for name, affinity in affinities.items():
                if name in taken and not self._worth_helping(affinity):
                    continue
                near = current != "" and f"{name}/".startswith(category)
                appeal = (name not in taken, near, affinity.urgent(), affinity.load)
                if not chosen or appeal > best:
                    best, chosen = appeal, name
        return chosen

    def _worth_helping(self, affinity: _Affinity) -> bool:
        """Whether a newcomer finishes a task before those of the affinity have done them all."""
        kind = self._tasks[next(iter(affinity.heaps.values()))[0][2]].kind
        first, later = (self._paces.get((kind, first)) for first in (True, False))
        if first is None or later is None:
            return True
        left = sum(map(len, affinity.heaps.values())) + 1  # and the one that runs
        return first < left * later

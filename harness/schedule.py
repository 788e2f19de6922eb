"""Which ready task goes to which worker next. Pure: no processes, no clock; simulated in tests.

Rules, in this order:

1. A result that is ready to be evaluated is evaluated: it is cheap, and somebody is waiting.
2. A worker stays at its place (a shard of a category: its queries are decoded and encoded there)
   and, within it, with the state it holds (a customized model, a fitted support).
3. Otherwise the longest remaining path first.
4. A worker with nothing left at its place goes to one nobody works at, near its own if it can, that
   has most to do; when there is none it helps where most is left.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Collection, Iterable, Mapping

from harness.plan import Task

#: Rough seconds of a task by kind: only their proportions matter, for the longest path.
COSTS: Mapping[str, float] = {
    "train": 600.0,
    "prepare": 60.0,
    "customize": 300.0,
    "generate": 60.0,
    "personalize": 60.0,
    "predict": 5.0,
    "evaluate": 1.0,
}


class Schedule:
    """Tasks that are still to do, in dependency order, handed out one at a time.

    Parameters
    ----------
    tasks : all tasks, each after its needs
    targets : keys of the evaluate tasks whose results are wanted
    there : keys of artifacts that exist already
    costs : estimated seconds by kind
    """

    def __init__(
        self,
        tasks: Mapping[str, Task],
        targets: Iterable[str],
        there: Collection[str] = (),
        costs: Mapping[str, float] = COSTS,
    ) -> None:
        self._tasks = tasks
        self._costs = costs
        self._there = set(there)
        self._index = {key: i for i, key in enumerate(tasks)}
        self.todo: set[str] = set()
        self.running: dict[str, str] = {}  # task -> worker
        self._dependents: dict[str, dict[str, None]] = {}  # in the order they were admitted
        self._waiting: dict[str, set[str]] = {}  # task -> those of its needs that are to do
        self._rank: dict[str, float] = {}  # seconds of the longest path from its start
        self._places: dict[str, dict[str, list[tuple[float, int, str]]]] = {}
        self._load: dict[str, float] = {}  # place -> seconds of what is ready there
        self._evaluations: deque[str] = deque()
        self._at: dict[str, tuple[str, str]] = {}  # worker -> place, state
        self._admit(list(targets))

    def next(self, worker: str, gpus: float = float("inf")) -> Task | None:
        """The task this worker should do now, None when none is ready that it has the GPU for."""
        while (key := self._pop(worker, gpus)) is not None:
            if key in self.todo and key not in self.running and not self._waiting[key]:
                self.running[key] = worker
                return self._tasks[key]  # the others were dropped since they became ready
        return None

    def _pop(self, worker: str, gpus: float) -> str | None:
        """Take the key that suits the worker best out of what became ready."""
        if self._evaluations:
            return self._evaluations.popleft()
        place = self._choose_place(worker, gpus)
        if place is None:
            return None
        states = self._places[place]
        state = self._at.get(worker, ("", ""))[1]
        if state not in states or self._tasks[states[state][0][2]].gpus > gpus:
            fit = [s for s, heap in states.items() if self._tasks[heap[0][2]].gpus <= gpus]
            state = min(fit, key=lambda s: states[s][0][:2])
        key = heapq.heappop(states[state])[2]
        if not states[state]:
            del states[state]
        if not states:
            del self._places[place]
        self._load[place] -= self._costs[self._tasks[key].kind]
        self._at[worker] = (place, state)
        return key

    def finish(self, key: str) -> None:
        """A task is done: what waited for it may become ready."""
        self.running.pop(key, None)
        self.todo.discard(key)
        self._there.add(key)
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
        self._drop_unwanted([key])
        self._ready(key)

    def redo(self, key: str, missing: Iterable[str]) -> None:
        """A running task found artifacts missing: make those again, then it."""
        self.running.pop(key, None)
        awaited = list(missing)
        self._there.difference_update(awaited)
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
            if (here := front.pop()) in self.todo:
                self.todo.discard(here)
                lost.append(here)
                front += self._dependents.get(here, ())
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
                self.todo.discard(key)
                front += self._tasks[key].needs

    def _admit(self, targets: list[str]) -> None:
        """Add targets that are to do, and what is missing on the way to them."""
        new = {key for key in targets if key not in self.todo}
        front = list(new)
        while front:
            for need in self._tasks[front.pop()].needs:
                if need not in self._there and need not in self.todo and need not in new:
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
            self._rank[key] = self._costs[self._tasks[key].kind] + after
        for key in ordered:
            if not self._waiting[key]:
                self._ready(key)

    def _ready(self, key: str) -> None:
        if key not in self.todo:
            return
        task = self._tasks[key]
        if task.kind == "evaluate":
            self._evaluations.append(key)
            return
        states = self._places.setdefault(task.place, {})
        entry = (-self._rank[key], self._index[key], key)
        heapq.heappush(states.setdefault(task.state, []), entry)
        self._load[task.place] = self._load.get(task.place, 0.0) + self._costs[task.kind]

    def _choose_place(self, worker: str, gpus: float) -> str | None:
        here = self._at.get(worker, ("", ""))[0]
        if here in self._places and self._possible(here, gpus):
            return here
        taken = {self._at[w][0] for w in self.running.values() if w != worker and w in self._at}
        fit = [p for p in self._places if self._possible(p, gpus)]
        free = [p for p in fit if p not in taken]
        if not fit:
            return None
        category = "/".join(here.split("/")[:2])

        def appeal(place: str) -> tuple[bool, float, float]:
            urgent = max(-heap[0][0] for heap in self._places[place].values())
            near = bool(category) and place.startswith(category)
            return near, urgent, self._load[place]

        return max(free or fit, key=appeal)

    def _possible(self, place: str, gpus: float) -> bool:
        return any(self._tasks[heap[0][2]].gpus <= gpus for heap in self._places[place].values())

"""How much longer or shorter tasks take than was expected, learned from those that are over.

What is expected of a task comes from an earlier run or from a table of costs, which knows how tasks
of a plug-in compare (eight references against two) better than how long they take here. So what is
learned are ratios, from the coarse to the fine: of all tasks, of a plug-in's, of one kind of these
that come first at an affinity or later, of those of one size. A finer ratio starts
from the coarser one and soon follows its own tasks. Plug-ins are told apart in logarithms, and each
has one voice however many tasks it has: one of which the table is wrong by far moves no other far.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

#: how much the expectation weighs beside all kinds of tasks together, in kinds: of a table, and of
#: an earlier run
TABLE, EARLIER = 1.0, 3.0
#: how much a coarser ratio weighs beside the tasks of a finer one, in tasks
COARSE = 0.2
#: seconds of tasks that are half a voice: what is quick is mostly overhead
HEARD = 5.0
#: how much of what a first task took more, in logarithms, is held of others of its plug-in
START_UP = 0.5
LEAST = 0.01  # seconds: what is expected to take less is taken for this


@dataclass(frozen=True, slots=True)
class Work:
    """A task as far as its duration goes."""

    key: str
    kind: str
    plugin: str  # label of the method or generator that does it, "" where there is none
    affinity: str
    needs: tuple[str, ...] = ()
    seconds: float = 1.0  # what it is expected to take
    earlier: bool = False  # whether that is what an earlier run took, not what a table says


class _Ratio:
    """Seconds taken over seconds expected."""

    def __init__(self) -> None:
        self.count, self.taken, self.expected = 0, 0.0, 0.0

    def count_in(self, taken: float, expected: float, sign: int) -> None:
        self.count += sign
        self.taken += sign * taken
        self.expected += sign * expected

    @property
    def log(self) -> float:
        return math.log(max(self.taken, LEAST) / max(self.expected, LEAST))

    @property
    def voice(self) -> float:
        return self.taken / (self.taken + HEARD) if self.count else 0.0


Group = tuple[object, ...]


class Paces:
    """Learns ratios from finished tasks and tells what others will take."""

    def __init__(self) -> None:
        self._ratios: dict[Group, _Ratio] = defaultdict(_Ratio)
        self._kinds: dict[Group, None] = {}  # (earlier, plug-in, kind) that were counted
        self._logs: dict[Group, float] = {}  # what was worked out since the last task counted

    @property
    def known(self) -> bool:
        """Whether any task was counted."""
        return any(self._ratios[kind].count for kind in self._kinds)

    def measured(self, task: Work) -> bool:
        """Whether tasks of this plug-in and kind were counted, or an earlier run had them."""
        return task.earlier or self._ratios[_kind(task)].count > 0

    def count(self, task: Work, first: bool, seconds: float, sign: int = 1) -> None:
        """Count a task that took so long; with a sign of -1 it is taken back.

        Parameters
        ----------
        task : it
        first : whether its worker did the first one of its kind and plug-in at its affinity
        seconds : it took
        """
        kind, expected = _kind(task), _expected(task)
        self._kinds[kind] = None
        for group in _finer(task, first):
            self._ratios[group].count_in(seconds, expected, sign)
        if first:  # to start up and to decode takes what later ones of the plug-in do not
            ratio = max(seconds, LEAST) / expected
            seconds = expected * ratio**START_UP
        self._ratios[kind].count_in(seconds, expected, sign)
        self._logs.clear()

    def seconds(self, task: Work, first: bool) -> float:
        """What a task will take, by all that was counted."""
        return _expected(task) * math.exp(self._log(task, first))

    def _log(self, task: Work, first: bool) -> float:
        finest = _finer(task, first)[-1]
        if finest not in self._logs:
            log = self._plugin(task)
            place, sized = _finer(task, first)
            other = self._ratios[_finer(task, not first)[0]]
            if not self._ratios[place].count and other.count:
                # A first one takes longer by what nobody knows yet, but never less.
                log = max(log, other.log) if first else (log + other.log) / 2
            for ratio in (self._ratios[place], self._ratios[sized]):
                if ratio.count:
                    log = (COARSE * log + ratio.count * ratio.log) / (COARSE + ratio.count)
            self._logs[finest] = log
        return self._logs[finest]

    def _plugin(self, task: Work) -> float:
        group = task.earlier, task.plugin
        if group not in self._logs:
            mine = [kind for kind in self._kinds if kind[:2] == group]
            self._logs[group] = self._middle(mine, self._all(task.earlier), 1.0)
        return self._logs[group]

    def _all(self, earlier: bool) -> float:
        group = (earlier,)
        if group not in self._logs:
            kinds = [kind for kind in self._kinds if kind[0] == earlier]
            self._logs[group] = self._middle(kinds, 0.0, EARLIER if earlier else TABLE)
        return self._logs[group]

    def _middle(self, kinds: Iterable[Group], start: float, weight: float) -> float:
        """Median of the logarithms of kinds, each with its voice, and of what one starts from."""
        logs = [(start, weight)]
        for kind in kinds:
            ratio = self._ratios[kind]
            if ratio.count:
                logs.append((ratio.log, ratio.voice))
        logs.sort()
        half, heard, before = sum(voice for _, voice in logs) / 2, 0.0, logs[0]
        for log, voice in logs:
            at = heard + voice / 2  # the middle of its voice; between two of them, interpolated
            if at >= half:
                last, where = before
                return log if log == last else last + (log - last) * (half - where) / (at - where)
            heard, before = heard + voice, (log, at)
        return before[0]


def _expected(task: Work) -> float:
    return max(task.seconds, LEAST)


def _kind(task: Work) -> Group:
    return task.earlier, task.plugin, task.kind


def _finer(task: Work, first: bool) -> tuple[Group, Group]:
    place = (*_kind(task), first)
    return place, (*place, task.seconds)

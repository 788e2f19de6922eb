"""Counts what workers made and what they had already: the proof that nothing is made twice.

A sweep's ``sharing.csv`` has a row for each worker and each thing it made of images or read:

    worker  its name in the run
    what    "decode" (pictures), "mask" (those of evaluation), "read <kind>" (artifacts), or the
            name that a plug-in gave to a space of features: an encoder with its weights and sizes
    misses      how many it decoded, read or computed
    recomputed  how many of these it had made before, and no longer held
    hits        how often it had what was asked for
"""

from __future__ import annotations

import csv
import io
from collections.abc import Hashable, Iterable, Mapping

Counts = dict[str, list[int]]  # what -> misses, recomputed, hits

COLUMNS = ("worker", "what", "misses", "recomputed", "hits")


class Counter:
    """Counts of one worker.

    It remembers a number for each thing that was made, about 80 bytes, to know it again.
    """

    def __init__(self) -> None:
        self._seen: set[int] = set()
        self._counts: Counts = {}

    def miss(self, what: str, keys: Iterable[Hashable]) -> None:
        """Things were made, each of one key."""
        row = self._counts.setdefault(what, [0, 0, 0])
        for key in keys:
            number = hash((what, key))
            row[0] += 1
            row[1] += number in self._seen
            self._seen.add(number)

    def hit(self, what: str, n: int = 1) -> None:
        """Things were there."""
        self._counts.setdefault(what, [0, 0, 0])[2] += n

    def take(self) -> Counts:
        """What was counted since this was last asked."""
        counts, self._counts = self._counts, {}
        return counts


class Sharing:
    """Counts of all workers of a run."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, str], list[int]] = {}

    def add(self, worker: str, counts: Mapping[str, list[int]]) -> None:
        """A worker's counts of one task."""
        for what, new in counts.items():
            row = self._rows.setdefault((worker, what), [0, 0, 0])
            row[:] = (old + more for old, more in zip(row, new, strict=True))

    def __bool__(self) -> bool:
        return bool(self._rows)

    def text(self) -> str:
        """The table as CSV, by worker and name."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows([*names, *row] for names, row in sorted(self._rows.items()))
        return out.getvalue()

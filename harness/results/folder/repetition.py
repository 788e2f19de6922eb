"""What an audit saw: finished tasks of a sweep, done again, and whether the same came out."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from harness.storage.store import Store

FILE = "audit.json"  # in a sweep's folder
SHOWN = 20  # tasks named in a report


@dataclass(frozen=True)
class Doubt:
    """A task that did not do again what it did."""

    key: str
    task: str  # in words
    what: str  # how the arrays differ, or why it could not be repeated


@dataclass
class Audit:
    """Tasks repeated in fresh workers."""

    share: float  # that was asked for, 0..1
    seed: int  # of the draw
    date: str
    finished: int  # tasks that could have been repeated
    repeated: int = 0
    different: list[Doubt] = field(default_factory=list)
    failed: list[Doubt] = field(default_factory=list)  # they did not come to their end this time
    #: different, but of a plug-in that does not promise to be deterministic
    excused: list[Doubt] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether all that was repeated did the same, as far as it promises to."""
        return not self.different and not self.failed

    def text(self) -> str:
        """As a file holds it."""
        return json.dumps(dataclasses.asdict(self), indent=1) + "\n"

    def holds(self, keys: Collection[str]) -> bool:
        """Whether what it says is still of a plan with these keys."""
        return all(doubt.key in keys for doubt in [*self.different, *self.failed])

    def lines(self) -> list[str]:
        """What there is to read of it, in a report or on a terminal."""
        share = f"{self.repeated:,} of {self.finished:,} finished tasks"
        first = f"Audit of {self.date[:10]}: {share} were repeated in fresh workers; "
        if not self.finished:
            return [f"Audit of {self.date[:10]}: no task could be repeated"]
        if self.passed:
            lines = [f"{first}all made the same, to the last bit"]
            if self.excused:
                lines[0] = f"{first}all that promise to made the same, to the last bit"
        else:
            bad = len(self.different) + len(self.failed)
            lines = [
                f"{first}{bad} did not do the same again: figures that rest on them are in doubt"
            ]
        lines += _named([*self.different, *self.failed])
        if self.excused:
            lines.append("not promised to be deterministic, and different:")
            lines += _named(self.excused)
        return lines


def read(text: str | None) -> Audit | None:
    """An audit as a file holds it; None where there is none.

    Raises
    ------
    ValueError
        When the text is not an audit.
    """
    if not text:
        return None
    try:
        values: dict[str, Any] = json.loads(text)
        for name in ("different", "failed", "excused"):
            values[name] = [Doubt(**doubt) for doubt in values[name]]
        return Audit(**values)
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise ValueError("not readable as the result of an audit") from error


def drop_outdated(store: Store, sweep: str, keys: Collection[str]) -> None:
    """Remove a sweep's audit where it is damaged, or doubts tasks that its plan lacks by now."""
    name = f"{sweep}/{FILE}"
    try:
        saw = read(store.read_text(name))
    except ValueError:
        store.delete(name)
        return
    if saw is not None and not saw.holds(keys):
        store.delete(name)


def _named(doubts: list[Doubt]) -> list[str]:
    lines = [f"  {doubt.task}: {doubt.what}" for doubt in doubts[:SHOWN]]
    more = len(doubts) - SHOWN
    return [*lines, f"  and {more} more, see {FILE}"] if more > 0 else lines

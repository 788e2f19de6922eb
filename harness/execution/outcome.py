"""What became of a task, as a worker tells it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from harness.errors import DataError, described, one_line, printable, redacted, shortened
from harness.execution.memory.reuse import Counts
from harness.execution.memory.seals import Spoilt

TRACEBACK = 20_000  # characters of one that are recorded


class Missing(RuntimeError):
    """An artifact that a task needs is not in the store, or damaged."""

    def __init__(self, key: str, cause: Exception) -> None:
        self.key = key
        super().__init__(one_line(cause))


class Changed(RuntimeError):
    """A plug-in's code is not what was planned: what it makes would be kept under another's key."""

    def __init__(self, use: str) -> None:
        super().__init__(
            f"the code of {use} was changed while the sweep ran; run the same command again"
        )


@dataclass
class Outcome:
    """What became of a task: failure is a value."""

    key: str
    error: str = ""  # one line; empty when it was done
    traceback: str = ""
    bad_data: bool = False  # the error is a file that is missing or damaged
    row: dict[str, Any] = field(default_factory=dict)  # evaluate: the metrics
    files: dict[str, str] = field(default_factory=dict)  # evaluate: digests of what it published
    #: seconds by stage (``<stage>_s``), which add up to ``task_s``; counts; processor and memory
    stages: dict[str, float] = field(default_factory=dict)
    #: what tasks share in a worker ("decode", or a space of features) -> how many were asked for,
    #: and the seconds it took to make those that were not there
    pools: dict[str, tuple[int, float]] = field(default_factory=dict)
    reused: bool = False  # its artifact was there already
    missing: list[str] = field(default_factory=list)  # keys of needed artifacts that are not there
    #: of a task that was repeated: how what it made differs from its artifact, in lines
    differs: list[str] = field(default_factory=list)
    again: bool = False  # the task is not to blame: another worker should try it
    full: str = ""  # which disk has no room, and what was to be written: no fault of the task's
    replace: str = ""  # why nobody else should be given this worker; empty: nothing is wrong
    shared: Counts = field(default_factory=dict)  # what was made and what was there; see sharing

    def fail(self, error: BaseException, traceback: str) -> None:
        """The task raised an error."""
        self.error = redacted(described(error))
        self.traceback = printable(redacted(shortened(traceback, TRACEBACK)), "\n\t")
        kind = type(error)  # an exception may lie about its class, or not answer
        self.bad_data = issubclass(kind, DataError)
        self.missing = [str(getattr(error, "key", ""))] if issubclass(kind, Missing) else []
        self.again = issubclass(kind, Spoilt)
        if not self.bad_data and not self.missing:
            self.replace = "an exception may leave anything behind"

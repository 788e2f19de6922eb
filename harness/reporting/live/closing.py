"""What a run says last: where its report is, how to compare runs, what memory it took."""

from __future__ import annotations

import resource
import shlex
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from harness.errors import redacted

MB = 1 << 20


def lines(report: str, ui: str, records: Iterable[Mapping[str, Any]]) -> list[str]:
    """The last lines of a run.

    Parameters
    ----------
    report : path or URI of the page, "" where it could not be written
    ui : command or address that shows the runs in MLflow
    records : of tasks, with ``peak_mb`` of the worker that did one
    """
    peaks = [float(record["peak_mb"]) for record in records if record.get("peak_mb")]
    worker = f", {max(peaks) / 1000:.1f} GB of a worker" if peaks else ""
    memory = f"peak memory: {peak_mb() / 1000:.1f} GB of this process{worker}"
    page = [f"report: {report}"] if report else []
    return [memory, *page, f"compare runs: {ui}"]


def ui(storage: str, tracking: str, chosen: str | None) -> str:
    """How to look at the runs in MLflow: of a storage's own database, or at a server's address."""
    if tracking.startswith("sqlite:") and not chosen:
        return f"python -m harness ui --storage {shlex.quote(storage)}"
    return redacted(tracking)


def peak_mb() -> float:
    """Most megabytes of memory that this process has had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / MB

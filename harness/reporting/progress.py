"""What a sweep shows while it runs: a live bar, or plain lines where there is no terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from harness.keys import Cell
from harness.planning.task import Task


class Display:
    """Progress over the cells of a sweep, with the time left.

    Parameters
    ----------
    total : cells of the sweep
    done : cells that were finished before
    work : seconds that the tasks of this run take by their own rough estimate; the time left is
        made from them
    quiet : show nothing but errors
    """

    def __init__(self, total: int, done: int, work: float, quiet: bool) -> None:
        self._quiet = quiet
        self._console = Console(stderr=True, highlight=False)
        self._live: Live | None = None
        self._total, self._done, self._failed = total, done, 0
        self._work, self._worked = work, 0.0
        self._began = time.monotonic()
        self._said = 0.0
        self._running: dict[str, str] = {}
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("cells"),
            TimeElapsedColumn(),
            TextColumn("ETA {task.fields[eta]}"),
            TextColumn("[dim]{task.fields[now]}"),
            console=self._console,
        )
        self._bar = self._progress.add_task("sweep", total=total, completed=done, eta="-", now="")

    def __enter__(self) -> Display:
        if not self._quiet and self._console.is_terminal:
            self._live = Live(self._progress, console=self._console, refresh_per_second=4)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._refresh()
            self._live.stop()

    def started(self, task: Task, worker: str) -> None:
        """A worker begins a task."""
        self._running[worker] = f"{task.kind} {task.affinity}"

    def worked(self, task: Task) -> None:
        """A task is over, one way or the other."""
        self._worked += task.seconds

    def finished(self, cell: Cell, row: Mapping[str, Any]) -> None:
        """A cell has its result: said at once."""
        self._done += 1
        value = row.get("image_auroc")
        shown = "undefined" if value is None else f"{100 * value:.1f}"
        self._say(f"{cell}: image AUROC {shown}")

    def failed(self, cell: Cell, error: str) -> None:
        """A cell will have no result."""
        self._failed += 1
        self._say(f"FAILED {cell}: {error}")

    def note(self, text: str) -> None:
        """A line worth reading that is no result."""
        self._say(text)

    def tick(self) -> None:
        """Refresh, now and then."""
        if self._live is not None:
            self._refresh()

    def _eta(self) -> str:
        if not self._worked:
            return "-"
        spent = time.monotonic() - self._began
        left = spent * max(0.0, self._work - self._worked) / self._worked
        minutes, seconds = divmod(round(left), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"

    def _refresh(self) -> None:
        now = ", ".join(sorted(set(self._running.values())))[:60]
        done = self._done + self._failed
        self._progress.update(self._bar, completed=done, eta=self._eta(), now=now)

    def _say(self, text: str) -> None:
        if self._quiet:
            return
        if self._live is not None:
            self._refresh()
            self._console.print(text, markup=False, soft_wrap=True)
            return
        count = f"[{self._done + self._failed}/{self._total}] "
        print(f"{count}{text}  (ETA {self._eta()})", file=sys.stderr, flush=True)

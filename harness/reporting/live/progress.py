"""What a sweep shows while it runs: a table that fills up, or plain lines without a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from harness.errors import amount, printable
from harness.keys import Cell
from harness.reporting.live.time_left import TimeLeft, words
from harness.results.aggregate import shots_title

QUIET_SPELL = 20.0  # seconds without a line after which a plain log says what is being done
METRIC = "image_auroc"


class Display:
    """Progress over the cells of a sweep, with the time left.

    Parameters
    ----------
    name : of the sweep
    cells : all of it
    rows : result of each cell that was finished before
    todo : tasks to do in this run
    workers : how many do them
    left : estimates how long that takes
    quiet : show nothing but errors
    console : where a table is drawn; the terminal of standard error by default
    """

    def __init__(
        self,
        name: str,
        cells: Sequence[Cell],
        rows: Mapping[Cell, Mapping[str, Any]],
        todo: int,
        workers: int,
        left: TimeLeft,
        quiet: bool,
        console: Console | None = None,
    ) -> None:
        self._name, self._quiet, self._left = name, quiet, left
        self._workers, self._todo = workers, todo
        self._console = console or Console(stderr=True, highlight=False)
        self._live: Live | None = None
        self._total, self._done, self._failed = len(cells), len(rows), 0
        self._running: dict[str, str] = {}
        self._keys: dict[str, str] = {}  # worker -> what it does
        self._told: dict[str, tuple[str, float]] = {}  # worker -> how far it is, and when printed
        self._spoke = time.monotonic()
        self._methods = list(dict.fromkeys(cell.method for cell in cells))
        self._shots = sorted({cell.shots for cell in cells})
        self._expected: dict[tuple[str, int], int] = {}
        self._values: dict[tuple[str, int], list[float]] = {}
        for cell in cells:
            place = cell.method, cell.shots
            self._expected[place] = self._expected.get(place, 0) + 1
        for cell, row in rows.items():
            self._keep(cell, row)
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("cells"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=self._console,
        )
        self._bar = self._progress.add_task(name, total=self._total, completed=self._done, left="")

    def __enter__(self) -> Display:
        if self._quiet:
            return self
        if self._todo:
            self._print(self._headline())
        drawn = self._console.is_terminal and not self._console.is_dumb_terminal
        if drawn and self._todo:
            self._live = Live(self._picture(), console=self._console, refresh_per_second=2)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._refresh()
            self._live.stop()

    def started(self, key: str, what: str, worker: str) -> None:
        """A worker begins a task."""
        self._left.started(key, worker)
        self._keys[worker] = key
        self._running[worker] = what
        self._told[worker] = "", time.monotonic()

    def worked(self, key: str, worker: str) -> None:
        """A task is over, one way or the other."""
        self._left.finished(key)
        self._free(worker)

    def lost(self, key: str, worker: str) -> None:
        """A task's worker is gone; another will begin it again."""
        self._left.lost(key)
        self._free(worker)

    def _free(self, worker: str) -> None:
        for known in (self._running, self._keys, self._told):
            known.pop(worker, None)

    def told(self, worker: str, text: str, seconds: float | None = None) -> None:
        """A task says how far it is, and how long its steps take yet; a plain log has it seldom."""
        if worker not in self._running:
            return
        if seconds is not None:
            self._left.told(self._keys[worker], seconds)
        now, (_, since) = time.monotonic(), self._told.get(worker, ("", 0.0))
        spoken = self._live is None and now - since > QUIET_SPELL
        self._told[worker] = text, now if spoken else since
        if spoken:
            self._say(f"{self._running[worker]}: {text}")

    def dropped(self, keys: Iterable[str]) -> None:
        """Tasks that will not be done, for what they need has failed."""
        self._left.drop(keys)

    def finished(self, cell: Cell, row: Mapping[str, Any]) -> None:
        """A cell has its result: said at once."""
        self._done += 1
        self._keep(cell, row)
        value = row.get(METRIC)
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
        """Refresh, now and then; in a plain log, say what is waited for."""
        if self._live is not None:
            self._refresh()
        elif not self._quiet and time.monotonic() - self._spoke > QUIET_SPELL:
            at_work = ", ".join(self._at_work()[:4])
            self._say(f"at work: {at_work}" if at_work else "waiting for workers")

    def _headline(self) -> str:
        cells = amount(self._total, "cell")
        done = f" ({self._done} done before)" if self._done else ""
        tasks, workers = amount(self._todo, "task"), amount(self._workers, "worker")
        return f"{self._name}: {cells}{done}, {tasks} to do, {workers}, {self._words()}"

    def _words(self) -> str:
        return words(self._left.seconds())

    def _keep(self, cell: Cell, row: Mapping[str, Any]) -> None:
        value = row.get(METRIC)
        values = self._values.setdefault((cell.method, cell.shots), [])
        values.append(float("nan") if value in (None, "") else float(value))

    def _picture(self) -> Group:
        running = printable(", ".join(self._at_work()))
        now = Text(running, style="dim", no_wrap=True)
        now.truncate(self._console.width, overflow="ellipsis")
        return Group(self._table(), self._progress, now)

    def _at_work(self) -> list[str]:
        """The tasks under way, each with how far it is where it said so."""
        lines = set()
        for worker, what in self._running.items():
            text, _ = self._told.get(worker, ("", 0.0))
            lines.add(f"{what} ({text})" if text else what)
        return sorted(lines)

    def _table(self) -> Table:
        """Mean image AUROC so far of each method at each number of shots, and of how many cells."""
        table = Table(box=None, header_style="dim")
        table.add_column("image AUROC %, so far")
        for shots in self._shots:
            table.add_column(shots_title(shots), justify="right")
        room = max(3, self._console.height - 8)  # a taller picture could not be drawn over
        for method in self._methods[:room]:
            table.add_row(method, *(self._entry(method, shots) for shots in self._shots))
        if len(self._methods) > room:
            table.add_row(f"and {len(self._methods) - room} more")
        return table

    def _entry(self, method: str, shots: int) -> Text:
        expected = self._expected.get((method, shots), 0)
        values = self._values.get((method, shots), [])
        known = [value for value in values if value == value]
        if not expected:
            return Text("–", style="dim")
        mean = f"{100 * sum(known) / len(known):.1f}" if known else "·"
        share = "" if len(values) == expected else f" {len(values)}/{expected}"
        return Text.assemble(mean, (share, "dim"))

    def _refresh(self) -> None:
        assert self._live is not None
        done = self._done + self._failed
        self._progress.update(self._bar, completed=done, left=self._words())
        self._live.update(self._picture())

    def _say(self, text: str) -> None:
        if self._quiet:
            return
        self._spoke = time.monotonic()
        text = printable(text)
        if self._live is not None:
            self._refresh()
            self._console.print(text, markup=False, soft_wrap=True)
            return
        self._print(f"[{self._done + self._failed}/{self._total}] {text}  ({self._words()})")

    def _print(self, line: str) -> None:
        try:
            print(line, file=sys.stderr, flush=True)
        except OSError:  # nobody reads: no reason to stop
            self._quiet = True

"""The end of a run: its tables, its report, what failed, and the exit status."""

from __future__ import annotations

import errno
import os
import shlex
import sys
from collections.abc import Mapping
from typing import Any

from harness.config.sweep import Sweep
from harness.errors import amount, described, one_line, printable
from harness.execution.memory.reuse import Sharing
from harness.keys import Cell
from harness.planning.graph import Plan
from harness.reporting import report
from harness.reporting.live import closing
from harness.reporting.mlflow.tracking import Tracker
from harness.results.folder import integrity, reader
from harness.results.folder.repetition import Audit
from harness.results.folder.writer import ResultsWriter
from harness.running.options import Options, reproduce
from harness.storage.room import Full
from harness.storage.store import Store

REPORT = "results are kept; run the same command again, which ends with what was left out"
AGAIN = "make room and run the same command again: what is finished is kept"


def write_tables(
    store: Store, writer: ResultsWriter, sharing: Sharing, graph: Plan, full: bool = False
) -> bool:
    """Write the tables of a run; whether that went well. A disk known to be full is not told of."""
    try:
        writer.settle(graph.cells, {key: task.needs for key, task in graph.tasks.items()})
        writer.flush(final=True)
        if sharing:
            store.write_text(f"{writer.folder}/sharing.csv", sharing.text())
    except OSError as error:
        if not full:
            where = "" if isinstance(error, Full) else f"{store.path(writer.folder)}: "
            print(f"{where}{one_line(error)}; {AGAIN}", file=sys.stderr)
        return False
    except Exception as error:  # as where a library was updated while the sweep ran
        where = store.path(writer.folder)
        print(printable(f"{where}: no tables: {described(error)}; {REPORT}"), file=sys.stderr)
        return False
    return True


def no_room(error: Full, needed: float) -> int:
    """Say that the disk is full, and how much the rest takes, in megabytes; the exit status."""
    size = f"{needed / 1000:,.1f} GB" if needed >= 1000 else f"{max(1.0, needed):,.0f} MB"
    rest = f"; the rest of the sweep takes about {size}" if needed else ""
    print(printable(f"{one_line(error)}{rest}; {AGAIN}"), file=sys.stderr)
    return 1


def publish(
    store: Store,
    sweep: Sweep,
    writer: ResultsWriter,
    tracker: Tracker,
    options: Options,
    complete: bool,
    full: bool = False,
) -> bool:
    """Report, MLflow, and the table on the terminal; whether the report could be written.

    Of a disk known to be full nothing is said again.
    """
    whole = True
    files: dict[str, bytes] = {}
    summary: list[dict[Any, Any]] = []
    try:
        summary = writer.summary().to_dict("records")
        with store.folder(sweep.name) as folder:
            read = reader.load(folder)
            files = report.artifacts(read)
            store.write(f"{sweep.name}/{report.PAGE}", files[report.PAGE])
            integrity.list_files(store, sweep.name)
            if not options.quiet:
                text = report.render(read, "text").rstrip("\n")
                print(printable(text, "\n"), flush=True)
    except BrokenPipeError:
        raise
    except Exception as error:  # of a disk; or of code that was updated while the sweep ran
        whole = False
        if not full:
            say = one_line if isinstance(error, OSError) else described
            where = store.path(sweep.name)
            again = "" if isinstance(error, OSError) else f"; {REPORT}"
            print(printable(f"{where}: no report: {say(error)}{again}"), file=sys.stderr)

    def tell(text: str) -> None:
        if not options.quiet:
            print(text, file=sys.stderr)

    tracker.close(summary, writer.costs, complete, files, tell)
    if tracker.problem and not full:
        print(f"not everything was logged: {tracker.problem}", file=sys.stderr)
    if not options.quiet:
        ui = closing.ui(options.storage, tracker.uri, options.mlflow)
        page = f"{store.path(sweep.name)}/{report.PAGE}" if whole else ""
        print("\n" + "\n".join(closing.lines(page, ui, writer.tasks.records.values())), flush=True)
    return whole


def verdict(options: Options, graph: Plan, writer: ResultsWriter, whole: bool) -> int:
    """Name what failed, all of it where the tables are not whole; the exit status."""
    failed: Mapping[Cell, Mapping[str, Any]] = {
        cell: failure for cell, failure in writer.failures.items() if cell in graph.cells
    }
    bad = {failure["error"] for failure in failed.values() if str(failure["bad_data"]) == "True"}
    for line in map(printable, sorted(bad)):
        print(line.removeprefix("DataError: "), file=sys.stderr)
    if failed:
        most = 10 if whole else len(failed)
        named = list(failed.items())[:most]
        few = "\n".join(printable(_failed(options, *item), "\n") for item in named)
        more = f"\n  and {len(failed) - most} more, see failures.csv" if len(failed) > most else ""
        room = "make room first: " if any(map(_no_room, failed.values())) else ""
        hint = f"; {room}--retry-failed tries them again"
        print(f"{amount(len(failed), 'cell')} failed{hint}:\n{few}{more}", file=sys.stderr)
    return 2 if bad else 1 if failed or not whole else 0


def _failed(options: Options, cell: Cell, failure: Mapping[str, Any]) -> str:
    """What to print of a cell that failed; how to look into it where the disk was not full."""
    line = f"  {cell}: {failure['error']}"
    if _no_room(failure):
        return line
    return f"{line}\n    look into it: {reproduce(options, cell)}"


def _no_room(failure: Mapping[str, Any]) -> bool:
    return any(os.strerror(code) in failure["error"] for code in (errno.ENOSPC, errno.EDQUOT))


def doubtful(options: Options, saw: Audit | None) -> int:
    """Name the tasks that did not do the same again; the exit status."""
    if saw is None or saw.passed:
        return 0
    print(printable("\n".join(saw.lines()), "\n"), file=sys.stderr)
    storage = shlex.quote(options.storage)
    command = f"python -m harness purge --storage {storage} --method NAME"
    print(f"'{command}' removes what a faulty method may have touched", file=sys.stderr)
    return 1

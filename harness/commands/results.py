"""``report``, ``compare``, ``leaderboard`` and ``ui``: what finished sweeps say."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

from harness.commands.arguments import Subparsers, number, port
from harness.errors import one_line


def register(commands: Subparsers) -> None:
    """Add the commands of this module."""
    report = commands.add_parser("report", help="tables and plots of a sweep's folder")
    report.add_argument("folder", type=Path, metavar="SWEEP_DIR")
    formats = ["text", "markdown", "latex", "csv", "html"]
    report.add_argument("--format", choices=formats, default="text")
    report.add_argument("--against", choices=["published"], help="beside the papers' numbers")
    report.set_defaults(do=_report)
    compare = commands.add_parser("compare", help="sweeps beside the first: what changed, and why")
    compare.add_argument("folders", type=Path, nargs="+", metavar="SWEEP_DIR")
    compare.add_argument("--format", choices=["text", "markdown", "html"], default="text")
    compare.add_argument(
        "--fail-below",
        type=number,
        metavar="X",
        help="exit status 1 when a mean got worse by more than X points, or a cell failed",
    )
    compare.set_defaults(do=_compare)
    board = commands.add_parser("leaderboard", help="one page over all sweeps in a storage")
    board.add_argument("storage", metavar="STORAGE", help="folder or URI")
    board.set_defaults(do=_leaderboard)
    ui = commands.add_parser("ui", help="MLflow's pages over the runs in a storage folder")
    ui.add_argument("--storage", type=Path, default=Path("runs"), metavar="DIR")
    ui.add_argument("--port", type=port, default=5000)
    ui.set_defaults(do=_ui)


def _report(arguments: argparse.Namespace) -> int:
    from harness.reporting import report

    try:
        text = report.render(arguments.folder, arguments.format, arguments.against)
    except (OSError, ValueError) as error:
        print(one_line(error), file=sys.stderr)
        return 2
    sys.stdout.write(text if text.endswith("\n") else text + "\n")
    return 0


def _compare(arguments: argparse.Namespace) -> int:
    from harness.reporting import compare
    from harness.results import comparison

    try:
        comparisons = comparison.compare(arguments.folders, arguments.fail_below)
        text = compare.render(comparisons, arguments.format)
    except (OSError, ValueError) as error:
        print(one_line(error), file=sys.stderr)
        return 2
    sys.stdout.write(text)
    if arguments.fail_below is None:
        return 0
    worse = [line for each in comparisons for line in compare.worse(each)]
    for line in worse:
        print(line, file=sys.stderr)
    return 1 if worse else 0


def _leaderboard(arguments: argparse.Namespace) -> int:
    from harness.reporting.page import leaderboard
    from harness.storage.store import Store

    try:
        store = Store(arguments.storage)
        rows, problems = leaderboard.rows(store)
        if not rows and not problems:
            raise FileNotFoundError(f"{arguments.storage}: expected a storage with sweeps in it")
        store.write(leaderboard.PAGE, leaderboard.page(rows, problems).encode())
    except (OSError, ValueError) as error:
        print(one_line(error), file=sys.stderr)
        return 2
    print(f"{len(rows)} rows: {store.path(leaderboard.PAGE)}")
    for problem in problems:
        print(f"not read: {problem}", file=sys.stderr)
    return 0


def _ui(arguments: argparse.Namespace) -> int:
    database = arguments.storage.absolute() / "mlflow.db"
    if not database.is_file():
        print(f"{database}: no such file: no sweep has run in this storage yet", file=sys.stderr)
        return 2
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", f"sqlite:///{database}"]
    words = [*command, "--port", str(arguments.port)]
    with subprocess.Popen(words, start_new_session=True) as server:
        try:
            return server.wait()
        finally:  # with the processes it has started, which outlive it where it alone is ended
            for number in (signal.SIGTERM, signal.SIGKILL):
                with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
                    os.killpg(server.pid, number)
                    server.wait(1.0)

"""``cell``: one cell in this process, with a debugger or a profile."""

from __future__ import annotations

import argparse
import cProfile
import pdb
import pstats
import shlex
import shutil
import sys
import tempfile
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from harness import logs
from harness.commands.arguments import Subparsers
from harness.commands.sweep import add_selection
from harness.errors import InputError, Problem

if TYPE_CHECKING:
    from harness.run import Prepared
    from harness.running.options import Options

SHOWN = 30  # functions of a profile


def register(commands: Subparsers) -> None:
    """Add the commands of this module."""
    cell = commands.add_parser("cell", help="run one cell in this process, to look into a method")
    add_selection(cell)
    how = cell.add_mutually_exclusive_group()
    how.add_argument("--pdb", action="store_true", help="open the debugger where it fails")
    how.add_argument("--profile", action="store_true", help="say which functions took the time")
    cell.add_argument("--keep", action="store_true", help="keep what it wrote, and say where it is")
    cell.add_argument("--log-level", choices=logs.LEVELS, default="info")
    cell.set_defaults(do=_cell)


def _cell(arguments: argparse.Namespace) -> int:
    from harness.run import prepare
    from harness.running.options import Options, only

    logs.show(arguments.log_level)
    options = Options(
        conf=arguments.conf,
        storage=arguments.storage,
        data_root=arguments.data_root,
        only=tuple(arguments.only),
        overrides=tuple(arguments.set),
    )
    ready = prepare(options)
    if len(ready.graph.cells) != 1:
        message = f"names {len(ready.graph.cells)} cells, expected one, such as --only "
        raise InputError(
            Problem("--only", message + shlex.quote(only(next(iter(ready.graph.cells)))))
        )
    folder = Path(tempfile.mkdtemp(prefix="cell-"))
    try:
        return _perform(arguments, options, ready, folder)
    finally:
        if arguments.keep:
            print(f"kept in {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


def _perform(arguments: argparse.Namespace, options: Options, ready: Prepared, folder: Path) -> int:
    from harness.execution.bench import lend, perform
    from harness.execution.process.workshop import Workshop
    from harness.planning.payload import Payloads
    from harness.storage.store import Store

    (cell,) = ready.graph.cells
    tasks = list(ready.graph.tasks.values())
    lend(tasks, Store(options.storage), Store(str(folder)))
    root = None if options.data_root is None else str(Path(options.data_root).absolute())
    shop = Workshop(str(folder), root)
    payloads = Payloads(ready.sweep, ready.inputs, ready.graph)
    profile = cProfile.Profile()
    try:
        if arguments.profile:
            profile.enable()
        outcome = perform(tasks, payloads.write, shop, print)
        profile.disable()
    except Exception:
        profile.disable()
        traceback.print_exc()
        if arguments.pdb:
            pdb.post_mortem(sys.exc_info()[2])
        return 1
    if arguments.profile:
        profile.dump_stats(folder / "profile.out")
        pstats.Stats(profile).sort_stats("cumulative").print_stats(SHOWN)
    print(f"{cell}:")
    for name, value in outcome.row.items():
        if value not in (None, ""):
            print(
                f"  {name:<16}{value:.4f}" if isinstance(value, float) else f"  {name:<16}{value}"
            )
    return 0

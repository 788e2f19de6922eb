"""``demo``: the first sweep, and what to do after it."""

from __future__ import annotations

import argparse
import os
import sys
import webbrowser
from pathlib import Path

from harness.commands.arguments import Subparsers, positive

CONF = Path(__file__).parents[2] / "conf" / "demo.yaml"
NEXT = """
What to do next:
  1. python -m harness demo --open        the report, in a browser
  2. docs/tutorial.md                     pictures of your own, in 15 minutes
  3. python -m harness new method mine    a method of your own"""


def register(commands: Subparsers) -> None:
    """Add the command of this module."""
    demo = commands.add_parser("demo", help="run conf/demo.yaml, or go on with it")
    demo.add_argument("--open", action="store_true", help="then show its report in a browser")
    demo.add_argument("--storage", default="runs", help="folder or URI (default: runs)")
    demo.add_argument("--workers", type=positive, default=2, metavar="N", help="default: 2")
    demo.add_argument("--runner", choices=["serial", "local", "ray"], default="ray")
    demo.set_defaults(do=_demo)


def _demo(arguments: argparse.Namespace) -> int:
    from harness.data import waiting
    from harness.run import run
    from harness.running.options import Options

    report = Path(arguments.storage, "demo", "report.html").absolute()
    if arguments.open and report.is_file():
        return show(report)
    waiting.tell()
    conf = Path(os.path.relpath(CONF))
    names = ("storage", "workers", "runner")
    status = run(Options(conf, **{name: getattr(arguments, name) for name in names}))
    if status == 0 and arguments.open:
        return show(report)
    if status == 0:
        print(NEXT)
    return status


def show(page: Path) -> int:
    """Open a page in the browser; where there is none, its path is all that is printed."""
    display = sys.platform in ("darwin", "win32") or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")
    )
    print(page, flush=True)
    if display:  # else a browser of the terminal would take it over
        webbrowser.open(page.as_uri())
    return 0

"""What ``--help`` shows at its end: commands as people type them."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

HEAD = "examples:"
#: command -> what follows ``python -m harness``; none longer than 80 columns leave room for
EXAMPLES = {
    "demo": ("demo", "demo --open"),
    "run": (
        "run conf/demo.yaml --workers 2",
        "run conf/demo.yaml --runner local --only method=padim",
        "run conf/demo.yaml --set shots=[2] --storage /data/runs",
    ),
    "plan": ("plan conf/demo.yaml", "plan conf/demo.yaml --why"),
    "report": ("report runs/demo", "report runs/demo --format latex"),
    "compare": ("compare runs/before runs/after", "compare runs/a runs/b --fail-below 1"),
    "leaderboard": ("leaderboard runs",),
    "ui": ("ui", "ui --storage /data/runs --port 5001"),
    "purge": ("purge --method patchcore --after 2026-03-01 --dry-run",),
    "check": ("check patchcore", "check methods/mine.py --param size=128"),
    "list": ("list", "list methods", "list patchcore"),
    "schema": ("schema > sweep.schema.json",),
    "new": ("new method mine", "new method mine --encoder --folder ."),
    "data": ("data elpv", "data mvtec --data-root /data"),
    "models": ("models",),
    "cell": (
        "cell conf/demo.yaml --only method=padim,shots=2,seed=0",
        "cell conf/demo.yaml --only method=padim,shots=2,seed=0 --pdb",
    ),
}
COMMON = ("plan", "run", "report", "new")  # of those that the program's own help shows


class Formatter(argparse.HelpFormatter):
    """Wraps text as argparse does, but leaves examples a line each."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if text.startswith(HEAD):
            return text
        return super()._fill_text(text, width, indent)


def add(parser: argparse.ArgumentParser, commands: Mapping[str, argparse.ArgumentParser]) -> None:
    """Have a parser, and those of its commands, end their help with examples."""
    for name, command in commands.items():
        command.epilog, command.formatter_class = _lines(EXAMPLES[name]), Formatter
    parser.epilog = _lines([EXAMPLES[name][0] for name in COMMON])
    parser.formatter_class = Formatter


def _lines(words: list[str] | tuple[str, ...]) -> str:
    return "\n".join([HEAD, *(f"  python -m harness {each}" for each in words)])

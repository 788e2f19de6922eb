"""The command line: ``python -m harness run conf/demo.yaml``."""

from __future__ import annotations

import argparse
import gc
import io
import os
import sys

from harness import environment

environment.enter()  # before what needs packages is imported

from harness.commands import (  # noqa: E402
    data,
    demo,
    interrupts,
    plugins,
    purge,
    results,
    scaffold,
    sweep,
    workbench,
)
from harness.errors import InputError, Problem, one_line  # noqa: E402


def main(argv: list[str] | None = None) -> int:
    """Run a command; the exit status: 0 done, 1 something failed, 2 bad input."""
    for stream in (sys.stdout, sys.stderr):  # a name may hold what a terminal cannot show
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    arguments = parser().parse_args(argv)
    try:
        with interrupts.ended_soon():
            return int(arguments.do(arguments))
    except InputError as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)
        return 2
    except OSError as error:
        if isinstance(error, BrokenPipeError):  # "| head" has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        print(Problem("", f"{type(error).__name__}: {one_line(error)}"), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def parser() -> argparse.ArgumentParser:
    """All commands with what they take."""
    command = argparse.ArgumentParser(
        "python -m harness", description="Few-shot anomaly detection, evaluated."
    )
    commands = command.add_subparsers(required=True, metavar="COMMAND")
    for group in (demo, sweep, results, purge, plugins, scaffold, data, workbench):
        group.register(commands)
    return command


if __name__ == "__main__":
    # Libraries and plans are millions of objects that stay. Looking through them for garbage takes
    # a fifth of the time that imports take, and a second at the end.
    gc.set_threshold(100_000, 20, 20)
    status = main()
    gc.freeze()
    interrupts.leave(status)

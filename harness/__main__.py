"""The command line: ``python -m harness run conf/demo.yaml``."""

from __future__ import annotations

import argparse
import gc
import io
import os
import sys

from harness import environment
from harness.commands import interrupts
from harness.errors import InputError, Problem, one_line


def main(argv: list[str] | None = None) -> int:
    """Run a command; the exit status: 0 done, 1 something failed, 2 bad input."""
    for stream in (sys.stdout, sys.stderr):  # a name may hold what a terminal cannot show
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    with interrupts.ended_soon() as countdown:
        try:
            environment.enter()  # before what needs packages is imported
            arguments = parser().parse_args(argv)
            return int(arguments.do(arguments))
        except InputError as error:
            for problem in error.problems:
                print(problem, file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return interrupts.STATUS
        except Exception as error:
            if isinstance(error, BrokenPipeError):  # "| head" has seen enough
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                return 0
            if countdown.begun:  # a library made something else of the interrupt
                print("interrupted", file=sys.stderr)
                return interrupts.STATUS
            if not isinstance(error, OSError):
                raise
            print(Problem("", f"{type(error).__name__}: {one_line(error)}"), file=sys.stderr)
            return 2


def parser() -> argparse.ArgumentParser:
    """All commands with what they take."""
    from harness.commands import (
        arguments,
        data,
        demo,
        examples,
        plugins,
        purge,
        results,
        scaffold,
        sweep,
        workbench,
    )

    command = argparse.ArgumentParser(
        "python -m harness", description="Few-shot anomaly detection, evaluated."
    )
    commands = command.add_subparsers(
        required=True, metavar="COMMAND", parser_class=arguments.Command
    )
    for group in (demo, sweep, results, purge, plugins, scaffold, data, workbench):
        group.register(commands)
    examples.add(command, commands.choices)
    return command


if __name__ == "__main__":
    # Libraries and plans are millions of objects that stay. Looking through them for garbage takes
    # a fifth of the time that imports take.
    gc.set_threshold(100_000, 20, 20)
    with interrupts.ended_soon():  # until the process is gone
        interrupts.leave(main())

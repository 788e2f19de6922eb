"""What several commands take: parameters of a plug-in, numbers."""

from __future__ import annotations

import argparse
from typing import TypeAlias

from harness.config import value_of

#: what a command is added to
Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_params(command: argparse.ArgumentParser) -> None:
    """Add ``--param KEY=VALUE``."""
    command.add_argument(
        "--param", action="append", default=[], metavar="KEY=VALUE", help="of the plug-in"
    )


def params(arguments: argparse.Namespace) -> dict[str, object]:
    """Parameters that ``--param`` gave; InputError where one is not KEY=VALUE."""
    return dict(value_of("--param", text) for text in arguments.param)


def positive(text: str) -> int:
    """A whole number of 1 or more, as argparse's ``type``."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, got {text}")
    return value


def share(text: str) -> float:
    """A share above 0 and up to 1, as argparse's ``type``: "1%" or "0.01"."""
    value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"expected a share up to 100%, such as 1%, got {text}")
    return value

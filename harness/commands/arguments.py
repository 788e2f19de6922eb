"""What several commands take: parameters of a plug-in, numbers."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from typing import TypeAlias

from harness.config import value_of
from harness.errors import suggest

#: what a command is added to
Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


class Command(argparse.ArgumentParser):
    """A command's parser, which itself answers words it does not know, with its own usage."""

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse; an argument that is left over is an error here."""
        parsed, rest = super().parse_known_args(args, namespace)
        if rest:
            word = rest[0].partition("=")[0]
            options = [o for action in self._actions for o in action.option_strings]
            hint = suggest(word, options) if word.startswith("-") else ""
            self.error(f"unrecognized arguments: {' '.join(rest)}{hint and '.' + hint}")
        return parsed, rest


def add_params(command: argparse.ArgumentParser) -> None:
    """Add ``--param KEY=VALUE``."""
    command.add_argument(
        "--param", action="append", default=[], metavar="KEY=VALUE", help="of the plug-in"
    )


def params(arguments: argparse.Namespace) -> dict[str, object]:
    """Parameters that ``--param`` gave; InputError where one is not KEY=VALUE."""
    return dict(value_of("--param", text) for text in arguments.param)


def whole(text: str) -> int:
    """A whole number, as argparse's ``type``."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a whole number, got {text!r}") from None


def positive(text: str) -> int:
    """A whole number of 1 or more, as argparse's ``type``."""
    value = whole(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, got {text}")
    return value


def port(text: str) -> int:
    """A port of this machine, as argparse's ``type``."""
    value = whole(text)
    if not 1 <= value <= 65535:
        raise argparse.ArgumentTypeError(f"expected a port from 1 to 65535, got {text}")
    return value


def number(text: str) -> float:
    """A finite number, as argparse's ``type``."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"expected a number, got {text!r}")
    return value


def share(text: str) -> float:
    """A share above 0 and up to 1, as argparse's ``type``: "1%" or "0.01"."""
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = math.nan
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"expected a share up to 100%, such as 1%, got {text}")
    return value

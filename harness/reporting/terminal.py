"""How wide a terminal is, and lines that are no wider."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterable, Iterator

WIDTH = 100  # where there is no terminal
NARROW, BROAD = 80, 200  # a terminal is taken to be no narrower, nor broader


def terminal_width() -> int:
    """Columns of the terminal, or of the variable COLUMNS."""
    return min(max(shutil.get_terminal_size((WIDTH, 24)).columns, NARROW), BROAD)


def wrapped(line: str, width: int, hang: int | None = None) -> str:
    """A line on as many as it takes.

    Parameters
    ----------
    line : with its indent
    width : of all of them, in columns; what has no blank, as a path, is parted behind a slash
    hang : indent of the later ones; two columns more than that of the first by default
    """
    text = line.lstrip()
    first = len(line) - len(text)
    indent = " " * (first + 2 if hang is None else hang)
    lines = textwrap.wrap(
        text,
        width,
        initial_indent=" " * first,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join(part for each in lines for part in _parted(each, width, indent))


def _parted(line: str, width: int, indent: str) -> Iterator[str]:
    while len(line) > width:
        start = len(line) - len(line.lstrip()) + 1
        end = line.rfind("/", start, width) + 1 or width
        yield line[:end]
        line = indent + line[end:]
    yield line


def fitted(lines: Iterable[str], hang: int | None = None) -> str:
    """Lines as the terminal has room for them; as they are where there is none to read them.

    So that who looks for a line in a file or behind a pipe finds it whole.
    """
    if shutil.get_terminal_size((0, 0)).columns == 0:
        return "\n".join(lines)
    width = terminal_width()
    return "\n".join(line if len(line) <= width else wrapped(line, width, hang) for line in lines)

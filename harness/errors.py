"""Mistakes that are the user's to mend: one clear line each, exit status 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """What is wrong, and where: a file, a key in it, what was expected."""

    where: str
    message: str

    def __str__(self) -> str:
        text = f"{self.where}: {self.message}" if self.where else self.message
        return "\\n".join(text.splitlines())  # a word of the user's may be of two lines


class InputError(Exception):
    """Bad config, plug-in or data: all the problems that were found, not only the first."""

    def __init__(self, *problems: Problem) -> None:
        self.problems = problems
        super().__init__("\n".join(map(str, problems)))


class DataError(ValueError):
    """A file of a dataset is missing or damaged. The message names it and what was expected."""


def suggest(word: str, known: Iterable[str]) -> str:
    """Sentence that ends an 'unknown ...' message: the nearest known word, and all of them."""
    names = sorted(known)
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"{hint} Available: {', '.join(names) or 'none'}."


def one_line(error: BaseException) -> str:
    """An exception as one line: its first line of text, or its type where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__

"""Mistakes that are the user's to mend: one clear line each, exit status 2."""

from __future__ import annotations

import difflib
import re
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

MESSAGE = 2_000  # characters of an error's line that are shown and recorded
MOST_NAMES = 60  # that an 'unknown ...' message lists


@dataclass(frozen=True)
class Problem:
    """What is wrong, and where: a file, a key in it, what was expected."""

    where: str
    message: str

    def __str__(self) -> str:
        text = f"{self.where}: {self.message}" if self.where else self.message
        return printable(redacted("\\n".join(text.splitlines())))  # a word may be of two lines


class InputError(Exception):
    """Bad config, plug-in or data: all the problems that were found, not only the first."""

    def __init__(self, *problems: Problem) -> None:
        self.problems = problems
        super().__init__("\n".join(map(str, problems)))


class DataError(ValueError):
    """A file of a dataset is missing or damaged. The message names it and what was expected."""


#: "user:password@" of a URI, and "password=..." of its query or of anything else
_LOGIN = re.compile(r"\b([a-z][a-z0-9+.-]*://)[^/\s]*@", re.IGNORECASE)
_TOKEN = re.compile(
    r"\b([\w.-]*(?:passw(?:or)?d|token|secret|signature|credential|api_?key|access_?key)[\w.-]*=)"
    r"[^&\s'\"]+",
    re.IGNORECASE,
)


#: names of parameters that hold secrets; a "token" alone may be a word of a prompt
_SECRET = re.compile(
    r"(?:passw(?:or)?d|passphrase|secret|credentials?|(?:api|access|private|secret)_?key"
    r"|(?:api|auth|access|hf|hub)_?token)$",
    re.IGNORECASE,
)


def secretive(name: str, value: object) -> bool:
    """Whether a value, or one in it, is a text under a name of secrets."""
    if isinstance(value, Mapping):
        return any(secretive(str(key), each) for key, each in value.items())
    if isinstance(value, (list, tuple)):
        return any(secretive(name, each) for each in value)
    return isinstance(value, str) and value != "" and _SECRET.search(name) is not None


def redacted(text: str) -> str:
    """A text without the secrets of its URIs: ``http://***@host/?token=***``."""
    return _TOKEN.sub(r"\1***", _LOGIN.sub(r"\1***@", text))


def amount(number: int, noun: str, nouns: str = "") -> str:
    """A number of things in words: "1 cell", "1,200 cells"; ``nouns`` where an s is not enough."""
    return f"{number:,} {noun if number == 1 else nouns or noun + 's'}"


def suggest(word: str, known: Iterable[str]) -> str:
    """Sentence that ends an 'unknown ...' message: the nearest known word, and all of them."""
    names = sorted(known)
    near = difflib.get_close_matches(word[:100], names, n=1, cutoff=0.6)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    more = f", ... ({len(names)} in all)" if len(names) > MOST_NAMES else ""
    return f"{hint} Available: {', '.join(names[:MOST_NAMES]) or 'none'}{more}."


def one_line(error: BaseException) -> str:
    """An exception as one line: its first line of text, or its type where it has none."""
    try:
        lines = str(error).strip().splitlines()
    except Exception:  # a plug-in's own type of exception may have any mistake in it
        lines = []
    return printable(shortened(lines[0], MESSAGE)) if lines else described_type(error)


def described(error: BaseException) -> str:
    """An exception as one line that begins with its type."""
    return f"{described_type(error)}: {one_line(error)}"


def traced(error: BaseException) -> str:
    """An exception with where it was raised, in lines; empty where it cannot be shown."""
    try:
        return "".join(traceback.format_exception(error))
    except Exception:
        return ""


def described_type(error: BaseException) -> str:
    """The name of an exception's type."""
    return printable(shortened(type(error).__name__, MESSAGE))


def shortened(text: str, most: int) -> str:
    """A text of at most so many characters: its beginning and its end, and what is left out."""
    if len(text) <= most:
        return text
    gap = f" [... {len(text):,} characters ...] "
    half = max(0, most - len(gap)) // 2
    return text[:half] + gap + text[len(text) - half :]


def printable(text: str, keep: str = "") -> str:
    """A text that does nothing to a terminal and can be encoded.

    Control characters, and bytes of a file's name that are no UTF-8, are written as escapes.
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text
    )

"""Says how far long reading is, where somebody asked to be told."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
FIRST, EVERY = 3.0, 5.0  # seconds after which it is said first, and again
_log = logging.getLogger(__name__)


def counted(
    items: Iterable[T], count: int, what: str, clock: Callable[[], float] = time.monotonic
) -> Iterator[T]:
    """The items, as they come; a line is logged now and then when that takes long.

    Parameters
    ----------
    items : of any kind
    count : how many there are
    what : said of them, such as "reading the data for the first time"
    clock : seconds, for tests
    """
    began, due = clock(), FIRST
    for number, item in enumerate(items, 1):
        yield item
        spent = clock() - began
        if spent > due and number < count:
            due = spent + EVERY
            left = spent / number * (count - number)
            words = f"{left / 60:.0f} min" if left > 90 else f"{left:.0f} s"
            _log.info("%s: %s of %s files, about %s left", what, f"{number:,}", f"{count:,}", words)


def tell() -> None:
    """Have the lines printed on standard error."""
    if not _log.handlers:
        _log.addHandler(logging.StreamHandler(sys.stderr))
        _log.propagate = False
    _log.setLevel(logging.INFO)

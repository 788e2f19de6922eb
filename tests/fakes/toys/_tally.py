"""Counts calls in a file, one line each, whichever process makes them."""

from __future__ import annotations

import os
from collections.abc import Sequence

from harness.interface import Image


def tally(*words: object) -> None:
    """Append a line to the file that TOYS_LOG names, whole, also while others do."""
    path = os.environ.get("TOYS_LOG")
    if path:
        line = " ".join(map(str, words)) + "\n"
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(fd, line.encode())
        os.close(fd)


def names(images: Sequence[Image]) -> str:
    return "+".join(image.key[:12] for image in images)

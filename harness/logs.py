"""What the engine and plug-ins log, on standard error."""

from __future__ import annotations

import logging

LEVELS = ("debug", "info", "warning", "error")


def show(level: str) -> None:
    """Show what is logged in this process from this one of ``LEVELS`` up, with who logged it."""
    logging.basicConfig(format="%(name)s: %(message)s")
    logging.getLogger().setLevel(level.upper())

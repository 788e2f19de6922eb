"""The draw of supports under its public name; it lives in ``harness.planning.graph``."""

from harness.planning.graph import draw_support

__all__ = ["draw_support"]

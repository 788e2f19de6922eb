"""Templates of the HTML pages: escaped by default, strict about names."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Environment, Template


def template(name: str) -> Template:
    """A template of this folder."""
    return _environment().get_template(name)


@cache
def _environment() -> Environment:
    """One for all pages: to read a template takes longer than to fill it."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,  # names come from files and configs
        undefined=StrictUndefined,
        auto_reload=False,  # a checkout may be updated while a sweep runs
        trim_blocks=True,
        lstrip_blocks=True,
    )

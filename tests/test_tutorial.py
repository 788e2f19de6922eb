"""The tutorial's commands, typed as they stand in a shell where nothing is activated."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.checkouts import Checkout
from tests.sweeps import HOME

PAGE = HOME / "docs" / "tutorial.md"

pytestmark = pytest.mark.timeout(900)


def blocks() -> list[str]:
    """Commands of the page, a block each; those of the cluster are left out."""
    every = re.findall(r"^```\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    return [block for block in every if "HEAD:8265" not in block]


def test_every_command_works(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path)
    for block in blocks():
        done = checkout.type(block)
        assert done.returncode == 0, f"{block}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    assert (checkout.folder / "runs" / "first" / "report.html").is_file()
    assert len(blocks()) == 4

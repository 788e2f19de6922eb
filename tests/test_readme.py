"""The README names every file there is, and says of each what its own docstring says."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

HOME = Path(__file__).parents[1]
FOLDERS = ("harness", "methods", "methods/generators", "methods/micro", "datasets", "benchmarks")
FILES = [
    p for folder in FOLDERS for p in sorted((HOME / folder).glob("*.py")) if p.name != "__init__.py"
]


def layout_line(path: Path) -> str:
    doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    about = " ".join(doc.split("\n\n")[0].split()).replace("``", "`").replace("|", "\\|")
    return f"| `{path.name}` | {about} |"


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(HOME).as_posix())
def test_the_layout_names_each_file(path: Path) -> None:
    expected = layout_line(path)
    assert expected in (HOME / "README.md").read_text(encoding="utf-8").splitlines(), expected


def test_files_stay_readable() -> None:
    long = {
        p.relative_to(HOME).as_posix(): n
        for p in HOME.glob("*/**/*.py")
        if ".venv" not in p.parts and (n := len(p.read_text(encoding="utf-8").splitlines())) > 400
    }
    assert not long, f"files past 400 lines: {long}"

"""Local names that say nothing of what they hold: ``python -m tools.names``, part of ``make lint``.

Such a name is of any value whatever; the reader of a line far below its assignment has to look up
what it is. Names of functions, attributes and keywords of calls are left alone.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

EMPTY = frozenset({"about", "found", "given", "here", "made", "said", "there", "told", "wanted"})
FOLDERS = ("harness", "methods", "datasets", "tools", "benchmarks", "tests")


def empty_names(source: str) -> Iterator[tuple[int, str]]:
    """Line and name of each variable or argument that is called so, where it is bound."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id in EMPTY:
            yield node.lineno, node.id
        elif isinstance(node, ast.arg) and node.arg in EMPTY:
            yield node.lineno, node.arg


def main() -> int:
    """Print every such name; 1 if there is one."""
    lines = [
        f"{path}:{line}: {name!r} does not say what it holds"
        for folder in FOLDERS
        for path in sorted(Path(folder).rglob("*.py"))
        for line, name in sorted(empty_names(path.read_text(encoding="utf-8")))
    ]
    print("\n".join(lines), end="\n" if lines else "")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())

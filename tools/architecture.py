"""Writes the pages that say what the code consists of: ``python -m tools.architecture``.

``docs/files.md`` lists every module with the first paragraph of its docstring, and
``docs/architecture.svg`` shows the rooms of the engine in layers, and who imports whom. ``--check``
writes nothing and exits with 1 when a page is out of date.
"""

from __future__ import annotations

import argparse
import ast
import html
import sys
import tomllib
from collections import Counter
from pathlib import Path

HOME = Path(__file__).resolve().parents[1]
ROOMS = ("harness", "methods", "datasets", "benchmarks", "tools")
WIDTH, BOX, GAP, MARGIN = 980, 54, 46, 24  # pixels of the picture


def summary(path: Path) -> str:
    """First paragraph of a module's docstring, on one line."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(docstring.split("\n\n")[0].split()).replace("``", "`").replace("|", "\\|")


def modules() -> list[Path]:
    """Every module of the project besides its tests, by folder and name."""
    return sorted(
        (path for room in ROOMS for path in (HOME / room).rglob("*.py")),
        key=lambda path: (path.parent.as_posix(), path.name),
    )


def listing() -> str:
    """The page that lists the files."""
    lines = ["# What each file is for", "", "Written by `python -m tools.architecture`."]
    folder = None
    for path in modules():
        if path.parent != folder:
            folder = path.parent
            package = folder / "__init__.py"
            lines += ["", f"## `{folder.relative_to(HOME).as_posix()}/`", ""]
            lines += [summary(package), ""] if package.is_file() else []
            lines += ["| file | what |", "|---|---|"]
        if path.name != "__init__.py":
            lines.append(f"| `{path.name}` | {summary(path)} |")
    return "\n".join(lines) + "\n"


def layers() -> list[list[str]]:
    """Rooms and single modules of the engine from the top down, as the import contract has them."""
    project = tomllib.loads((HOME / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = project["tool"]["importlinter"]["contracts"]
    rows = next(c["layers"] for c in contracts if c["name"].startswith("Rooms"))
    return [[name.strip() for name in row.split("|")] for row in rows]


def imports() -> Counter[tuple[str, str]]:
    """How many import statements lead from one room of the engine to another."""
    rooms = sorted((name for row in layers() for name in row), key=len, reverse=True)

    def room(module: str) -> str | None:
        return next((r for r in rooms if module == r or module.startswith(f"{r}.")), None)

    arrows: Counter[tuple[str, str]] = Counter()
    for path in (HOME / "harness").rglob("*.py"):
        importer = room(".".join(path.relative_to(HOME).with_suffix("").parts))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("harness"):
                for alias in node.names:
                    imported = room(f"{node.module}.{alias.name}")
                    if importer and imported and importer != imported:
                        arrows[importer, imported] += 1
    return arrows


def picture() -> str:
    """The layers as SVG: rooms as wide as they are large, arrows as thick as imports are many."""
    boxes: dict[str, tuple[float, int, int]] = {}  # room -> left, top, width
    rows = layers()
    for depth, row in enumerate(rows):
        sizes = [
            max(1, len(list(HOME.joinpath(*name.split(".")).glob("*.py"))) - 1) for name in row
        ]
        widths = [110 + 16 * min(size, 12) for size in sizes]
        x = (WIDTH - sum(widths) - GAP * (len(row) - 1)) / 2
        for name, width in zip(row, widths, strict=True):
            boxes[name] = (x, MARGIN + depth * (BOX + GAP), width)
            x += width + GAP
    height = 2 * MARGIN + len(rows) * (BOX + GAP) - GAP
    style = "text{font:14px system-ui,sans-serif;fill:#1a1a1a}.small{font-size:11px;fill:#555}"
    shapes = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        'aria-label="Rooms of the engine: each imports only what lies below it">',
        f'<style>{style}</style><rect width="100%" height="100%" fill="#fff"/>',
    ]
    for (importer, imported), count in sorted(imports().items()):
        left, top, width = boxes[importer]
        left2, top2, width2 = boxes[imported]
        x1, y1, x2, y2 = left + width / 2, top + BOX, left2 + width2 / 2, top2
        bend = (y2 - y1) / 2
        shapes.append(
            f'<path d="M{x1:.0f} {y1} C{x1:.0f} {y1 + bend:.0f} {x2:.0f} {y2 - bend:.0f} '
            f'{x2:.0f} {y2}" fill="none" stroke="#4a6fa5" stroke-opacity=".35" '
            f'stroke-width="{min(6, count)}">'
            f"<title>{html.escape(f'{importer} imports {imported}: {count}')}</title></path>"
        )
    for name, (left, top, width) in boxes.items():
        folder = HOME.joinpath(*name.split("."))
        size = len([p for p in folder.rglob("*.py") if p.name != "__init__.py"])
        note = f"{size} modules" if folder.is_dir() else "one module"
        middle = left + width / 2
        shapes.append(
            f'<rect x="{left:.0f}" y="{top}" width="{width}" height="{BOX}" rx="8" fill="#eef3fa" '
            f'stroke="#4a6fa5"/><text x="{middle:.0f}" y="{top + 24}" text-anchor="middle">'
            f'{name.removeprefix("harness.")}</text><text class="small" x="{middle:.0f}" '
            f'y="{top + 42}" text-anchor="middle">{note}</text>'
        )
    return "\n".join([*shapes, "</svg>"]) + "\n"


def main() -> int:
    """Write the pages, or say which are out of date."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing, only compare")
    arguments = parser.parse_args()
    pages = {
        HOME / "docs" / "files.md": listing(),
        HOME / "docs" / "architecture.svg": picture(),
    }
    stale = [
        path
        for path, text in pages.items()
        if not path.is_file() or path.read_text(encoding="utf-8") != text
    ]
    for path in stale:
        if arguments.check:
            print(f"{path.relative_to(HOME)}: out of date: run python -m tools.architecture")
        else:
            path.write_text(pages[path], encoding="utf-8")
    return 1 if arguments.check and stale else 0


if __name__ == "__main__":
    sys.exit(main())

"""``new``: a plug-in's first file, which keeps its promises as it stands."""

from __future__ import annotations

import argparse
import keyword
from pathlib import Path
from string import Template

from harness import plugins
from harness.commands.arguments import Subparsers
from harness.errors import InputError, Problem

TEMPLATES = Path(__file__).parent / "templates"
KINDS = ("method", "dataset", "generator")


def register(commands: Subparsers) -> None:
    """Add the commands of this module."""
    new = commands.add_parser("new", help="write the first file of a plug-in of your own")
    new.add_argument("kind", choices=KINDS)
    new.add_argument("name", metavar="NAME", help="its name in a sweep, such as my_method")
    new.add_argument(
        "--encoder", action="store_true", help="a method that stands on a frozen network's features"
    )
    new.add_argument(
        "--folder",
        type=Path,
        metavar="DIR",
        help="default: beside the built-in ones",
    )
    new.set_defaults(do=_new)


def _new(arguments: argparse.Namespace) -> int:
    kind, name = arguments.kind, arguments.name
    folder = arguments.folder or plugins.HOME.joinpath(*plugins.KINDS[kind][0].split("."))
    path = folder / f"{name}.py"
    problems = []
    plain = name.isascii() and name.isidentifier() and name.islower() and not name.startswith("_")
    if not plain or keyword.iskeyword(name):
        message = f"expected lower-case letters, digits and '_', as in my_{kind}, got {name!r}"
        problems.append(Problem("new", message))
    elif path.exists():
        problems.append(Problem(str(path), "is there already; choose another name"))
    if not folder.is_dir():
        problems.append(Problem("--folder", f"{folder}: no such folder"))
    if arguments.encoder and kind != "method":
        problems.append(Problem("--encoder", f"is for methods, not for a {kind}"))
    if problems:
        raise InputError(*problems)
    source = TEMPLATES / f"{'encoder_' if arguments.encoder else ''}{kind}.py.txt"
    class_name = "".join(word.capitalize() for word in name.split("_"))
    text = Template(source.read_text(encoding="utf-8")).substitute(Class=class_name, name=name)
    path.write_text(text, encoding="utf-8")
    use = str(path) if arguments.folder else name
    entry = {
        "method": f"methods: [{{use: {use}}}]",
        "dataset": f"datasets: [{{use: {use}}}]",
        "generator": f"generators: {{{name}: {{use: {use}}}}}, and generator: {name} at a method",
    }
    print(f"wrote {path}")
    print(f"check its promises:  python -m harness check {path}")
    print(f"use it in a sweep:   {entry[kind]}")
    print(f"read on:             docs/add-a-{kind}.md")
    return 0

"""``check`` and ``list``: plug-ins and their promises."""

from __future__ import annotations

import argparse

from harness import plugins
from harness.commands.arguments import Subparsers, add_params, params


def register(commands: Subparsers) -> None:
    """Add the commands of this module."""
    check = commands.add_parser("check", help="the promises of a plug-in, kept or broken")
    check.add_argument("name", metavar="NAME|module:Class")
    check.add_argument("--data-root", metavar="DIR", help="folder that holds the datasets")
    add_params(check)
    check.set_defaults(do=_check)
    show = commands.add_parser("list", help="built-in plug-ins")
    kinds = ["methods", "datasets", "generators"]
    show.add_argument("kind", choices=kinds, nargs="?", help="default: all kinds")
    show.set_defaults(do=_list)


def _check(arguments: argparse.Namespace) -> int:
    from harness.contract import check

    return check(arguments.name, params(arguments), arguments.data_root)


def _list(arguments: argparse.Namespace) -> int:
    kinds = [arguments.kind] if arguments.kind else ["methods", "datasets", "generators"]
    for kind in kinds:
        if len(kinds) > 1:
            print(f"{kind}:")
        for name in plugins.names(kind[:-1]):
            about = (plugins.find(kind[:-1], name).__doc__ or "").strip().splitlines()
            print(f"  {name:<20}{about[0] if about else ''}")
    return 0

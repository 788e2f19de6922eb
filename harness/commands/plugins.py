"""``check``, ``list`` and ``schema``: plug-ins, their promises and their parameters."""

from __future__ import annotations

import argparse
import json

from harness import plugins
from harness.commands.arguments import Subparsers, add_params, params


def register(commands: Subparsers) -> None:
    """Add the commands of this module."""
    check = commands.add_parser("check", help="the promises of a plug-in, kept or broken")
    check.add_argument("name", metavar="NAME|module:Class")
    check.add_argument("--data-root", metavar="DIR", help="folder that holds the datasets")
    add_params(check)
    check.set_defaults(do=_check)
    show = commands.add_parser("list", help="built-in plug-ins, or the parameters of one")
    plugins_help = (
        "methods, datasets, generators (default: all), or a plug-in whose parameters to tell"
    )
    show.add_argument("name", nargs="?", metavar="KIND|NAME|module:Class", help=plugins_help)
    show.set_defaults(do=_list)
    schema = commands.add_parser("schema", help="JSON schema of sweeps, for editors")
    schema.set_defaults(do=_schema)


def _check(arguments: argparse.Namespace) -> int:
    from harness.checking.contract import check

    return check(arguments.name, params(arguments), arguments.data_root)


def _list(arguments: argparse.Namespace) -> int:
    from harness.reporting.terminal import fitted, terminal_width

    kinds = ["methods", "datasets", "generators"]
    if arguments.name in kinds:
        kinds = [arguments.name]
    elif arguments.name is not None:
        from harness.checking.contract import kind_of
        from harness.config.parameters import render

        cls = plugins.find(kind_of(arguments.name, kinds), arguments.name)
        print(fitted(render(arguments.name, cls, terminal_width()).splitlines()))
        return 0
    for kind in kinds:
        if len(kinds) > 1:
            print(f"{kind}:")
        for name in plugins.names(kind[:-1]):
            docstring = (plugins.find(kind[:-1], name).__doc__ or "").strip().splitlines()
            print(fitted([f"  {name:<20}{docstring[0] if docstring else ''}".rstrip()], 22))
    return 0


def _schema(_: argparse.Namespace) -> int:
    from harness.config.schema import sweep_schema

    print(json.dumps(sweep_schema(), indent=1))
    return 0

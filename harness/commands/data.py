"""``data`` and ``models``: what lies on this machine."""

from __future__ import annotations

import argparse
import importlib
import sys

from harness.commands.arguments import Subparsers, add_params, params
from harness.errors import InputError, one_line


def register(commands: Subparsers) -> None:
    """Add the commands of this module."""
    data = commands.add_parser("data", help="counts, leaks and fingerprint of a dataset")
    data.add_argument("dataset", metavar="DATASET")
    data.add_argument("--data-root", metavar="DIR")
    add_params(data)
    data.set_defaults(do=_data)
    models = commands.add_parser("models", help="weights: embedded, found here, or needed")
    models.set_defaults(do=_models)


def _data(arguments: argparse.Namespace) -> int:
    from harness.config import check_plugin
    from harness.data import waiting
    from harness.data.audit import audit, render
    from harness.data.opening import open_dataset
    from harness.reporting.terminal import fitted

    values = params(arguments)
    problems = check_plugin("dataset", arguments.dataset, values, "data")
    if problems:
        raise InputError(*problems)
    waiting.tell()
    try:
        dataset = open_dataset(arguments.dataset, values, arguments.data_root)
        print(fitted(render(audit(dataset, arguments.dataset)).splitlines()))
    except (ValueError, OSError) as error:
        print(one_line(error), file=sys.stderr)
        return 2
    return 0


def _models(_: argparse.Namespace) -> int:
    from harness.reporting.terminal import fitted

    rows = importlib.import_module("methods._encoders.weights").inventory()
    for row in rows:
        size = f"{row.size / 1e6:,.0f} MB" if row.size else "-"
        state = "found" if row.complete else "not found"
        source = [f"    {row.source}"] if row.source else []
        lines = [f"{row.name}: {row.what}", *source, f"    {state}: {row.where}"]
        print(fitted([*lines, f"    {size}, {row.licence}"]))
    return 0

"""The command line: ``python -m harness run conf/demo.yaml``."""

from __future__ import annotations

import argparse
import gc
import importlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from harness import plugins
from harness.errors import InputError, one_line

if TYPE_CHECKING:
    from harness.run import Options


def main(argv: list[str] | None = None) -> int:
    """Run a command; the exit status: 0 done, 1 something failed, 2 bad input."""
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.do(arguments))
    except InputError as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)
        return 2
    except BrokenPipeError:  # "| head" has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m harness", description="Few-shot anomaly detection, evaluated."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="run a sweep, or go on with it")
    plan = commands.add_parser("plan", help="what a sweep would do, and all errors of its config")
    for command in (run, plan):
        command.add_argument("conf", type=Path, metavar="CONF", help="YAML file")
        command.add_argument("--storage", default="runs", help="folder or URI (default: runs)")
        command.add_argument("--data-root", metavar="DIR", help="folder that holds the datasets")
        command.add_argument(
            "--only",
            action="append",
            default=[],
            metavar="KEY=VALUE",
            help="only these cells; KEY is method, dataset, category, shots or seed",
        )
        command.add_argument(
            "--set",
            action="append",
            default=[],
            metavar="KEY=VALUE",
            help="change the config, for example shots=[2] or methods.0.params.size=128",
        )
    run.add_argument(
        "--runner",
        choices=["serial", "local", "ray"],
        default="ray",
        help="one process here, several here, or Ray's actors anywhere; results are the same",
    )
    run.add_argument("--address", help="of a running Ray cluster (default: start one here)")
    run.add_argument("--workers", type=_positive, metavar="N", help="default: one per GPU or core")
    run.add_argument("--retry-failed", action="store_true", help="try cells again that failed")
    run.add_argument("--mlflow", metavar="URI", help="tracking server (default: in the storage)")
    run.add_argument("--quiet", action="store_true", help="print errors only")
    run.set_defaults(do=_run)
    plan.set_defaults(do=_plan)
    report = commands.add_parser("report", help="tables and plots of a sweep's folder")
    report.add_argument("folder", type=Path, metavar="SWEEP_DIR")
    formats = ["text", "markdown", "latex", "csv", "html"]
    report.add_argument("--format", choices=formats, default="text")
    report.add_argument("--against", choices=["published"], help="beside the papers' numbers")
    report.set_defaults(do=_report)
    check = commands.add_parser("check", help="the promises of a plug-in, kept or broken")
    check.add_argument("name", metavar="NAME|module:Class")
    check.add_argument("--data-root", metavar="DIR", help="folder that holds the datasets")
    _add_params(check)
    check.set_defaults(do=_check)
    show = commands.add_parser("list", help="built-in plug-ins")
    kinds = ["methods", "datasets", "generators"]
    show.add_argument("kind", choices=kinds, nargs="?", help="default: all kinds")
    show.set_defaults(do=_list)
    data = commands.add_parser("data", help="counts, leaks and fingerprint of a dataset")
    data.add_argument("dataset", metavar="DATASET")
    data.add_argument("--data-root", metavar="DIR")
    _add_params(data)
    data.set_defaults(do=_data)
    models = commands.add_parser("models", help="weights: embedded, found here, or needed")
    models.set_defaults(do=_models)
    return parser


def _run(arguments: argparse.Namespace) -> int:
    from harness.run import run

    return run(_options(arguments))


def _options(arguments: argparse.Namespace) -> Options:
    from harness.run import Options

    given = {
        name: value
        for name, value in vars(arguments).items()
        if name in Options.__dataclass_fields__ and name != "only"
    }
    return Options(**given, only=tuple(arguments.only), overrides=tuple(arguments.set))


def _plan(arguments: argparse.Namespace) -> int:
    from harness.execution.schedule import Schedule
    from harness.planning import costs
    from harness.run import existing, prepare
    from harness.storage.store import Store

    ready = prepare(_options(arguments))
    sweep, graph, inputs = ready.sweep, ready.graph, ready.inputs.plan_inputs
    table = costs.read()
    values = costs.parameters(sweep)
    estimator = costs.Estimator(table, sweep, inputs.categories, values)
    store = Store(arguments.storage)
    there = existing(store, {task.kind for task in graph.tasks.values()})
    finished = {key for key in graph.cells.values() if key in there}
    todo = Schedule(graph.tasks, [k for k in graph.cells.values() if k not in finished], there).todo
    queries = sum(len(c.queries) for c in inputs.categories)
    count = len(inputs.categories)
    noun = "category" if count == 1 else "categories"
    sizes = f"{count} {noun} with {queries} queries"
    print(f"{sweep.name}: {len(graph.cells)} cells, {sizes}")
    print(costs.render(estimator.stages(graph, graph.tasks), estimator.stages(graph, todo)))
    print(f"Estimates by conf/costs.yaml: {table.hardware}.")
    return 0


def _report(arguments: argparse.Namespace) -> int:
    from harness.reporting import report

    try:
        text = report.render(arguments.folder, arguments.format, arguments.against)
    except (OSError, ValueError) as error:
        print(one_line(error), file=sys.stderr)
        return 2
    sys.stdout.write(text if text.endswith("\n") else text + "\n")
    return 0


def _check(arguments: argparse.Namespace) -> int:
    from harness.contract import check

    return check(arguments.name, _params(arguments), arguments.data_root)


def _list(arguments: argparse.Namespace) -> int:
    kinds = [arguments.kind] if arguments.kind else ["methods", "datasets", "generators"]
    for kind in kinds:
        if len(kinds) > 1:
            print(f"{kind}:")
        for name in plugins.names(kind[:-1]):
            about = (plugins.find(kind[:-1], name).__doc__ or "").strip().splitlines()
            print(f"  {name:<20}{about[0] if about else ''}")
    return 0


def _add_params(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--param", action="append", default=[], metavar="KEY=VALUE", help="of the plug-in"
    )


def _params(arguments: argparse.Namespace) -> dict[str, object]:
    from harness.config import value_of

    return dict(value_of("--param", text) for text in arguments.param)


def _data(arguments: argparse.Namespace) -> int:
    from harness.config import check_plugin
    from harness.data.audit import audit, render
    from harness.data.opening import open_dataset

    params = _params(arguments)
    problems = check_plugin("dataset", arguments.dataset, params, "data")
    if problems:
        raise InputError(*problems)
    try:
        dataset = open_dataset(arguments.dataset, params, arguments.data_root)
        print(render(audit(dataset, arguments.dataset)))
    except (ValueError, OSError) as error:
        print(one_line(error), file=sys.stderr)
        return 2
    return 0


def _models(_: argparse.Namespace) -> int:
    rows = importlib.import_module("methods._encoders.weights").inventory()
    for row in rows:
        size = f"{row.size / 1e6:,.0f} MB" if row.size else "-"
        print(f"{row.name}: {row.what}\n    {row.where}\n    {size}, {row.licence}")
    return 0


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, got {text}")
    return value


if __name__ == "__main__":
    # Libraries and plans are millions of objects that stay. Looking through them for garbage takes
    # a fifth of the time that imports take, and a second at the end.
    gc.set_threshold(100_000, 20, 20)
    status = main()
    gc.freeze()
    sys.exit(status)

"""``run`` and ``plan``: a sweep, done or only foretold."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from harness import logs
from harness.commands.arguments import Subparsers, positive, share, whole
from harness.errors import amount

if TYPE_CHECKING:
    from harness.run import Prepared
    from harness.running.options import Options
    from harness.storage.store import Store

WHY = 23  # columns before the reasons of ``plan --why``


def add_selection(command: argparse.ArgumentParser) -> None:
    """Add what says which sweep, data and cells are meant."""
    command.add_argument("conf", type=Path, metavar="CONF", help="YAML file")
    command.add_argument("--storage", default="runs", help="folder or URI (default: runs)")
    command.add_argument("--data-root", metavar="DIR", help="folder that holds the datasets")
    command.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="only these cells; KEY is method, dataset, category, shots or seed; data of "
        "datasets left out may be missing",
    )
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change the config, for example shots=[2] or methods.0.params.size=128",
    )


def register(commands: Subparsers) -> None:
    """Add the commands of this module."""
    run = commands.add_parser("run", help="run a sweep, or go on with it")
    plan = commands.add_parser("plan", help="what a sweep would do, and all errors of its config")
    for command in (run, plan):
        add_selection(command)
    run.add_argument(
        "--runner",
        choices=["serial", "local", "ray"],
        default="ray",
        help="one process here, several here, or Ray's actors anywhere; results are the same",
    )
    run.add_argument("--address", help="of a running Ray cluster (default: start one here)")
    run.add_argument("--workers", type=positive, metavar="N", help="default: one per GPU or core")
    run.add_argument("--retry-failed", action="store_true", help="try cells again that failed")
    run.add_argument("--mlflow", metavar="URI", help="tracking server (default: in the storage)")
    run.add_argument(
        "--audit",
        type=share,
        default=0.0,
        metavar="SHARE",
        help="afterwards repeat a random share of the finished tasks, such as 1%%, each in a fresh "
        "worker; exit status 1 unless all make the same again, to the last bit",
    )
    run.add_argument(
        "--audit-seed", type=whole, default=0, metavar="N", help="another one draws other tasks"
    )
    run.add_argument(
        "--log-level", choices=logs.LEVELS, help="show what plug-ins log from this level up"
    )
    run.add_argument("--quiet", action="store_true", help="print errors only")
    run.set_defaults(do=_run)
    plan.add_argument("--why", action="store_true", help="what made tasks new")
    plan.set_defaults(do=_plan)


def _run(arguments: argparse.Namespace) -> int:
    from harness.data import waiting
    from harness.run import run

    if not arguments.quiet:
        waiting.tell()
    if arguments.log_level is not None:
        logs.show(arguments.log_level)
    return run(_options(arguments))


def _options(arguments: argparse.Namespace) -> Options:
    from harness.running.options import Options

    options = {
        name: value
        for name, value in vars(arguments).items()
        if name in Options.__dataclass_fields__ and name != "only"
    }
    return Options(**options, only=tuple(arguments.only), overrides=tuple(arguments.set))


def _plan(arguments: argparse.Namespace) -> int:
    from harness.data import waiting
    from harness.execution.schedule import Schedule
    from harness.planning import costs, disk, models
    from harness.reporting.terminal import fitted
    from harness.run import existing, prepare
    from harness.storage.store import Store

    waiting.tell()
    ready = prepare(_options(arguments))
    sweep, graph, inputs = ready.sweep, ready.graph, ready.inputs.plan_inputs
    estimator = costs.estimator(sweep, inputs.categories)
    store = Store(arguments.storage)
    stored = existing(store, {task.kind for task in graph.tasks.values()})
    finished = {key for key in graph.cells.values() if key in stored}
    todo = Schedule(
        graph.tasks, [k for k in graph.cells.values() if k not in finished], stored
    ).todo
    queries = sum(len(c.queries) for c in inputs.categories)
    count = len(inputs.categories)
    sizes = f"{amount(count, 'category', 'categories')} with {amount(queries, 'query', 'queries')}"
    print(fitted([f"{sweep.name}: {amount(len(graph.cells), 'cell')}, {sizes}"]))
    known = importlib.import_module("methods._encoders.weights").inventory
    used = models.lines(models.networks(sweep, known))
    print(fitted([*ready.inputs.doubts(), *used]))
    print(costs.render(estimator.stages(graph, graph.tasks), estimator.stages(graph, todo)))
    print(fitted([f"Estimates by conf/costs.yaml: {estimator.hardware}."]))
    left = disk.free(Path(store.root)) if store.local else None
    needed = disk.need(estimator, graph, todo)
    print(fitted(disk.lines(needed, left, sweep.keep_models)))
    if arguments.why:
        print(fitted(_why(ready, store, todo).splitlines(), WHY))
    return 0


def _why(ready: Prepared, store: Store, todo: Collection[str]) -> str:
    """Why tasks are to do, against the sweep's last run, or that of the sweep most like it."""
    from harness.planning import origins
    from harness.planning.reasons import Reasons

    if not todo:
        return "\nnothing is to do"
    name, inputs = ready.sweep.name, ready.inputs.plan_inputs
    texts = {name: store.read_text(f"{name}/{origins.FILE}")}
    if texts[name] is None:
        texts = {n: store.read_text(f"{n}/{origins.FILE}") for n in store.folders(origins.FILE)}
    runs = {n: origins.read(text) for n, text in texts.items() if text is not None}
    if not runs:
        return f"\neverything is new: no sweep has run in {store.root}"
    runs = {n: recorded for n, recorded in runs.items() if recorded}
    nearest = origins.nearest(origins.origins(ready.sweep, inputs), runs)
    if not nearest:
        where = store.path(f"{name}/{origins.FILE}" if name in texts else "")
        return f"\nwhy is not known: {where}: damaged, or written by an earlier version"
    reasons = Reasons(ready.sweep, inputs, runs[nearest])
    return f"\nto do, against the last run of {nearest}:\n{reasons.table(ready.graph, todo)}"

"""One sweep from its config to its report: plan, resume, run, record."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import config
from harness.config.sweep import GeneratorEntry, MethodEntry, Sweep
from harness.execution.audit import audit
from harness.execution.executors import preload
from harness.execution.executors.executor import Settings
from harness.execution.keeping import Keeping
from harness.execution.schedule import Schedule
from harness.execution.workers import Workers
from harness.planning import costs, disk
from harness.planning.graph import Plan, plan
from harness.planning.inputs import SweepInputs, checked_sweep, collect_inputs
from harness.planning.origins import origins
from harness.planning.payload import Payloads
from harness.reporting import report
from harness.reporting.environment import environment
from harness.reporting.live.progress import Display
from harness.reporting.live.time_left import TimeLeft, estimate
from harness.reporting.mlflow.lineage import lineage
from harness.reporting.mlflow.tracking import Tracker
from harness.results.folder import repetition
from harness.results.folder.repetition import Audit
from harness.results.folder.writer import ResultsWriter, numbers, written
from harness.running.ending import doubtful, no_room, publish, verdict, write_tables
from harness.running.options import Options
from harness.running.recording import Recorder
from harness.storage.lock import Lock
from harness.storage.room import Full
from harness.storage.store import Store, relative
from harness.tasks.task import Task


@dataclass(frozen=True)
class Prepared:
    """A sweep, planned."""

    sweep: Sweep
    inputs: SweepInputs
    graph: Plan


def prepare(options: Options, sweep: Sweep | None = None) -> Prepared:
    """Read and check the config, look at the data, make the graph; InputError says all mistakes."""
    narrowed = config.only(list(options.only))
    sweep = sweep or checked_sweep(options.conf, options.overrides, options.data_root)
    inputs = collect_inputs(sweep, options.conf, options.data_root, narrowed)
    return Prepared(sweep, inputs, plan(sweep, inputs.plan_inputs, narrowed))


def existing(store: Store, kinds: Iterable[str]) -> set[str]:
    """Keys of the artifacts of these kinds that are there."""
    return {key for kind in kinds for key in store.keys(kind)}


def run(options: Options) -> int:
    """Run a sweep, or go on with it; the exit status.

    Raises
    ------
    InputError
        Bad config, plug-in or data found before anything was run.
    """
    sweep = checked_sweep(options.conf, options.overrides, options.data_root)
    facts = environment()
    settings = _settings(options, sweep, facts.get("commit", ""))
    with Workers(options.runner, settings) as workers:
        ready = prepare(options, sweep)
        with Lock(Store(options.storage), sweep.name):
            try:
                return _run(options, ready, workers, facts)
            except Full as error:  # before anything was done
                return no_room(error, 0.0)


def _run(options: Options, ready: Prepared, workers: Workers, facts: dict[str, Any]) -> int:
    sweep, graph = ready.sweep, ready.graph
    if not options.quiet:
        print("".join(f"{line}\n" for line in ready.inputs.doubts()), end="", file=sys.stderr)
    store = Store(options.storage)
    writer = ResultsWriter(store, sweep, graph.cells)
    for cell in set(writer.failures) & set(graph.cells):
        if options.retry_failed or writer.failures[cell]["bad_data"] == "True":
            del writer.failures[cell]
    open_cells = [c for c in graph.cells if c not in writer.rows and c not in writer.failures]
    targets = dict.fromkeys(graph.cells[c] for c in open_cells)
    # A finished sweep need not list the store, which may hold a million artifacts far away.
    kinds = {t.kind for t in graph.tasks.values() if not t.final} if targets else set()
    if targets:
        store.tidy(".artifacts")
        store.tidy(sweep.name)
    schedule = Schedule(graph.tasks, targets, existing(store, kinds))
    repetition.drop_outdated(store, sweep.name, graph.tasks)
    sweep_lineage = lineage(sweep, ready.inputs.plan_inputs, graph.cells, facts)
    facts["data"] = {label: each.digest for label, each in sweep_lineage.data.items()}
    keys = origins(sweep, ready.inputs.plan_inputs)
    writer.begin(ready.inputs.supports, facts, ready.inputs.notes + ready.inputs.remarks, keys)
    tracker = Tracker(store, sweep.name, sweep_lineage, options.mlflow)
    finished_before = [c for c in graph.cells if c in writer.rows]
    for cell in finished_before:
        writer.rows[cell]["support_leaks"] = ready.inputs.support_leaks(cell)
        timing = numbers(writer.timings[cell])
        tracker.cell(written(cell), graph.cells[cell], writer.rows[cell], timing)
    for cell in writer.failures.keys() & graph.cells.keys():
        tracker.failed(written(cell), graph.cells[cell], writer.failures[cell])
    payloads = Payloads(sweep, ready.inputs, graph)
    todo = [graph.tasks[key] for key in graph.tasks if key in schedule.todo]
    display = Display(
        sweep.name,
        list(graph.cells),
        {cell: writer.rows[cell] for cell in finished_before},
        len(todo),
        workers.count,
        _time_left(options, ready, todo, payloads, workers.count, writer),
        options.quiet,
    )
    keeping = Keeping(store, graph.tasks, schedule.todo, sweep.keep_models)
    recorder = Recorder(ready.inputs, graph, payloads, writer, tracker, display, keeping)
    interrupted, full = False, None
    if schedule.todo:  # whatever becomes of the checkout meanwhile
        report.load()
        payloads.look()
    with display:
        try:
            if schedule.todo:
                workers.run(schedule, payloads.write, recorder)
        except KeyboardInterrupt:
            interrupted = workers.hurry = True
        except Full as error:  # every other task would meet the same
            full, workers.hurry = error, True
        finally:
            known = full is not None
            whole = write_tables(store, writer, recorder.sharing, graph, known)
    for problem in sorted(recorder.problems):
        print(f"not everything could be recorded: {problem}", file=sys.stderr)
    saw: Audit | None = None
    try:
        if options.audit and not interrupted and full is None:
            share = options.audit, options.audit_seed
            saw = audit(graph.tasks, payloads, store, workers, *share)
            store.write_text(f"{sweep.name}/{repetition.FILE}", saw.text())
    except KeyboardInterrupt:
        interrupted = workers.hurry = True
    missing = [c for c in graph.cells if c not in writer.rows]
    known = full is not None
    whole = publish(store, sweep, writer, tracker, options, not missing, known) and whole
    whole = whole and not recorder.problems
    if full is not None:
        return no_room(full, _megabytes(ready, schedule.todo))
    if interrupted:
        print("interrupted: run the same command to go on", file=sys.stderr)
        return 130
    status = verdict(options, graph, writer, whole)
    return status or doubtful(options, saw)


def _time_left(
    options: Options,
    ready: Prepared,
    todo: list[Task],
    payloads: Payloads,
    workers: int,
    writer: ResultsWriter,
) -> TimeLeft:
    """By earlier runs and the table of costs; neither is read where nothing is to do."""
    if not todo:
        return TimeLeft([], workers)

    def tell(text: str) -> None:
        if not options.quiet:
            print(f"! {text}", file=sys.stderr)

    categories = ready.inputs.plan_inputs.categories
    cost = costs.forgiving(ready.sweep, categories, todo, tell, costs.TABLE).seconds
    return estimate(todo, payloads.names, workers, writer.earlier(), cost)


def _megabytes(ready: Prepared, todo: Collection[str]) -> float:
    """What the artifacts of tasks to do take, by the table of costs."""
    graph, categories = ready.graph, ready.inputs.plan_inputs.categories
    tasks = [graph.tasks[key] for key in todo]
    estimator = costs.forgiving(ready.sweep, categories, tasks, lambda text: None)
    return disk.need(estimator, graph, todo).total(ready.sweep.keep_models)


def _settings(options: Options, sweep: Sweep, commit: str) -> Settings:
    used: list[tuple[str, MethodEntry | GeneratorEntry]] = [("method", m) for m in sweep.methods]
    used += [("generator", g) for g in sweep.generators.values()]
    built = [config.build(kind, entry.use, entry.params) for kind, entry in used]
    return Settings(
        storage=Store(options.storage).root,
        data_root=None if options.data_root is None else str(Path(options.data_root).absolute()),
        workers=1 if options.runner == "serial" else options.workers,
        threads=sweep.threads,
        time_limit=sweep.time_limit,
        attempts=sweep.attempts,
        gpus=max((float(plugin.gpus) for plugin in built), default=0.0),
        address=options.address,
        relative=relative(options.storage),
        preload=preload.needed(built),
        commit=commit,
        memory=sweep.memory,
        log_level=options.log_level,
    )

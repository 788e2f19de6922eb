"""One sweep from its config to its report: plan, resume, run, record."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import config, plugins
from harness.errors import described, one_line, printable
from harness.execution.audit import audit
from harness.execution.channel import remaining
from harness.execution.executor import Settings
from harness.execution.keeping import Keeping
from harness.execution.outcome import Outcome
from harness.execution.reuse import Sharing
from harness.execution.schedule import Schedule
from harness.execution.workers import Workers
from harness.keys import Cell
from harness.options import Options, reproduce
from harness.planning import costs
from harness.planning.graph import Plan, plan
from harness.planning.inputs import SweepInputs, checked_sweep, collect_inputs
from harness.planning.kinds import Evaluate, Personalize
from harness.planning.origins import origins
from harness.planning.payload import Payloads
from harness.planning.task import Task
from harness.reporting import closing, report
from harness.reporting.environment import environment
from harness.reporting.lineage import lineage
from harness.reporting.progress import Display
from harness.reporting.time_left import estimate
from harness.reporting.tracking import Tracker
from harness.results import integrity, reader, repetition
from harness.results.accounting import PER_QUERY, ended, moment
from harness.results.repetition import Audit
from harness.results.writer import ResultsWriter, numbers, written
from harness.storage.lock import Lock
from harness.storage.store import Store, relative
from harness.sweep import GeneratorEntry, MethodEntry, Sweep

REPORT = "report.html"


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
    inputs = collect_inputs(sweep, options.conf, options.data_root)
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
            return _run(options, ready, workers, facts)


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
    cost = costs.estimator(sweep, ready.inputs.plan_inputs.categories).seconds
    display = Display(
        sweep.name,
        list(graph.cells),
        {cell: writer.rows[cell] for cell in finished_before},
        len(todo),
        workers.count,
        estimate(todo, payloads.names, workers.count, writer.earlier() if todo else (), cost),
        options.quiet,
    )
    keeping = Keeping(store, graph.tasks, schedule.todo, sweep.keep_models)
    driver = _Driver(ready, payloads, writer, tracker, display, keeping)
    interrupted = False
    with display:
        try:
            if schedule.todo:
                workers.run(schedule, payloads.write, driver)
        except KeyboardInterrupt:
            interrupted = workers.hurry = True
        finally:
            whole = _tables(store, writer, driver.sharing, graph)
    for problem in sorted(driver.problems):
        print(f"not everything could be recorded: {problem}", file=sys.stderr)
    saw: Audit | None = None
    try:
        if options.audit and not interrupted:
            share = options.audit, options.audit_seed
            saw = audit(graph.tasks, payloads, store, workers, *share)
            store.write_text(f"{sweep.name}/{repetition.FILE}", saw.text())
    except KeyboardInterrupt:
        interrupted = workers.hurry = True
    missing = [c for c in graph.cells if c not in writer.rows]
    whole = _finish(store, sweep, writer, tracker, options, complete=not missing) and whole
    whole = whole and not driver.problems
    if interrupted:
        print("interrupted: run the same command to go on", file=sys.stderr)
        return 130
    status = _verdict(options, graph, writer, whole)
    return status or _doubtful(options, saw)


def _doubtful(options: Options, saw: Audit | None) -> int:
    """Name the tasks that did not do the same again; the exit status."""
    if saw is None or saw.passed:
        return 0
    print(printable("\n".join(saw.lines()), "\n"), file=sys.stderr)
    storage = shlex.quote(options.storage)
    command = f"python -m harness purge --storage {storage} --method NAME"
    print(f"'{command}' removes what a faulty method may have touched", file=sys.stderr)
    return 1


def _tables(store: Store, writer: ResultsWriter, sharing: Sharing, graph: Plan) -> bool:
    """Write the tables of a run; whether that went well: the disk may be full."""
    try:
        writer.settle(graph.cells, {key: task.needs for key, task in graph.tasks.items()})
        writer.flush(final=True)
        if sharing:
            store.write_text(f"{writer.folder}/sharing.csv", sharing.text())
    except OSError as error:
        hint = "make room and run the same command again: what is finished is kept"
        print(f"{store.path(writer.folder)}: {one_line(error)}; {hint}", file=sys.stderr)
        return False
    return True


class _Driver:
    """Listens to the runner and records."""

    def __init__(
        self,
        ready: Prepared,
        payloads: Payloads,
        writer: ResultsWriter,
        tracker: Tracker,
        display: Display,
        keeping: Keeping,
    ) -> None:
        self._graph = ready.graph
        self._inputs = ready.inputs
        self._payloads = payloads
        self._writer = writer
        self._tracker = tracker
        self._display = display
        self._keeping = keeping
        self._who: dict[str, tuple[str, float]] = {}  # task that runs -> its worker, since when
        self._lost: dict[str, list[float]] = {}  # task -> seconds of tries in vain
        self.sharing = Sharing()
        self.problems: set[str] = set()  # met while recording

    def started(self, task: Task, worker: str) -> None:
        self._who[task.key] = worker, time.monotonic()
        self._display.started(task.key, f"{task.kind} {task.affinity}", worker)

    def finished(self, task: Task, outcome: Outcome) -> None:
        with self._alone():
            self._record(task, outcome)
        if isinstance(task, Evaluate):
            timing: dict[str, Any] = {}
            with self._alone():
                timing = self._timing(task)
            for cell in self._payloads.cells_of(task.key):
                with self._alone():
                    row = {**outcome.row, "support_leaks": self._inputs.support_leaks(cell)}
                    self._writer.finish(cell, task.key, row, timing | outcome.files)
                    self._tracker.cell(written(cell), task.key, row, timing)
                    self._display.finished(cell, row)
        with self._alone():
            self._keeping.done(task)
        self.tick()

    def failed(self, task: Task, outcome: Outcome, dropped: list[str]) -> None:
        with self._alone():
            self._record(task, outcome)
            self._display.dropped(dropped)
        what = f"{task.kind} {task.affinity}"
        failure = {
            "task": what,
            "bad_data": outcome.bad_data,
            "error": outcome.error,
            "traceback": outcome.traceback,
        }
        for key in dropped:
            for cell in self._payloads.cells_of(key):
                with self._alone():
                    self._writer.fail(cell, key, failure)
                    self._tracker.failed(written(cell), key, failure)
                    self._display.failed(cell, f"{what}: {outcome.error}")
        self.tick()

    def lost(self, task: Task, reason: str) -> None:
        _, since = self._who.pop(task.key, ("", time.monotonic()))
        self._lost.setdefault(task.key, []).append(time.monotonic() - since)
        self._display.note(f"{task.kind} {task.affinity}: {reason}; trying again")

    def replaced(self, task: Task, reason: str) -> None:
        self._display.note(f"{task.kind} {task.affinity}: {reason}; its worker is replaced")

    def told(self, task: Task, worker: str, text: str) -> None:
        self._display.told(worker, text, remaining(text))

    def tick(self) -> None:
        with self._alone():
            self._writer.flush()
            self._display.tick()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """What goes wrong while one result is recorded or shown does not stop the others."""
        try:
            yield
        except Exception as error:
            self.problems.add(described(error))

    def _record(self, task: Task, outcome: Outcome) -> None:
        """Write down what a task cost that is over, one way or the other."""
        worker, since = self._who.pop(task.key, ("", time.monotonic()))
        lost = self._lost.pop(task.key, [])
        if not outcome.stages:  # its worker did not come back
            lost.append(time.monotonic() - since)
        tries = len(lost) + bool(outcome.stages)
        status = "failed" if outcome.error else "reused" if outcome.reused else "done"
        names = self._payloads.names(task) | {"worker": worker}
        self._writer.tasks.add(names, status, outcome.stages, outcome.pools, sum(lost), tries)
        self.sharing.add(worker, outcome.shared)
        self._display.worked(task.key, worker)

    def _timing(self, task: Task) -> dict[str, Any]:
        """Seconds by stage of a cell's own predictions and evaluation, in whichever run they were;
        what an unknown run has made is not in them.
        """
        records, tasks = self._writer.tasks.records, self._graph.tasks
        predicted = [records[key] for key in task.needs if key in records]
        before = {key for needed in task.needs for key in tasks[needed].needs}
        personalized = [
            records[k] for k in before if k in records and isinstance(tasks[k], Personalize)
        ]
        every = [*personalized, *predicted, records[task.key]]
        names = ("fit_s", "encode_s", "decode_s", "queries", "encoded", "decoded")
        total = {name: sum(r[name] for r in predicted) for name in names}
        total |= {"predict_s": sum(r["work_s"] for r in predicted)}
        total |= {"personalize_s": sum(r["work_s"] for r in personalized)}
        total |= {"evaluate_s": records[task.key]["seconds"]}
        total |= {"cpu_s": sum(r["cpu_s"] for r in every)}
        total |= {name: max(r[name] for r in every) for name in ("peak_mb", "gpu_mb")}
        spent = sum(total[f"{part}_s"] for part in PER_QUERY)
        if spent:
            total["images_per_s"] = total["queries"] / spent
        times = {"started": min(r["started"] for r in every)}
        times["ended"] = moment(max(map(ended, every)))
        return {n: round(value, 4) for n, value in total.items()} | times


def _settings(options: Options, sweep: Sweep, commit: str) -> Settings:
    used: list[tuple[str, MethodEntry | GeneratorEntry]] = [("method", m) for m in sweep.methods]
    used += [("generator", g) for g in sweep.generators.values()]
    built = [config.build(kind, entry.use, entry.params) for kind, entry in used]
    imported: set[str] = set()
    for plugin in built:
        declared = getattr(plugin, "preload", None)
        imported |= set(plugins.source(plugin.__class__).imports if declared is None else declared)
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
        preload=tuple(name for name in plugins.HEAVY if name in imported),
        commit=commit,
        memory=sweep.memory,
    )


def _finish(
    store: Store,
    sweep: Sweep,
    writer: ResultsWriter,
    tracker: Tracker,
    options: Options,
    complete: bool,
) -> bool:
    """Report, MLflow, and the table on the terminal; whether the report could be written."""
    summary = writer.summary()
    whole, files = True, {}
    try:
        with store.folder(sweep.name) as folder:
            read = reader.load(folder)
            html = report.render(read, "html")
            store.write_text(f"{sweep.name}/{REPORT}", html)
            integrity.list_files(store, sweep.name)
            files = {REPORT: html.encode(errors="backslashreplace"), **report.artifacts(folder)}
            if not options.quiet:
                print(printable(report.render(read, "text"), "\n"), flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        whole = False
        print(f"{store.path(sweep.name)}: no report: {one_line(error)}", file=sys.stderr)
    tracker.close(summary.to_dict("records"), writer.costs, complete, files)
    if tracker.problem:
        print(f"not everything was logged: {tracker.problem}", file=sys.stderr)
    if not options.quiet:
        ui = closing.ui(options.storage, tracker.uri, options.mlflow)
        page = f"{store.path(sweep.name)}/{REPORT}"
        print("\n" + "\n".join(closing.lines(page, ui, writer.tasks.records.values())), flush=True)
    return whole


def _verdict(options: Options, graph: Plan, writer: ResultsWriter, whole: bool) -> int:
    """Name what failed, all of it where the tables are not whole; the exit status."""
    failed: Mapping[Cell, Mapping[str, Any]] = {
        cell: failure for cell, failure in writer.failures.items() if cell in graph.cells
    }
    bad = {failure["error"] for failure in failed.values() if str(failure["bad_data"]) == "True"}
    for line in map(printable, sorted(bad)):
        print(line.removeprefix("DataError: "), file=sys.stderr)
    if failed:
        most = 10 if whole else len(failed)
        named = list(failed.items())[:most]
        few = "\n".join(
            printable(
                f"  {cell}: {failure['error']}\n    look into it: {reproduce(options, cell)}", "\n"
            )
            for cell, failure in named
        )
        more = f"\n  and {len(failed) - most} more, see failures.csv" if len(failed) > most else ""
        hint = "; --retry-failed tries them again"
        noun = "cell" if len(failed) == 1 else "cells"
        print(f"{len(failed)} {noun} failed{hint}:\n{few}{more}", file=sys.stderr)
    return 2 if bad else 1 if failed or not whole else 0

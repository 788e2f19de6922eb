"""How many small faults the tests notice: ``python -m tools.mutate [MODULE ...] [--sample 30]``.

Each mutant is a module with one change: a comparison, an operator, a number, a condition turned
round, a statement left out. It is killed when the tests that belong to the module fail or do not
end. Runs in copies of the project; processes are forked from one that has the libraries loaded.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import importlib
import io
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from queue import SimpleQueue

from tools.equivalent import EQUIVALENT

HOME = Path(__file__).resolve().parents[1]
OWN = ("harness", "methods", "datasets", "tests", "toys", "conftest", "benchmarks", "tools")
#: they start threads, which a fork does not take along, or are pytest's plug-ins
UNSHARED = ("ray", "mlflow", "playwright", "xdist", "anyio", "_hypothesis_pytestplugin")
FAILED = (None, 1, 2)  # did not end; a test failed; a module could not be imported

#: modules of the engine, and the quick tests that are to notice a fault in them
TESTS = {
    "harness/data/selection.py": "selection plan inputs",
    "harness/execution/schedule.py": "schedule_rules schedule schedule_quick loop",
    "harness/planning/costs.py": "costs_bare costs",
    "harness/planning/disk.py": "costs_bare",
    "harness/planning/graph.py": "plan_bare plan",
    "harness/planning/inputs.py": "collecting inputs",
    "harness/tasks/kinds.py": "plan schedule costs worker",
    "harness/planning/listing.py": "collecting inputs",
    "harness/planning/models.py": "networks",
    "harness/planning/origins.py": "origins_bare reasons",
    "harness/planning/payload.py": "plan_bare",
    "harness/planning/reasons.py": "origins_bare reasons reasons_nearest",
    "harness/planning/record.py": "origins_bare reasons",
    "harness/planning/training_data.py": "collecting inputs",
    "harness/reporting/compare.py": "compare",
    "harness/reporting/terminal.py": "terminal_lines",
    "harness/reporting/tables.py": "tables metric_records",
    "harness/results/folder/accounting.py": "results_writer costs",
    "harness/results/aggregate.py": "aggregate significance",
    "harness/results/comparison.py": "compare",
    "harness/results/evaluation.py": "evaluation queries",
    "harness/results/intervals.py": "intervals significance",
    "harness/results/metrics.py": "metrics metric_records evaluation",
    "harness/results/published.py": "published",
    "harness/results/folder/reader.py": "reader metric_records",
    "harness/results/significance.py": "significance",
    "harness/results/folder/writer.py": "results_writer writer_begin",
    "harness/storage/store.py": "store store_folders results_writer",
}

COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.BitOr: ast.BitAnd,
    ast.FloorDiv: ast.Mult, ast.Mod: ast.Add, ast.BitAnd: ast.BitOr, ast.Pow: ast.Mult,
}  # fmt: skip
CALLS = {"min": "max", "max": "min", "any": "all", "all": "any"}


@dataclass(frozen=True)
class Mutant:
    """A module with one change: where, what to print of it, and the whole text."""

    line: int
    code: str  # that line
    change: str
    text: str

    @property
    def name(self) -> str:
        """Without the line's number, which other changes move."""
        return f"{self.code}: {self.change}"


def mutants(source: str) -> list[Mutant]:
    """Every change that is made to a module."""
    lines = source.encode().splitlines(keepends=True)
    starts = list(accumulate(map(len, lines), initial=0))
    every = []
    for node in _sites(ast.parse(source)):
        for part, after in _changes(node):
            first = starts[part.lineno - 1] + part.col_offset
            last = starts[(part.end_lineno or 0) - 1] + (part.end_col_offset or 0)
            before = source.encode()[first:last].decode()
            text = source.encode()[:first] + after.encode() + source.encode()[last:]
            change = f"{_short(before)} -> {_short(after)}"
            code = lines[part.lineno - 1].decode().partition("  #")[0].strip()
            every.append(Mutant(part.lineno, code, change, text.decode()))
    return every


def _short(code: str) -> str:
    text = " ".join(code.split())
    return text if len(text) < 90 else text[:87] + "..."


def _sites(tree: ast.AST) -> Iterator[ast.expr | ast.stmt]:
    """What may be changed: not texts, annotations, errors that are raised, imports for types."""
    for name, field in ast.iter_fields(tree):
        if name in ("annotation", "returns", "exc", "decorator_list"):
            continue
        for node in field if isinstance(field, list) else [field]:
            if not isinstance(node, ast.AST) or isinstance(node, (ast.JoinedStr, ast.Assert)):
                continue
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                continue
            if isinstance(node, (ast.expr, ast.stmt)):
                yield node
            yield from _sites(node)


def _changes(node: ast.expr | ast.stmt) -> Iterator[tuple[ast.expr | ast.stmt, str]]:
    """Parts of the code that stand in a node's place, and what to put there, one way each."""

    def but(**changed: object) -> str:
        other = copy.copy(node)
        for name, value in changed.items():
            setattr(other, name, value)
        text = ast.unparse(other)
        return f"({text})" if isinstance(node, ast.expr) else text

    match node:
        case ast.Compare(ops=[op]):
            yield node, but(ops=[COMPARISONS[type(op)]()])
        case ast.BoolOp(op=op):
            yield node, but(op=ast.Or() if isinstance(op, ast.And) else ast.And())
        case ast.BinOp(op=op) | ast.AugAssign(op=op) if type(op) in OPERATORS:
            yield node, but(op=OPERATORS[type(op)]())
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield node, f"({ast.unparse(operand)})"
        case ast.Constant(value=bool(value)):
            yield node, str(not value)
        case ast.Constant(value=int() | float() as number):
            yield node, repr(number + 1)
        case ast.If(test=test) | ast.While(test=test) | ast.IfExp(test=test):
            if not isinstance(test, (ast.Compare, ast.UnaryOp, ast.BoolOp)):
                yield test, f"(not ({ast.unparse(test)}))"
        case ast.Call(func=ast.Name(id=name)) if name in CALLS:
            yield node.func, CALLS[name]
        case ast.Call(func=ast.Name(id="sorted"), args=[only]):
            yield node, f"list({ast.unparse(only)})"
        case ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp():
            if any(clause.ifs for clause in node.generators):
                bare = [copy.copy(clause) for clause in node.generators]
                for clause in bare:
                    clause.ifs = []
                yield node, but(generators=bare)
        case ast.Break():
            yield node, "continue"
        case ast.Continue():
            yield node, "break"
        case ast.Expr(value=ast.Call()):
            yield node, "pass"
    if isinstance(node, ast.AugAssign):
        yield node, "pass"


class Copies:
    """Copies of the project, one for each of those who work at once."""

    def __init__(self, count: int, folder: Path) -> None:
        listed = subprocess.run(
            ["git", "ls-files", "-z"], cwd=HOME, capture_output=True, check=True, text=True
        )
        self._free: SimpleQueue[Path] = SimpleQueue()
        for number in range(count):
            place = folder / str(number)
            for name in filter(None, listed.stdout.split("\0")):
                (place / name).parent.mkdir(parents=True, exist_ok=True)
                if (HOME / name).is_file():
                    shutil.copy2(HOME / name, place / name)
            (place / ".venv").symlink_to(HOME / ".venv")
            self._free.put(place)

    def test(self, module: str, text: str, tests: Sequence[str], limit: float) -> Run:
        """Run the tests with this text in the module's place."""
        place = self._free.get()
        before = (place / module).read_text(encoding="utf-8")
        try:
            (place / module).write_text(text, encoding="utf-8")
            return _tested(place, [f"tests/test_{name}.py" for name in tests], limit)
        finally:
            (place / module).write_text(before, encoding="utf-8")
            self._free.put(place)


@dataclass(frozen=True)
class Run:
    """How tests ended."""

    status: int | None  # pytest's; None: they did not end
    seconds: float
    loaded: frozenset[str] = frozenset()  # modules
    output: str = ""


def _tested(place: Path, tests: list[str], limit: float) -> Run:
    """Run tests in a process that is forked from this one."""
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        child = os.fork()
        if child == 0:
            _child(place, tests, Path(scratch))
        while time.monotonic() < begun + limit:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                loaded, output = (_text(Path(scratch) / name) for name in ("loaded", "output"))
                seconds, code = time.monotonic() - begun, os.waitstatus_to_exitcode(status)
                return Run(code, seconds, frozenset(loaded.split()), output)
            time.sleep(0.02)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return Run(None, limit)


def _text(file: Path) -> str:
    return file.read_text(errors="replace") if file.exists() else ""


def _child(place: Path, tests: list[str], scratch: Path) -> None:
    """What the forked process does; it does not return."""
    status = 99
    try:
        os.setsid()
        os.chdir(place)
        sys.path[:] = [str(place), *(p for p in sys.path if Path(p or ".").resolve() != HOME)]
        for name in [n for n in sys.modules if n.split(".")[0] in OWN]:
            del sys.modules[name]  # the copy's are to be loaded
        sys.dont_write_bytecode = True
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
        tempfile.tempdir = str(scratch)
        os.environ["TMPDIR"] = str(scratch)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        output = os.open(scratch / "output", os.O_WRONLY | os.O_CREAT)
        for descriptor in (1, 2):
            os.dup2(output, descriptor)
        import pytest

        options = ["-x", "-q", "-p", "no:cacheprovider", "--hypothesis-seed=0"]
        options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
        status = int(pytest.main([*options, f"--basetemp={scratch / 'base'}", *tests]))
        (scratch / "loaded").write_text("\n".join(sys.modules))
    finally:
        os._exit(status)


def _share(names: Iterable[str]) -> None:
    """Load the libraries that tests need, so that each process that is forked has them."""
    for name in sorted(names):
        if name.split(".")[0] not in {*OWN, *UNSHARED}:
            with contextlib.suppress(Exception), contextlib.redirect_stderr(io.StringIO()):
                importlib.import_module(name)


def measure(module: str, copies: Copies, jobs: int, sample: int, seed: int) -> tuple[int, int]:
    """Try some mutants of a module, print those that live; how many were killed, and of how many.

    Those of ``EQUIVALENT`` are counted apart.

    Raises
    ------
    RuntimeError
        When the tests fail without any change.
    """
    source, tests = (HOME / module).read_text(encoding="utf-8"), TESTS[module].split()
    whole = Run(None, 0.0)
    for _ in range(2):  # the second time as the mutants' tests: with the libraries there
        _share(whole.loaded)
        whole = copies.test(module, source, tests, 600)
        if whole.status != 0:
            end = whole.output[-3000:]
            raise RuntimeError(f"{module}: its tests fail as it is (status {whole.status})\n{end}")
    limit = 20 + 5 * whole.seconds
    every = mutants(source)
    drawn = random.Random(seed).sample(every, min(sample, len(every)))
    same = EQUIVALENT.get(module, {})
    if gone := sorted(set(same) - {mutant.name for mutant in every}):
        raise RuntimeError(f"{module}: no longer one of its mutants: {', '.join(gone)}")
    chosen = sorted((m for m in drawn if m.name not in same), key=lambda m: m.line)
    with ThreadPoolExecutor(jobs) as several:
        runs = list(several.map(lambda m: copies.test(module, m.text, tests, limit), chosen))
    killed = 0
    for mutant, run in zip(chosen, runs, strict=True):
        if run.status not in (0, *FAILED):
            raise RuntimeError(
                f"{module}:{mutant.line}: {mutant.change}: pytest ended with {run.status}"
            )
        killed += run.status in FAILED
        if run.status == 0:
            print(f"  lives: {module}:{mutant.line}: {mutant.change}", flush=True)
    rest = f", {len(drawn) - len(chosen)} change nothing" if len(drawn) > len(chosen) else ""
    print(f"{module:<36}{killed:>4} of {len(chosen):>3} killed, "
          f"{100 * killed / max(1, len(chosen)):.0f} % ({len(every)} possible{rest})",
          flush=True)  # fmt: skip
    return killed, len(chosen)


def main() -> None:
    """Measure the modules that are named, or all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("modules", nargs="*", metavar="MODULE", help=", ".join(TESTS))
    parser.add_argument("--sample", type=int, default=30, help="mutants of each module, at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="tests that run at once")
    options = parser.parse_args()
    unknown = sorted(set(options.modules) - set(TESTS))
    if unknown:
        parser.error(f"no tests are named for {', '.join(unknown)}")
    killed: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copies = Copies(options.jobs, Path(folder))
        for module in options.modules or TESTS:
            some, of = measure(module, copies, options.jobs, options.sample, options.seed)
            killed.update(killed=some, tried=of)
    print(f"{'all':<36}{killed['killed']:>4} of {killed['tried']:>3} killed, "
          f"{100 * killed['killed'] / killed['tried']:.0f} %")  # fmt: skip


if __name__ == "__main__":
    main()

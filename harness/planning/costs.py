"""What a plan will take, by a table that anybody may edit: seconds, GPU-hours and disk by stage.

Estimates say what to expect; neither a result nor the order of tasks depends on them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import pydantic
import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from harness import plugins
from harness.config.parameters import parameters as parameters_of
from harness.config.sweep import Sweep, plain
from harness.errors import InputError, Problem, one_line, suggest
from harness.planning.graph import Category, Plan, shards
from harness.tasks.kinds import KINDS
from harness.tasks.references import Role
from harness.tasks.task import Amounts, Sizes, Task

TABLE = plugins.HOME / "conf" / "costs.yaml"
UNITS = ("task", *Amounts._fields)


def _known(kind: str) -> str:
    if kind not in KINDS:
        raise ValueError(f"no kind of task.{suggest(kind, KINDS)}")
    return kind


Kind = Annotated[str, AfterValidator(_known)]
Terms = dict[str, Annotated[float, Field(ge=0)]]  # "image * steps" -> seconds or megabytes of each
Values = Mapping[str, Any]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Default(_Frozen):
    """What tasks of plug-ins cost that the table does not list.

    A kind that is left out takes the seconds that its class says, and leaves nothing.
    """

    seconds: dict[Kind, Terms] = {}
    megabytes: dict[Kind, Terms] = {}


class Entry(_Frozen):
    """What tasks of a plug-in cost where its parameters are as in ``when``."""

    use: str
    kind: Role
    when: dict[str, Any] = {}
    assume: dict[str, float] = {}  # values of numeric parameters that are None
    seconds: dict[Kind, Terms] = {}
    megabytes: dict[Kind, Terms] = {}


class Table(_Frozen):
    """The whole file."""

    hardware: str  # what the seconds are meant for, in words
    default: Default
    plugins: list[Entry] = []


def read(path: Path = TABLE) -> Table:
    """Read a cost table.

    Raises
    ------
    InputError
        It is missing, no YAML, or not of this form.
    """
    try:
        return Table.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(Problem(str(path), one_line(error))) from None
    except pydantic.ValidationError as error:
        at = [(".".join(map(str, e["loc"])), e["msg"]) for e in error.errors()]
        raise InputError(*(Problem(f"{path}: {where}", message) for where, message in at)) from None


def parameters(sweep: Sweep) -> tuple[list[Values], dict[str, Values]]:
    """Parameters, with their defaults, of each method and, by name, of each generator."""

    def full(kind: str, use: str, params: Values) -> Values:
        known = parameters_of(plugins.find(kind, use))
        return {name: p.default for name, p in known.items()} | dict(params)

    methods = [full("method", m.use, m.params) for m in sweep.methods]
    return methods, {n: full("generator", g.use, g.params) for n, g in sweep.generators.items()}


@dataclass(frozen=True)
class Stage:
    """Tasks of one kind."""

    kind: str
    tasks: int
    seconds: float  # of one worker
    gpu_seconds: float  # of whole GPUs, where the cluster has any
    megabytes: float  # of artifacts


def render(planned: Sequence[Stage], todo: Sequence[Stage]) -> str:
    """Table of what a plan holds and what of it is to do, with a line of sums.

    Time is in hours, or in minutes where all there is to do takes less than two hours.
    """
    left = {stage.kind: stage for stage in todo}
    hour = sum(stage.seconds for stage in todo) >= 2 * 3600
    unit, each = ("hours", 3600) if hour else ("minutes", 60)
    head = ("task", "all", "to do", "done or not needed", unit, f"GPU-{unit}", "GB")
    rows: list[tuple[float, ...]] = []
    for stage in planned:
        some = left.get(stage.kind, Stage(stage.kind, 0, 0.0, 0.0, 0.0))
        amounts = (some.seconds / each, some.gpu_seconds / each, some.megabytes / 1000)
        rows.append((stage.tasks, some.tasks, *amounts))
    names = [*(stage.kind for stage in planned), "together"]
    rows.append(tuple(map(sum, zip(*rows, strict=True))) if rows else (0.0,) * 5)
    text = "{:<12}{:>8}{:>8}{:>20}{:>10}{:>13}{:>9}"  # eighty columns
    lines = [text.format(*head)]
    for name, (count, open_, *rest) in zip(names, rows, strict=True):
        counts = (f"{n:.0f}" for n in (count, open_, count - open_))
        lines.append(text.format(name, *counts, *(f"{amount:.1f}" for amount in rest)))
    return "\n".join(lines)


class Estimator:
    """Estimates of a sweep's tasks.

    Parameters
    ----------
    table : costs by plug-in; what its seconds are meant for is kept as ``hardware``
    sweep, categories : what tasks refer to by index
    values : parameters of its methods and generators, as ``parameters`` gives them

    Raises
    ------
    InputError
        A term of the table names what is neither a unit nor a numeric parameter of the plug-in.
    """

    def __init__(
        self,
        table: Table,
        sweep: Sweep,
        categories: Sequence[Category],
        values: tuple[Sequence[Values], Mapping[str, Values]],
    ) -> None:
        self.hardware = table.hardware
        self._sizes = [
            Sizes(
                tuple(s.stop - s.start for s in shards(len(c.queries), sweep.shard)),
                c.masked and sweep.maps,
            )
            for c in categories
        ]
        methods, generators = values
        self._costs: dict[tuple[Role, int | str] | None, _Costs] = {
            ("method", i): _Costs(table, "method", m.use, v)
            for i, (m, v) in enumerate(zip(sweep.methods, methods, strict=True))
        }
        for name, g in sweep.generators.items():
            self._costs["generator", name] = _Costs(table, "generator", g.use, generators[name])
        self._costs[None] = _Costs(table, "method", "", {})  # of tasks that run no plug-in

    def seconds(self, task: Task) -> float:
        """Seconds that a worker takes, roughly."""
        return self._costs[task.plugin].seconds(task.kind)(self._units(task))

    def megabytes(self, task: Task) -> float:
        """Size of the artifact, roughly."""
        return self._costs[task.plugin].megabytes(task.kind)(self._units(task))

    def stages(self, graph: Plan, keys: Collection[str]) -> list[Stage]:
        """Estimates by kind, in the order of the graph, of the tasks with these keys.

        A GPU worker holds the largest share that any task of the plan asks for.
        """
        share = min(1.0, max((t.gpus for t in graph.tasks.values()), default=0.0))
        sums = {kind: [0.0, 0.0, 0.0, 0.0] for kind in KINDS}
        for key in keys:
            task = graph.tasks[key]
            seconds, row = self.seconds(task), sums[task.kind]
            row[0] += 1
            row[1] += seconds
            row[2] += seconds * share if task.gpus else 0.0
            row[3] += self.megabytes(task)
        return [Stage(k, int(n), *rest) for k, (n, *rest) in sums.items() if n]

    def _units(self, task: Task) -> dict[str, float]:
        return {"task": 1.0, **task.amounts(self._sizes)._asdict()}


def estimator(sweep: Sweep, categories: Sequence[Category], path: Path = TABLE) -> Estimator:
    """Estimates of a sweep's tasks by a table of costs; raises what reading that does."""
    return Estimator(read(path), sweep, categories, parameters(sweep))


def forgiving(
    sweep: Sweep,
    categories: Sequence[Category],
    todo: Iterable[Task],
    tell: Callable[[str], None],
    path: Path = TABLE,
) -> Estimator:
    """Estimates as ``estimator`` has them, by default costs where the table has a mistake.

    Parameters
    ----------
    sweep, categories, path : as ``estimator`` takes them
    todo : the tasks that will be asked for: mistakes are looked for in what these need
    tell : takes a line that says what is wrong
    """
    try:
        costs = estimator(sweep, categories, path)
        for task in {(task.plugin, task.kind): task for task in todo}.values():
            costs.seconds(task)
    except InputError as error:
        first, *more = error.problems
        others = f" and {len(more)} more" if more else ""
        tell(f"{first}{others}; the time left is estimated by default costs")
        table = Table(hardware="nothing known", default=Default())
        return Estimator(table, sweep, categories, parameters(sweep))
    return costs


Formula = Callable[[Mapping[str, float]], float]


class _Costs:
    """Formulas of one plug-in."""

    def __init__(self, table: Table, role: Role, use: str, values: Values) -> None:
        name = plain(use) if use else ""
        fits = (
            e
            for e in table.plugins
            if (e.kind, e.use) == (role, name) and e.when.items() <= dict(values).items()
        )
        entry = next(fits, None)
        self._use = use
        self._values = {k: v for k, v in values.items() if isinstance(v, (int, float))}
        if entry is not None:
            missing = {k: v for k, v in entry.assume.items() if k not in self._values}
            self._values |= missing
        self._own = entry
        self._default = table.default
        self.seconds: Callable[[str], Formula] = cache(lambda kind: self._formula("seconds", kind))
        self.megabytes: Callable[[str], Formula] = cache(
            lambda kind: self._formula("megabytes", kind)
        )

    def _formula(self, what: str, kind: str) -> Formula:
        rough: dict[str, Terms] = {"seconds": {"task": KINDS[kind].seconds}}
        terms: Terms = getattr(self._default, what).get(kind, rough.get(what, {}))
        if self._own is not None:
            terms = getattr(self._own, what).get(kind, terms)
        parts: list[tuple[float, list[str]]] = []
        for product, each in terms.items():
            units = []
            for name in (n.strip() for n in product.split("*")):
                if name in UNITS:
                    units.append(name)
                elif name in self._values:
                    each *= float(self._values[name])
                else:
                    known = suggest(name, [*UNITS, *self._values])
                    where = f"costs of {self._use or 'tasks'}: {what}.{kind}"
                    message = f"{name!r} is neither a unit nor a numeric parameter.{known}"
                    raise InputError(Problem(where, message))
            parts.append((each, units))

        def formula(amounts: Mapping[str, float]) -> float:
            total = 0.0
            for amount, units in parts:
                for unit in units:
                    amount *= amounts[unit]
                total += amount
            return total

        return formula

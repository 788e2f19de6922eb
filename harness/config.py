"""YAML to a checked, frozen Sweep. Every mistake is reported, at once, with its file and key."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Hashable
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
import yaml
from pydantic import BaseModel, ConfigDict, Field

from harness import plugins
from harness.errors import InputError, Problem, one_line, suggest
from harness.parameters import describe, parameters

#: A plain file name: it becomes a folder or file below the storage folder and must stay there.
PLAIN = r"[A-Za-z0-9][A-Za-z0-9._+=-]{0,99}"
RESERVED = ("mlflow.db", "mlartifacts")  # other things in the storage folder
Name = Annotated[str, Field(pattern=rf"^{PLAIN}$")]
Count = Annotated[int, Field(ge=0, le=1_000_000, strict=True)]
Params = dict[str, Any]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Subset(_Frozen):
    """How many queries of each kind; anomalous ones are drawn evenly over the kinds of defect."""

    normal: Count
    anomalous: Count
    seed: Count = 0


class DatasetEntry(_Frozen):
    """A dataset of the sweep."""

    use: str
    params: Params = {}
    categories: list[str] | None = None  # None: all
    queries: Subset | list[str] | None = None  # None: the whole test split; or names of images
    support: str | None = None  # file with somebody else's references, beside the config
    object_names: dict[str, str] = {}  # category -> words for prompts
    label: Name | None = None


class MethodEntry(_Frozen):
    """A method of the sweep."""

    use: str
    params: Params = {}
    grid: dict[str, list[Any]] = {}  # parameter -> values: one method per combination
    generator: str | None = None
    label: Name | None = None
    shots: list[Count] | None = None  # instead of the sweep's
    auxiliary: Literal["leave-one-out"] | None = None  # other categories of the tested dataset
    #: of a method that trains on auxiliary data: anew for each seed, so that its spread over seeds
    #: is of training and of supports; or once for all of them, which leaves that of supports
    training: Literal["per-seed", "once"] = "per-seed"


class GeneratorEntry(_Frozen):
    """A generator that methods may name."""

    use: str
    params: Params = {}
    pool: Count = 30  # anomaly-free images in all, support included
    generated: Count | None = None  # instead of ``pool``: images added to the support

    def added(self, shots: int) -> int:
        """How many images it adds to a support of so many."""
        return max(0, self.pool - shots) if self.generated is None else self.generated


class Sweep(_Frozen):
    """One YAML file: the whole grid."""

    name: Name
    description: str = ""
    datasets: Annotated[list[DatasetEntry], Field(min_length=1)]
    methods: Annotated[list[MethodEntry], Field(min_length=1)]
    generators: dict[str, GeneratorEntry] = {}
    shots: Annotated[list[Count], Field(min_length=1)]
    seeds: Annotated[list[Count], Field(min_length=1)]
    auxiliary: list[DatasetEntry] = []  # in order of preference; the tested one is passed over
    seed: Count = 0  # of the whole sweep: mixed into every draw
    maps: bool = True  # False: image scores only
    evaluation_size: Annotated[int, Field(ge=16, le=4096, strict=True)] = 256  # of pixel metrics
    shard: Annotated[int, Field(ge=1, strict=True)] = 100  # most queries in one task
    threads: Annotated[int, Field(ge=1, le=256, strict=True)] = 1  # per worker
    time_limit: Annotated[float, Field(gt=0)] = 3600.0  # seconds, of one task
    attempts: Annotated[int, Field(ge=1, le=10, strict=True)] = 2  # of a task whose worker died
    gallery: Count = 4  # most and least anomalous queries of a cell kept as pictures

    def digest(self) -> str:
        """Hash of all that decides results; neither description nor limits on effort count."""
        idle = {"description", "time_limit", "attempts"}
        body = self.model_dump(mode="json", exclude=idle)
        return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def load(path: Path, overrides: list[str] | None = None) -> Sweep:
    """Read a sweep and check all that can be checked without the data.

    Parameters
    ----------
    path : YAML file
    overrides : "key=value" with a dotted key ("datasets.0.params.size=64") and a YAML value

    Raises
    ------
    InputError
        With every mistake found: file, key, what was expected.
    """
    raw = _read(path)
    for text in overrides or ():
        _override(raw, text)
    try:
        sweep = Sweep.model_validate(raw)
    except pydantic.ValidationError as error:
        raise InputError(*(_explain(path, e, raw) for e in error.errors())) from None
    problems = list(_check(sweep, path))
    if problems:
        raise InputError(*problems)
    return _expand_grids(sweep, path)


def only(conditions: list[str]) -> dict[str, set[str]]:
    """Conditions of ``--only`` as key -> accepted values.

    A condition is "method=padim", "shots=2,4" or several at once: "method=padim,shots=2,4,seed=0".
    """
    keys = ("method", "dataset", "category", "shots", "seed")
    accepted: dict[str, set[str]] = {}
    for text in conditions:
        key = ""
        for part in text.split(","):
            before, equals, value = part.partition("=")
            if equals and (before in keys or not key):  # a label may hold a "=" of its own
                key = before
            elif key:
                value = part
            if key not in keys:
                known = suggest(key or part, keys)
                raise InputError(Problem("--only", f"expected KEY=VALUE, got {part!r}.{known}"))
            accepted.setdefault(key, set()).add(value)
    return accepted


class _Loader(yaml.SafeLoader):
    """Refuses a key given twice, of which plain YAML silently keeps the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(
                    None, None, "expected a word as a key", key.start_mark
                )
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} stands here twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(Problem(str(path), "no such file")) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(Problem(str(path), f"cannot be read: {one_line(error)}")) from None
    try:
        raw = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        reason = getattr(error, "problem", None) or one_line(error)
        raise InputError(Problem(where, f"not valid YAML: {reason}")) from None
    if not isinstance(raw, dict):
        raise InputError(Problem(str(path), "expected a mapping with the keys name, datasets, ..."))
    return raw


def value_of(option: str, text: str) -> tuple[str, Any]:
    """Key and value of "key=value", the value being YAML; InputError blames the option."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise InputError(Problem(option, f"expected KEY=VALUE, got {text!r}"))
    try:
        return key, yaml.load(value, _Loader)
    except yaml.YAMLError as error:
        raise InputError(Problem(option, f"{text!r}: {one_line(error)}")) from None


def _override(raw: Any, text: str) -> None:
    key, value = value_of("--set", text)
    *steps, last = key.split(".")
    node = raw
    try:
        for step in steps:
            node = node[int(step)] if isinstance(node, list) else node.setdefault(step, {})
        if isinstance(node, list):
            node[int(last)] = value
        else:
            node[last] = value
    except (ValueError, IndexError, AttributeError, TypeError):
        raise InputError(Problem("--set", f"{text!r}: the config has no such place")) from None


def _explain(path: Path, error: Any, raw: dict[str, Any]) -> Problem:
    """One mistake found by pydantic, in the config's own terms."""
    steps = [s for s in error["loc"] if s not in ("Subset", "list[str]")]
    where = f"{path}: {_dotted(steps)}"
    if error["type"] == "extra_forbidden":
        models: dict[str, type[_Frozen]] = {
            "datasets": DatasetEntry,
            "auxiliary": DatasetEntry,
            "methods": MethodEntry,
            "generators": GeneratorEntry,
        }
        model = models.get(str(steps[0]), Sweep) if len(steps) > 1 else Sweep
        if "queries" in steps:
            model = Subset
        return Problem(where, f"unknown key.{suggest(str(steps[-1]), model.model_fields)}")
    if error["type"] == "missing":
        return Problem(where, "this key is needed and missing")
    try:
        given = json.dumps(error["input"], default=str)
    except ValueError:  # an anchor within itself
        given = repr(error["input"])
    shown = given if len(given) < 80 else given[:77] + "..."
    if error["type"] == "string_pattern_mismatch":
        expected = "a plain name: letters, digits and . _ + = -, starting with a letter or digit"
        return Problem(where, f"expected {expected}. Got {shown}")
    message = error["msg"].replace("Input should be", "expected")
    message = re.sub(r"a valid dictionary( or instance of \w+)?", "keys and values", message)
    return Problem(where, f"{message}. Got {shown}")


def _dotted(steps: list[Any]) -> str:
    text = "".join(f"[{s}]" if isinstance(s, int) else f".{s}" for s in steps)
    return text.lstrip(".")


def _check(sweep: Sweep, path: Path) -> list[Problem]:
    problems: list[Problem] = []
    if sweep.name in RESERVED:
        problems.append(Problem(f"{path}: name", f"{sweep.name!r} is taken by the tracking server"))
    for key in ("shots", "seeds"):
        values = getattr(sweep, key)
        if len(set(values)) < len(values):
            problems.append(Problem(f"{path}: {key}", f"a value stands here twice: {values}"))
    for i, d in enumerate([*sweep.datasets, *sweep.auxiliary]):
        n = len(sweep.datasets)
        where = f"{path}: datasets[{i}]" if i < n else f"{path}: auxiliary[{i - n}]"
        problems += check_plugin("dataset", d.use, d.params, where)
    for name, g in sweep.generators.items():
        problems += check_plugin("generator", g.use, g.params, f"{path}: generators.{name}")
    for i, m in enumerate(sweep.methods):
        problems += _check_method(sweep, m, f"{path}: methods[{i}]")
    return problems


def _check_method(sweep: Sweep, m: MethodEntry, where: str) -> list[Problem]:
    first = {k: v[0] for k, v in m.grid.items() if v}
    problems = check_plugin("method", m.use, {**m.params, **first}, where)
    for key, values in m.grid.items():
        if not values:
            problems.append(Problem(f"{where}.grid.{key}", "expected a list of values, got none"))
        for value in values[1:]:
            problems += check_plugin("method", m.use, {**m.params, **first, key: value}, where)
    if problems:
        return problems
    made = build("method", m.use, {**m.params, **first})
    if m.generator is not None and m.generator not in sweep.generators:
        known = suggest(m.generator, sweep.generators)
        problems.append(Problem(f"{where}.generator", f"no generator {m.generator!r}.{known}"))
    if m.generator is None and (made.generator or made.personalized):
        problems.append(Problem(f"{where}.generator", f"{m.use} needs a generator; name one"))
    if made.auxiliary and not sweep.auxiliary and m.auxiliary is None:
        message = f"{m.use} trains on an auxiliary dataset; the sweep names none"
        problems.append(Problem(f"{where}: auxiliary", message))
    for k in m.shots if m.shots is not None else sweep.shots:
        if k not in made.shots:
            few, most = made.shots[0], made.shots[-1]
            span = f"{few} or more" if most >= 100_000 else f"{few} to {most}"
            message = f"{m.use} takes {span} shots, got {k}; a method may have its own 'shots:'"
            problems.append(Problem(f"{where}.shots", message))
    return problems


def check_plugin(kind: str, use: str, params: Params, where: str) -> list[Problem]:
    """Mistakes in a plug-in's name and parameters; datasets are built later, with their root."""
    try:
        cls = plugins.find(kind, use, f"{where}.use")
        known = parameters(cls, f"{where}.use")
    except InputError as error:
        return list(error.problems)
    problems, values = [], {}
    for key, value in params.items():
        at = f"{where}.params.{key}"
        if key not in known:
            problems.append(Problem(at, f"{use} has no such parameter.{suggest(key, known)}"))
            continue
        try:
            values[key] = known[key].read(value)
        except ValueError as error:
            problems.append(Problem(at, str(error)))
    filled = {"root"} if kind == "dataset" else set()
    for key, parameter in known.items():
        if parameter.needed and key not in params and key not in filled:
            message = f"{use} needs it: {describe(parameter.annotation)}"
            problems.append(Problem(f"{where}.params.{key}", message))
    refused = known.keys() & params.keys() - values.keys()
    if kind != "dataset" and all(p.name in values for p in known.values() if p.needed):
        try:
            cls(**values)
        except (Exception, SystemExit) as error:  # what the plug-in says is the message
            message = one_line(error)
            if not any(re.search(rf"\b{re.escape(key)}\b", message) for key in refused):
                problems.append(Problem(f"{where}.params", message))
    return problems


def build(kind: str, use: str, params: Params) -> Any:
    """Make a plug-in, its values converted to the annotated types (1e-3 is a string in YAML).

    Raises
    ------
    ValueError
        A parameter's value is not what its annotation asks for.
    """
    cls = plugins.find(kind, use)
    known = parameters(cls)
    values = {}
    for key, value in params.items():
        try:
            values[key] = known[key].read(value) if key in known else value
        except ValueError as error:
            raise ValueError(f"{plain(use)}: {key}: {error}") from None
    return cls(**values)


def _expand_grids(sweep: Sweep, path: Path) -> Sweep:
    """One method per combination of its grid; every method with a label of its own."""
    methods = []
    for m in sweep.methods:
        label = m.label or plain(m.use) + (f"+{plain(m.generator)}" if m.generator else "")
        for values in itertools.product(*m.grid.values()):
            point = dict(zip(m.grid, values, strict=True))
            tail = "".join(f"-{k}={plain(str(v))[:30]}" for k, v in point.items())
            new = {"params": {**m.params, **point}, "grid": {}, "label": (label + tail)[:100]}
            methods.append(m.model_copy(update=new))
    datasets = [d.model_copy(update={"label": d.label or plain(d.use)}) for d in sweep.datasets]
    problems = []
    for kind, labels in (
        ("methods", [str(m.label) for m in methods]),
        ("datasets", [str(d.label) for d in datasets]),
    ):
        for label in sorted({x for x in labels if labels.count(x) > 1}):
            message = f"two of them are called {label!r}: give one a 'label:'"
            problems.append(Problem(f"{path}: {kind}", message))
    if problems:
        raise InputError(*problems)
    return sweep.model_copy(update={"methods": methods, "datasets": datasets})


def plain(text: str) -> str:
    """A plain name that recalls the text: "my_pkg.mod:Mine" -> "Mine", "../a/mine.py" -> "mine"."""
    last = re.sub(r"\.py$", "", text.rpartition(":")[2].rpartition("/")[2])
    return re.sub(r"[^A-Za-z0-9._+=-]+", "-", last).strip("-.") or "unnamed"

"""YAML to a checked, frozen Sweep. Every mistake is reported, at once, with its file and key."""

from __future__ import annotations

import contextlib
import itertools
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydantic

from harness import plugins
from harness.config.parameters import describe, parameters, shown
from harness.config.sweep import (
    DatasetEntry,
    Frozen,
    GeneratorEntry,
    MethodEntry,
    Params,
    Subset,
    Sweep,
    labelled,
    method_label,
    plain,
)
from harness.config.yaml_file import read_file, read_text
from harness.errors import InputError, Problem, one_line, suggest

FEW, MANY = 3, 40  # mistakes of one kind, and mistakes in all, that are told
RESERVED = ("mlflow.db", "mlartifacts")  # other things in the storage folder
#: most methods that the grids of one sweep may expand to
MOST_METHODS = 1000


@dataclass(frozen=True)
class Draft:
    """A config as far as it could be read: what is right in it, and all that is not.

    ``sweep`` holds the right entries alone; the others have their defaults. The numbers of
    ``datasets``, ``methods`` and ``auxiliary`` say where in the file their entries stand.
    """

    sweep: Sweep
    datasets: tuple[int, ...]
    methods: tuple[int, ...]
    auxiliary: tuple[int, ...]
    problems: tuple[Problem, ...]


def load(path: Path, overrides: Sequence[str] = ()) -> Sweep:
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
    draft = read(path, overrides)
    if draft.problems:
        raise InputError(*brief(draft.problems))
    return draft.sweep


def read(path: Path, overrides: Sequence[str] = ()) -> Draft:
    """What is right and what is wrong in a sweep's file; InputError where it is no YAML at all."""
    raw = read_file(path)
    if not isinstance(raw, dict):
        raise InputError(Problem(str(path), "expected a mapping with the keys name, datasets, ..."))
    problems: list[Problem] = []
    for text in overrides:
        try:
            _override(raw, text)
        except InputError as error:
            problems += error.problems
    broken: set[str] = set()
    try:
        Sweep.model_validate(raw)
    except pydantic.ValidationError as error:
        mistakes = [e for e in error.errors() if not _other_branch(e, raw)]
        problems += [_explain(path, e) for e in mistakes]
        broken = {str(e["loc"][0]) for e in mistakes if e["loc"]}
    right = {k: v for k, v in raw.items() if k in Sweep.model_fields and k not in broken}
    entries: dict[str, dict[int, Any]] = {
        key: dict(_entries(model, raw.get(key)))
        for key, model in (("datasets", DatasetEntry), ("methods", MethodEntry))
    }
    entries["auxiliary"] = dict(_entries(DatasetEntry, raw.get("auxiliary")))
    named = raw.get("generators")
    generators = {
        str(name): entry
        for name, value in (named.items() if isinstance(named, dict) else ())
        for _, entry in _entries(GeneratorEntry, [value])
    }
    defaults: dict[str, Any] = {"name": "draft", "shots": [1], "seeds": [0]}
    lists = {key: list(valid.values()) for key, valid in entries.items()}
    draft = Sweep.model_construct(**defaults | right | lists | {"generators": generators})
    # A generator that is wrong in itself is there all the same.
    names = [str(name) for name in named] if isinstance(named, dict) else []
    bad, more = _check(draft, entries, names, path)
    problems += more
    whole = draft.model_copy(
        update={key: [e for i, e in entries[key].items() if (key, i) not in bad] for key in lists}
        | {"generators": {k: g for k, g in generators.items() if ("generators", k) not in bad}}
    )
    numbers = {k: tuple(i for i in valid if (k, i) not in bad) for k, valid in entries.items()}
    if not problems:
        sweep, problems = _expand_grids(Sweep.model_validate(raw), path)
    if problems:
        return Draft(labelled(whole), **numbers, problems=tuple(problems))
    return Draft(sweep, **numbers, problems=())


def brief(problems: Iterable[Problem]) -> list[Problem]:
    """Problems as people read them: of those that are alike a few, and how many more there are."""
    alike: dict[tuple[str, str], list[Problem]] = {}
    for problem in problems:
        where = re.sub(r"\d+", "", problem.where)
        words = re.sub(r"\d+", "", problem.message.partition(" Got ")[0])
        alike.setdefault((where, words), []).append(problem)
    out = []
    for same in alike.values():
        out += same[:FEW]
        if len(same) > FEW:
            out.append(Problem(same[-1].where, f"the same {len(same) - FEW} times more"))
    if len(out) > MANY:
        out = [*out[:MANY], Problem("", f"and {len(out) - MANY} more mistakes")]
    return out


def _entries(model: type[Frozen], listed: Any) -> Iterator[tuple[int, Any]]:
    """Number and entry of those in a list that are right in themselves."""
    for i, value in enumerate(listed if isinstance(listed, list) else ()):
        with contextlib.suppress(pydantic.ValidationError):
            yield i, model.model_validate(value)


def _other_branch(error: Any, raw: Any) -> bool:
    """Whether a mistake is one only for the kind of ``queries`` that was not meant."""
    steps = list(error["loc"])
    if "queries" not in steps or steps[-1] == "queries":
        return False
    at = steps.index("queries")
    for step in steps[: at + 1]:
        raw = raw[step]
    listed = str(steps[at + 1]).startswith("list[")
    return listed is not isinstance(raw, list) and isinstance(raw, list | dict)


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
                raise InputError(
                    Problem("--only", f"expected KEY=VALUE, got {shown(part)}.{known}")
                )
            accepted.setdefault(key, set()).add(value)
    return accepted


def value_of(option: str, text: str) -> tuple[str, Any]:
    """Key and value of "key=value", the value being YAML; InputError blames the option."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise InputError(Problem(option, f"expected KEY=VALUE, got {shown(text)}"))
    return key, read_text(value, f"{option} {shown(key)}")


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


def _explain(path: Path, error: Any) -> Problem:
    """One mistake found by pydantic, in the config's own terms."""
    steps = list(error["loc"])
    if "queries" in steps[:-1]:  # what follows is the kind of them that pydantic tried
        del steps[steps.index("queries") + 1]
    where = f"{path}: {_dotted(steps)}"
    if error["type"] == "extra_forbidden":
        models: dict[str, type[Frozen]] = {
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
    got = shown(error["input"])
    if error["type"] == "string_pattern_mismatch":
        expected = "a plain name: letters, digits and . _ + = -, starting with a letter or digit"
        return Problem(where, f"expected {expected}. Got {got}")
    message = error["msg"].replace("Input should be", "expected")
    message = re.sub(r"a valid dictionary( or instance of \w+)?", "keys and values", message)
    if error["type"] == "value_error":
        message = str(error["ctx"]["error"])
    return Problem(where, f"{message}. Got {got}")


def _dotted(steps: list[Any]) -> str:
    text = "".join(f"[{s}]" if isinstance(s, int) else f".{s}" for s in steps)
    return text.lstrip(".")


def _check(
    sweep: Sweep, entries: Mapping[str, Mapping[int, Any]], named: Iterable[str], path: Path
) -> tuple[set[tuple[str, int | str]], list[Problem]]:
    """Which entries are wrong, and every mistake that the data need not be asked for."""
    problems: list[Problem] = []
    bad: set[tuple[str, int | str]] = set()
    if sweep.name in RESERVED:
        problems.append(Problem(f"{path}: name", f"{sweep.name!r} is taken by the tracking server"))
    for key in ("shots", "seeds"):
        problems += _twice(getattr(sweep, key), f"{path}: {key}")

    def judge(key: str, i: int | str, mistakes: list[Problem]) -> None:
        problems.extend(mistakes)
        if mistakes:
            bad.add((key, i))

    for key in ("datasets", "auxiliary"):
        for i, d in entries[key].items():
            where = f"{path}: {key}[{i}]"
            judge(key, i, check_plugin("dataset", d.use, d.params, where))
            if key == "auxiliary":
                idle = [n for n in ("queries", "support", "label") if getattr(d, n) is not None]
                problems += [Problem(f"{where}.{n}", "is of no use here") for n in idle]
    for name, g in sweep.generators.items():
        where = f"{path}: generators.{name}"
        judge("generators", name, check_plugin("generator", g.use, g.params, where))
    for i, m in entries["methods"].items():
        judge("methods", i, _check_method(sweep, m, list(named), f"{path}: methods[{i}]"))
    return bad, problems


def _twice(values: list[int], where: str) -> list[Problem]:
    repeated = sorted(value for value, n in Counter(values).items() if n > 1)
    return [Problem(where, f"a value stands here twice: {shown(repeated)}")] if repeated else []


def _check_method(sweep: Sweep, m: MethodEntry, named: list[str], where: str) -> list[Problem]:
    problems = []
    if m.generator is not None and m.generator not in named:
        known = suggest(m.generator, named)
        problems.append(Problem(f"{where}.generator", f"no generator {m.generator!r}.{known}"))
    problems += _twice(m.shots or [], f"{where}.shots")
    first = {k: v[0] for k, v in m.grid.items() if v}
    mistakes = check_plugin("method", m.use, {**m.params, **first}, where)
    for key, values in m.grid.items():
        if not values:
            mistakes.append(Problem(f"{where}.grid.{key}", "expected a list of values, got none"))
        if key in m.params:
            mistakes.append(Problem(f"{where}.grid.{key}", "stands among params, too"))
        for value in values[1:]:
            mistakes += check_plugin("method", m.use, {**m.params, **first, key: value}, where)
    combinations = math.prod(len(values) for values in m.grid.values())
    if combinations > MOST_METHODS:
        message = f"expected at most {MOST_METHODS} combinations. Got {combinations}"
        mistakes.append(Problem(f"{where}.grid", message))
    if mistakes:
        return problems + mistakes
    method = build("method", m.use, {**m.params, **first})
    if m.generator is None and (method.generator or method.personalized):
        problems.append(Problem(f"{where}.generator", f"{m.use} needs a generator; name one"))
    if method.auxiliary and not sweep.auxiliary and m.auxiliary is None:
        message = f"{m.use} trains on an auxiliary dataset; the sweep names none"
        problems.append(Problem(f"{where}: auxiliary", message))
    refused = [
        k for k in (m.shots if m.shots is not None else sweep.shots) if k not in method.shots
    ]
    if refused:
        few, most = method.shots[0], method.shots[-1]
        span = f"{few} or more" if most >= 100_000 else f"{few} to {most}"
        got = ", ".join(map(str, refused[:5])) + (", ..." if len(refused) > 5 else "")
        message = f"{m.use} takes {span} shots, got {got}; a method may have its own 'shots:'"
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


def _expand_grids(sweep: Sweep, path: Path) -> tuple[Sweep, list[Problem]]:
    """One method per combination of its grid; every method with a label of its own."""
    methods = []
    for m in sweep.methods:
        label = method_label(m)
        for values in itertools.product(*m.grid.values()):
            point = dict(zip(m.grid, values, strict=True))
            tail = "".join(f"-{k}={plain(str(v))[:30]}" for k, v in point.items())
            new = {"params": {**m.params, **point}, "grid": {}, "label": (label + tail)[:100]}
            methods.append(m.model_copy(update=new))
    problems = []
    whole = labelled(sweep.model_copy(update={"methods": methods}))
    if len(methods) > MOST_METHODS:
        message = f"expected at most {MOST_METHODS} methods. Got {len(methods)}"
        problems.append(Problem(f"{path}: methods", message))
    for kind, labels in (
        ("methods", [str(m.label) for m in whole.methods]),
        ("datasets", [str(d.label) for d in whole.datasets]),
    ):
        for label in sorted(x for x, n in Counter(labels).items() if n > 1):
            message = f"two of them are called {label!r}: give one a 'label:'"
            problems.append(Problem(f"{path}: {kind}", message))
    return whole, problems

"""Values of plug-ins' parameters, checked by the signature of ``__init__`` and told from it.

An annotation says all there is to say of one parameter: ``Annotated[int, Field(ge=1)]``,
``Literal["full", "lora"]``, ``Sequence[int] | None``. What concerns several parameters at once (a
crop within the size) stays in ``__init__``. Infinite and undefined numbers are refused everywhere
but where a field says ``allow_inf_nan=True``; a truth value is no number.
"""

from __future__ import annotations

import inspect
import json
import math
import re
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from pydantic.fields import FieldInfo

from harness.errors import InputError, Problem, one_line, printable, secretive, suggest

WIDTH = 92  # columns of descriptions, where there is room
_CONFIG = pydantic.ConfigDict(allow_inf_nan=False)
_BOUNDS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
_PLAIN: dict[Any, str] = {
    int: "an integer",
    float: "a number",
    bool: "true or false",
    str: "a text",
    Path: "a path",
    types.NoneType: "null",
    Any: "anything",
}
#: a docstring's first line of a parameter that names a type and says nothing
_TYPE_WORDS = re.compile(
    r"(an? )?(int|float|bool|str|text|number|mapping|dict|list|sequence|path)( of \w+)?"
    r"( or \w+)*(, optional)?$"
)


@dataclass(frozen=True)
class Parameter:
    """One keyword of a plug-in's ``__init__``."""

    name: str
    annotation: Any  # Any where it names what cannot be imported
    default: Any  # ``inspect.Parameter.empty`` where there is none
    adapter: pydantic.TypeAdapter[Any] | None  # None: nothing that values can be checked by

    @property
    def needed(self) -> bool:
        """Whether it has no default."""
        return self.default is inspect.Parameter.empty

    def read(self, value: Any) -> Any:
        """The value, converted to the annotated type ("1e-3" is a text in YAML).

        Raises
        ------
        ValueError
            One line: what was expected, what arrived.
        """
        if secretive(self.name, value):
            raise ValueError(
                "a secret has no place in a sweep, which is written beside its results; have the "
                "plug-in read it from a variable of the environment"
            )
        if self.adapter is None:
            if not _finite(value):
                raise ValueError(f"expected finite numbers. Got {shown(value)}")
            return value
        expected = describe(self.annotation)
        try:
            valid = self.adapter.validate_python(value)
        except pydantic.ValidationError as error:
            raise ValueError(_explained(error, expected, self.annotation, value)) from None
        except (OverflowError, RecursionError) as error:
            raise ValueError(f"expected {expected}. Got {one_line(error)}") from None
        if not _same_truths(value, valid):
            raise ValueError(f"expected {expected}. Got {shown(value)}")
        if not _allows_infinite(self.annotation) and not _finite(valid):
            raise ValueError(f"expected finite numbers. Got {shown(value)}")
        return valid


def parameters(cls: type, where: str = "") -> dict[str, Parameter]:
    """Parameters of a plug-in by name, in the order of its signature.

    Raises
    ------
    InputError
        ``__init__`` takes ``*args`` or ``**kwargs``.
    """
    try:
        return _parameters(cls)
    except TypeError as error:
        raise InputError(Problem(where, str(error))) from None


@cache
def _parameters(cls: type) -> dict[str, Parameter]:
    init = cls.__init__  # type: ignore[misc]
    if init is object.__init__:
        return {}
    signature = list(inspect.signature(init).parameters.values())[1:]
    for p in signature:
        if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
            raise TypeError(
                f"{cls.__name__}.__init__ takes {p}: every parameter must be a named keyword"
            )
    hints = _hints(init)
    out = {}
    for p in signature:
        annotation = hints.get(p.name, Any)
        out[p.name] = Parameter(p.name, annotation, p.default, _adapter(annotation))
    return out


def _hints(init: Any) -> dict[str, Any]:
    """Annotations with their extras; without those that name what only type checkers import."""
    try:
        return typing.get_type_hints(init, include_extras=True)
    except Exception:  # evaluating an annotation may raise anything: each on its own, then
        pass
    names = getattr(inspect.unwrap(init), "__globals__", {})
    hints: dict[str, Any] = {}
    for name, text in getattr(init, "__annotations__", {}).items():
        one = types.SimpleNamespace(__annotations__={name: text})
        try:
            hints |= typing.get_type_hints(one, names, include_extras=True)
        except Exception:
            continue
    return hints


def _adapter(annotation: Any) -> pydantic.TypeAdapter[Any] | None:
    if annotation is Any:
        return None
    try:
        return pydantic.TypeAdapter(annotation, config=_CONFIG)
    except pydantic.PydanticUserError as error:
        if error.code != "type-adapter-config-unused":  # a model brings its own configuration
            return None
    except NameError:
        return None
    try:
        return pydantic.TypeAdapter(annotation)
    except (pydantic.PydanticUserError, NameError):
        return None


def describe(annotation: Any) -> str:
    """What values an annotation takes, in words: "an integer >= 1 or null"."""
    if annotation in (None, Any, types.NoneType) or annotation in _PLAIN:
        return _PLAIN[types.NoneType if annotation is None else annotation]
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        base, limits = describe(parts[0]), " and ".join(_constraints(parts[1:]))
        kind, comma, each = base.partition(", each ")
        return f"{kind} {limits}{comma}{each}" if limits else base
    if origin is Literal:
        return f"one of {', '.join(map(str, parts))}"
    if origin in (typing.Union, types.UnionType):
        return " or ".join(describe(part) for part in parts)
    kind = origin or annotation
    if inspect.isclass(kind) and issubclass(kind, Mapping):
        return "keys and values"
    if inspect.isclass(kind) and issubclass(kind, Sequence | Set):
        inner = [p for p in parts if p is not Ellipsis]
        if kind is tuple and parts and Ellipsis not in parts:
            return f"a list of {len(parts)}: {', '.join(describe(p) for p in parts)}"
        return f"a list, each {describe(inner[0])}" if inner else "a list"
    return str(getattr(annotation, "__name__", annotation))


def _constraints(extras: Sequence[Any]) -> Iterator[str]:
    for extra in extras:
        if isinstance(extra, FieldInfo):
            yield from _constraints(extra.metadata)
            continue
        for name, sign in _BOUNDS.items():
            if getattr(extra, name, None) is not None:
                yield f"{sign} {getattr(extra, name):g}"
        if getattr(extra, "multiple_of", None) is not None:
            yield f"divisible by {extra.multiple_of}"
        if getattr(extra, "min_length", None):
            yield f"of at least {extra.min_length}"
        if getattr(extra, "max_length", None) is not None:
            yield f"of at most {extra.max_length}"
        if getattr(extra, "pattern", None):
            yield f"like {extra.pattern}"
        if type(extra).__name__ == "Predicate":
            yield extra.func.__name__.strip("_").replace("_", " ")


def _explained(error: pydantic.ValidationError, expected: str, annotation: Any, value: Any) -> str:
    """One line for all that is wrong with one value."""
    own = [e for e in error.errors() if e["type"] in ("value_error", "assertion_error")]
    if own:  # a validator of the plug-in's has words of its own
        return one_line(own[0]["ctx"]["error"])
    if inspect.isclass(annotation) and annotation not in _PLAIN:  # a model: which part is wrong
        first = error.errors()[0]
        steps = ".".join(map(str, first["loc"]))
        message = first["msg"].replace("Input should be", "expected")
        return f"{steps}: {message}. Got {shown(first['input'])}".removeprefix(": ")
    words = [w for w in _literals(annotation) if isinstance(w, str)]
    hint = suggest(value, words).partition(" Available")[0] if isinstance(value, str) else ""
    return f"expected {expected}. Got {shown(value)}{'.' + hint if hint else ''}"


def _literals(annotation: Any) -> Iterator[Any]:
    for part in typing.get_args(annotation):
        if typing.get_origin(annotation) is Literal:
            yield part
        else:
            yield from _literals(part)


def _same_truths(raw: Any, valid: Any) -> bool:
    """Whether no truth value became a number: ``size: true`` is a mistake, not a size of 1."""
    if isinstance(raw, bool):
        return isinstance(valid, bool) or not isinstance(valid, int | float)
    if isinstance(raw, Mapping) and isinstance(valid, Mapping):
        return all(_same_truths(raw[k], valid[k]) for k in raw if k in valid)
    if isinstance(raw, list | tuple) and isinstance(valid, list | tuple):
        return all(map(_same_truths, raw, valid))
    return True


def _finite(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, Mapping):
        return all(map(_finite, value.values()))
    return not isinstance(value, list | tuple) or all(map(_finite, value))


def _allows_infinite(annotation: Any) -> bool:
    if isinstance(annotation, FieldInfo):
        return any(map(_allows_infinite, annotation.metadata))
    if getattr(annotation, "allow_inf_nan", None):
        return True
    parts = [*typing.get_args(annotation), *getattr(annotation, "__metadata__", ())]
    return typing.get_origin(annotation) is not Literal and any(map(_allows_infinite, parts))


def shown(value: Any, most: int = 80) -> str:
    """A value as part of a message: one line, and no longer than helps."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of 5,000 digits
        text = f"a {type(value).__name__} too large to show"
    text = printable(text)
    return text if len(text) <= most else f"{text[: most - 3]}..."


def _as_yaml(default: Any) -> str:
    """A default as one would write it in a sweep."""
    try:
        return json.dumps(default)
    except (TypeError, ValueError):
        return shown(default)


def meanings(cls: type) -> dict[str, str]:
    """What the docstring's section of parameters says of each, in one line."""
    lines = (inspect.getdoc(cls) or "").splitlines()
    rules = [i for i, line in enumerate(lines) if line == "-" * len("Parameters")]
    start = next((i for i in rules if lines[i - 1] == "Parameters"), None)
    if start is None:
        return {}
    out: dict[str, str] = {}
    names: list[str] = []
    for i in range(start + 1, len(lines)):
        line = lines[i]
        if i + 1 < len(lines) and line and set(lines[i + 1]) == {"-"}:
            break  # the next section
        if not line.strip():
            continue
        if not line.startswith(" "):
            left, _, right = line.partition(" : ")
            names = [name.strip() for name in left.split(",")]
            words = "" if _TYPE_WORDS.match(right.strip()) else right.strip()
            out |= dict.fromkeys(names, words)
        else:
            for name in names:
                out[name] = f"{out[name]} {line.strip()}".strip()
    return out


def render(use: str, cls: type, width: int = WIDTH) -> str:
    """Parameters of a plug-in as text: type and bounds, default, and in ``width`` its meaning."""
    known, words = parameters(cls), meanings(cls)
    docstring = (inspect.getdoc(cls) or "").splitlines()
    lines = [f"{use}: {docstring[0] if docstring else cls.__name__}", ""]
    for name, parameter in known.items():
        default = "needed" if parameter.needed else f"default {_as_yaml(parameter.default)}"
        lines.append(f"{name} ({default}): {describe(parameter.annotation)}")
        lines += textwrap.wrap(
            words.get(name, ""), min(width, WIDTH), initial_indent="    ", subsequent_indent="    "
        )
    if not known:
        lines.append("no parameters")
    return "\n".join(lines)

"""Values of parameters: what the signature asks for is checked, told, and kept by all plug-ins."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pytest
from annotated_types import Predicate
from pydantic import AfterValidator, Field

from harness import config, plugins
from harness.config.parameters import describe, meanings, parameters, render
from harness.errors import InputError

if TYPE_CHECKING:
    from nowhere import Unknown

BUILT_IN = [(kind, name) for kind in plugins.KINDS for name in plugins.names(kind)]
INF = float("inf")


def odd(value: int) -> bool:
    return value % 2 == 1


def upper(value: str) -> str:
    if value != value.upper():
        raise ValueError(f"shout: {value!r} is not in capitals")
    return value


class Typed:
    """Every kind of annotation.

    Parameters
    ----------
    whole, ratio : float
        Two numbers. Their text
        goes on.
    mode : "fast" or "slow"
    """

    def __init__(
        self,
        *,
        whole: Annotated[int, Field(ge=1, le=9)] = 1,
        ratio: Annotated[float, Field(gt=0)] = 0.5,
        free: float = 0.0,
        endless: Annotated[float, Field(allow_inf_nan=True)] = INF,
        mode: Literal["fast", "slow"] = "fast",
        side: Annotated[int, Field(ge=1), Predicate(odd)] = 3,
        levels: Annotated[Sequence[Annotated[int, Field(ge=1)]], Field(min_length=1)] = (1,),
        maybe: int | None = None,
        either: str | list[str] = "a",
        flag: bool = False,
        options: Mapping[str, Any] | None = None,
        loud: Annotated[str, AfterValidator(upper)] = "A",
        untyped=None,  # type: ignore[no-untyped-def]
        strange: Unknown = None,
    ) -> None:
        pass


KNOWN = parameters(Typed)

GOOD: list[tuple[str, Any, Any]] = [
    ("whole", 9, 9),
    ("whole", "3", 3),
    ("ratio", "1e-3", 1e-3),
    ("ratio", 1, 1.0),
    ("endless", INF, INF),
    ("mode", "slow", "slow"),
    ("side", 5, 5),
    ("levels", [1, 2], [1, 2]),
    ("maybe", None, None),
    ("either", ["a", "b"], ["a", "b"]),
    ("flag", True, True),
    ("options", {"a": {"b": 1}}, {"a": {"b": 1}}),
    ("loud", "B", "B"),
    ("untyped", [1, {"a": "b"}], [1, {"a": "b"}]),
    ("strange", 3, 3),
]
BAD: list[tuple[str, Any, str]] = [
    ("whole", 0, "expected an integer >= 1 and <= 9. Got 0"),
    ("whole", 10, "<= 9. Got 10"),
    ("whole", 1.5, "an integer"),
    ("whole", True, "expected an integer >= 1 and <= 9. Got True"),
    ("whole", None, "Got None"),
    ("whole", [1], "Got [1]"),
    ("ratio", 0, "expected a number > 0. Got 0"),
    ("ratio", INF, "expected a number > 0. Got inf"),
    ("ratio", math.nan, "Got nan"),
    ("ratio", "nan", "Got 'nan'"),
    ("ratio", False, "Got False"),
    ("free", INF, "expected a number. Got inf"),
    ("free", "1e999", "Got '1e999'"),
    ("free", 10**400, "expected a number. Got 1000"),
    ("endless", "much", "expected a number. Got 'much'"),
    ("mode", "fats", "expected one of fast, slow. Got 'fats'. Did you mean 'fast'?"),
    ("mode", 1, "expected one of fast, slow. Got 1"),
    ("side", 4, "expected an integer >= 1 and odd. Got 4"),
    ("levels", [], "expected a list of at least 1, each an integer >= 1. Got []"),
    ("levels", [1, 0], "each an integer >= 1"),
    ("levels", [1, True], "Got [1, True]"),
    ("levels", 1, "Got 1"),
    ("levels", "12", "Got '12'"),
    ("maybe", "x", "expected an integer or null. Got 'x'"),
    ("either", [1], "expected a text or a list, each a text. Got [1]"),
    ("flag", "perhaps", "expected true or false. Got 'perhaps'"),
    ("options", [], "expected keys and values or null. Got []"),
    ("options", {"a": [INF]}, "finite"),
    ("loud", "b", "shout: 'b' is not in capitals"),
    ("untyped", {"a": [1, -INF]}, "expected finite numbers"),
    ("strange", math.nan, "expected finite numbers"),
    ("maybe", "x" * 5000, "xxx..."),
    ("maybe", "a\nb\x1b[31m", "Got 'a\\nb\\x1b[31m'"),
]


@pytest.mark.parametrize(("name", "value", "expected"), GOOD)
def test_good_values_become_the_annotated_type(name: str, value: Any, expected: Any) -> None:
    valid = KNOWN[name].read(value)
    assert valid == expected
    assert type(valid) is type(expected)


@pytest.mark.parametrize(("name", "value", "words"), BAD)
def test_bad_values_are_refused_in_one_short_line(name: str, value: Any, words: str) -> None:
    with pytest.raises(ValueError, match=r"^.{1,250}$") as caught:
        KNOWN[name].read(value)
    assert words in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(("kind", "name"), BUILT_IN)
def test_built_in_plugins_say_all_of_their_parameters(kind: str, name: str) -> None:
    cls = plugins.find(kind, name)
    known, words = parameters(cls), meanings(cls)
    for key, parameter in known.items():
        if key == "root":
            continue
        assert parameter.adapter is not None, f"{key}: nothing to check it by"
        assert words.get(key), f"the docstring does not say what {key} means"
        if not parameter.needed:
            parameter.read(parameter.default)
    assert set(words) <= set(known), "the docstring speaks of others"
    text = render(name, cls)
    for key in known:
        assert f"\n{key} (" in text


#: bad values that were once let through to the run, and their like
REFUSED = [
    ("method", "winclip", "size", -3),
    ("method", "winclip", "windows", [0]),
    ("method", "padim", "ridge", math.nan),
    ("method", "padim", "levels", [1, -1]),
    ("method", "padim", "channel_seed", -1),
    ("method", "patchcore", "sigma", INF),
    ("method", "patchcore", "sigma", 1e9),
    ("method", "patchcore", "size", 0),
    ("method", "patchcore", "size", 10**9),
    ("method", "patchcore", "size", True),
    ("method", "patchcore", "coreset", "none"),
    ("method", "patchcore", "neighbourhood", 2),
    ("method", "regad", "momentum", 5),
    ("method", "regad", "learning_rate", -1),
    ("method", "regad", "sigma", -1),
    ("method", "coop", "learning_rate", 0),
    ("method", "coop", "epochs", -1),
    ("method", "coop", "size", 0),
    ("method", "inctrl", "batch", 5),
    ("method", "inctrl", "learning_rate", INF),
    ("method", "adp", "concepts", ["nromal"]),
    ("method", "o2n", "temperature", 0),
    ("method", "o2n", "search", 4),
    ("method", "mean_color", "grid", 0),
    ("method", "mean_color", "grid", 10**7),
    ("generator", "dreambooth", "prompts", 4),
    ("generator", "dreambooth", "guidance", INF),
    ("generator", "dreambooth", "augment", ["shear"]),
    ("generator", "textual_inversion", "word", "  "),
    ("generator", "textual_inversion", "strength", 0),
    ("dataset", "surfaces", "size", 7),
    ("dataset", "aitex", "split", "publishd"),
]


@pytest.mark.parametrize(("kind", "use", "key", "value"), REFUSED)
def test_bad_values_of_built_ins_are_refused_while_planning(
    kind: str, use: str, key: str, value: Any
) -> None:
    problems = config.check_plugin(kind, use, {key: value}, "here")
    assert [p.where for p in problems] == [f"here.params.{key}"]
    assert "expected" in problems[0].message
    params = {key: value} | ({"root": "."} if kind == "dataset" and use != "surfaces" else {})
    with pytest.raises(ValueError, match=f"{key}: expected"):
        config.build(kind, use, params)


def test_all_mistakes_of_one_plugin_come_at_once() -> None:
    params = {"size": 0, "sigma": math.inf, "scorng": "mean", "encoder": {"model": "micro", "x": 1}}
    problems = config.check_plugin("method", "patchcore", params, "here")
    assert {p.where for p in problems} == {f"here.params.{key}" for key in params}
    both = config.check_plugin("method", "patchcore", {"crop": 300, "sigma": -1}, "here")
    assert [p.where for p in both] == ["here.params.sigma", "here.params"]
    assert "crop" in both[1].message


def test_a_needed_parameter_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Needy:
        def __init__(self, *, size: Annotated[int, Field(ge=1)], other: int = 1) -> None:
            pass

    monkeypatch.setattr(plugins, "find", lambda *_: Needy)
    problems = config.check_plugin("method", "needy", {"othr": 1}, "here")
    assert [str(p).partition(".")[0] for p in problems] == ["here", "here"]
    assert "here.params.size: needy needs it: an integer >= 1" in map(str, problems)


def test_parameters_must_be_named() -> None:
    class Sink:
        def __init__(self, **options: int) -> None:
            pass

    with pytest.raises(InputError, match=r"here: Sink.__init__ takes .* a named keyword"):
        parameters(Sink, "here")


def test_descriptions() -> None:
    assert (
        describe(Annotated[int, Field(ge=4, multiple_of=2)]) == "an integer >= 4 and divisible by 2"
    )
    assert describe(tuple[int, str]) == "a list of 2: an integer, a text"
    assert describe(Literal[0, 1] | None) == "one of 0, 1 or null"
    assert meanings(Typed) == {
        "whole": "Two numbers. Their text goes on.",
        "ratio": "Two numbers. Their text goes on.",
        "mode": '"fast" or "slow"',
    }

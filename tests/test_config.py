"""A sweep's YAML: what is accepted, and one clear line for every mistake."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness import config
from harness.config.sweep import Sweep
from harness.errors import InputError
from tests.sweeps import NEAR, SQUARES, sweep, written

pytestmark = pytest.mark.usefixtures("toys")


@pytest.fixture
def load(tmp_path: Path) -> Any:
    def go(text: dict[str, Any] | str, *overrides: str) -> Sweep:
        path = tmp_path / "conf.yaml"
        if isinstance(text, str):
            path.write_text(text)
        else:
            written(path, text)
        return config.load(path, list(overrides))

    return go


def mistakes(load: Any, *sources: Any) -> list[str]:
    with pytest.raises(InputError) as caught:
        load(*sources)
    lines = [str(problem) for problem in caught.value.problems]
    assert all("\n" not in line for line in lines)
    return lines


GENERATED = {"generators": {"g": {"use": "toys.generators:Blend"}}}

#: what is wrong -> changes to a good sweep, words the message must have
BAD: dict[str, tuple[dict[str, Any], list[str]]] = {
    "unknown method": (
        {"methods": [{"use": "mean_colr"}]},
        ["methods[0].use", "'mean_colr'", "Did you mean 'mean_color'?"],
    ),
    "unknown dataset": (
        {"datasets": [{"use": "elpw"}]},
        ["datasets[0].use", "'elpw'", "Did you mean 'elpv'?"],
    ),
    "unknown generator": (
        {"generators": {"g": {"use": "dreamboth"}}},
        ["generators.g.use", "Did you mean 'dreambooth'?"],
    ),
    "unknown parameter": (
        {"methods": [{"use": NEAR, "params": {"powr": 1}}]},
        ["methods[0].params.powr", "no such parameter", "Did you mean 'power'?"],
    ),
    "wrong type of a parameter": (
        {"methods": [{"use": NEAR, "params": {"power": "much"}}]},
        ["methods[0].params.power", "expected a number", "'much'"],
    ),
    "wrong parameter of a dataset": (
        {"datasets": [{"use": SQUARES, "params": {"queries": []}}]},
        ["datasets[0].params.queries", "expected an integer"],
    ),
    "parameter out of range": (
        {"methods": [{"use": "mean_color", "params": {"grid": 0}}]},
        ["methods[0].params.grid", "expected an integer >= 1", "Got 0"],
    ),
    "unknown key": ({"shot": [1]}, ["shot: unknown key", "Did you mean 'shots'?"]),
    "unknown key of a method": (
        {"methods": [{"use": NEAR, "parms": {}}]},
        ["methods[0].parms: unknown key", "Did you mean 'params'?"],
    ),
    "missing key": ({"seeds": None}, ["seeds: this key is needed and missing"]),
    "no methods": ({"methods": []}, ["methods", "at least 1"]),
    "shots no list": ({"shots": 2}, ["shots: expected a valid list. Got 2"]),
    "shots no number": ({"shots": ["two"]}, ["shots[0]: expected a valid integer", "'two'"]),
    "negative shots": ({"shots": [-1]}, ["shots[0]", "greater than or equal to 0", "-1"]),
    "a truth for a number": ({"seeds": [True]}, ["seeds[0]", "integer"]),
    "shots twice": ({"shots": [2, 2]}, ["shots: a value stands here twice"]),
    "a name with a folder": ({"name": "../escape"}, ["name: expected a plain name", "../escape"]),
    "an absolute name": ({"name": "/tmp/x"}, ["name: expected a plain name"]),
    "a hidden name": ({"name": ".artifacts"}, ["name: expected a plain name"]),
    "two dots": ({"name": ".."}, ["name: expected a plain name"]),
    "an empty name": ({"name": ""}, ["name: expected a plain name"]),
    "a name of two lines": ({"name": "a\nb"}, ["name: expected a plain name"]),
    "name of the tracking database": ({"name": "mlflow.db"}, ["name", "mlflow.db"]),
    "a label with a folder": (
        {"methods": [{"use": NEAR, "label": "a/b"}]},
        ["methods[0].label: expected a plain name"],
    ),
    "labels twice": (
        {"methods": [{"use": NEAR}, {"use": NEAR, "params": {"power": 3}}]},
        ["methods: two of them are called 'Near'", "label"],
    ),
    "a generator that is not there": (
        {"methods": [{"use": NEAR, "generator": "h"}], **GENERATED},
        ["methods[0].generator", "no generator 'h'", "Available: g"],
    ),
    "a method that needs a generator": (
        {"methods": [{"use": "toys.methods:Pooled"}]},
        ["methods[0].generator", "needs a generator"],
    ),
    "no auxiliary data": (
        {"methods": [{"use": "toys.methods:Taught"}]},
        ["methods[0]: auxiliary", "trains on an auxiliary dataset"],
    ),
    "shots a method does not take": (
        {
            "methods": [{"use": "toys.methods:Compared", "generator": "g"}],
            "shots": [0],
            **GENERATED,
        },
        ["methods[0].shots", "takes 1 to 999 shots, got 0"],
    ),
    "a grid of nothing": (
        {"methods": [{"use": NEAR, "grid": {"power": []}}]},
        ["methods[0].grid.power", "list of values"],
    ),
    "a wrong value in a grid": (
        {"methods": [{"use": NEAR, "grid": {"power": [1, "x"]}}]},
        ["methods[0].params.power", "number"],
    ),
    "a method that is a word": (
        {"methods": ["near"]},
        ["methods[0]: expected keys and values", "'near'"],
    ),
    "a time limit of nothing": ({"time_limit": 0}, ["time_limit", "greater than 0"]),
    "wrong queries": (
        {"datasets": [{"use": SQUARES, "queries": {"normal": 2, "anomalos": 1}}]},
        ["datasets[0].queries"],
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_a_mistake_is_one_line_with_file_and_key(load: Any, what: str) -> None:
    changes, words = BAD[what]
    lines = mistakes(load, sweep(**changes))
    assert all("conf.yaml: " in line for line in lines)
    for word in words:
        assert any(word in line for line in lines), f"{word!r} in {lines}"


def test_every_mistake_is_told_at_once(load: Any) -> None:
    lines = mistakes(
        load,
        sweep(
            name="a b",
            shots=["x"],
            methods=[{"use": NEAR, "parms": 1}],
        ),
    )
    assert len(lines) == 3
    lines = mistakes(
        load,
        sweep(datasets=[{"use": "nope"}], methods=[{"use": NEAR, "params": {"a": 1, "b": 2}}]),
    )
    assert len(lines) == 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: [", "conf.yaml:"),
        ("name: a\nname: b", "conf.yaml:2:1: not valid YAML: the key 'name' stands here twice"),
        ("- a", "expected a mapping"),
        ("", "expected a mapping"),
        ("? [a, b]\n: c", "not valid YAML"),
        ("a: &x [*x]", "the anchor 'x' within itself"),
        ("name: &x [*x]", "conf.yaml:1:11: not valid YAML"),
        ("name: !!python/object/apply:os.system ['true']", "not valid YAML"),
        ("name: \tx", "conf.yaml"),
        ("1: 2", "[1]: Keys should be strings"),
    ],
)
def test_yaml_that_is_no_sweep(load: Any, text: str, words: str) -> None:
    assert any(words in line for line in mistakes(load, text))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    for name, words in (("gone.yaml", "no such file"), ("bytes.yaml", "read"), (".", "cannot be")):
        with pytest.raises(InputError, match=words):
            config.load(tmp_path / name)


json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(key=st.sampled_from(sorted(Sweep.model_fields)), value=json)
def test_any_value_anywhere_is_a_sweep_or_a_clear_mistake(load: Any, key: str, value: Any) -> None:
    problems: tuple[Any, ...] = ()
    try:
        load(sweep() | {key: value})
    except InputError as error:
        problems = error.problems
        if not problems:
            raise
    for problem in problems:
        assert re.search(r"conf\.yaml(: |:\d+:\d+: )", str(problem))
        assert "\n" not in str(problem)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("shots", "expected KEY=VALUE"),
        ("=3", "expected KEY=VALUE"),
        ("datasets.7.use=x", "no such place"),
        ("name.a.b=1", "no such place"),
        ("shots.x=1", "--set"),
        ("shots=[", "--set"),
        ("sots=[1]", "sots: unknown key"),
    ],
)
def test_overrides_that_are_mistakes(load: Any, text: str, words: str) -> None:
    assert any(words in line for line in mistakes(load, sweep(), text))


def test_overrides(load: Any) -> None:
    got = load(sweep(), "shots=[1, 3]", "methods.0.params.power=4", "datasets.0.params.side=20")
    assert got.shots == [1, 3]
    assert got.methods[0].params == {"power": 4}
    assert got.datasets[0].params == {"side": 20}


def test_only() -> None:
    assert config.only(["shots=2,4", "method=a", "shots=8"]) == {
        "shots": {"2", "4", "8"},
        "method": {"a"},
    }
    with pytest.raises(InputError, match="Did you mean 'shots'"):
        config.only(["shot=2"])
    with pytest.raises(InputError, match="KEY=VALUE"):
        config.only(["shots"])


def test_grids_make_one_method_per_combination(load: Any) -> None:
    got = load(sweep(methods=[{"use": NEAR, "grid": {"power": [1, 2], "file": [None]}}]))
    assert [m.label for m in got.methods] == ["Near-power=1-file=None", "Near-power=2-file=None"]
    assert [m.params["power"] for m in got.methods] == [1, 2]


def test_digest_is_of_what_decides_results(load: Any) -> None:
    base = load(sweep()).digest()
    same = {"description": "words", "time_limit": 5, "attempts": 3, "memory": 0.5}
    other = {"seeds": [1], "shard": 3, "threads": 2, "maps": False, "seed": 4, "gallery": 0}
    for key, value in same.items():
        assert load(sweep(**{key: value})).digest() == base, key
    for key, value in other.items():
        assert load(sweep(**{key: value})).digest() != base, key
    assert load(yaml.safe_dump(dict(reversed(sweep().items())))).digest() == base


def test_a_number_written_as_yaml_reads_it(load: Any) -> None:
    """1e-3 without a point is a word in YAML; the method gets a number all the same."""
    params = load(sweep(methods=[{"use": NEAR, "params": {"power": "1e-3"}}])).methods[0].params
    assert config.build("method", NEAR, params).power == 0.001

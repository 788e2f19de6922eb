"""Nonsense in a config: every kind that was tried from outside, and 2,000 seeded cases of more."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.errors import InputError
from harness.run import prepare
from harness.running.options import Options
from tests.sweeps import NEAR, SQUARES, sweep

pytestmark = pytest.mark.usefixtures("toys")
PARTS, CASES = 8, 100  # 800 cases in all


def planned(path: Path, text: str | bytes, **options: Any) -> list[str]:
    """Mistakes that planning tells of a config, none where it is a sweep."""
    path.write_bytes(text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text)
    try:
        prepare(Options(conf=path, **options))
    except InputError as error:
        lines = [str(problem) for problem in error.problems]
        assert 0 < len(lines) <= 45, len(lines)
        for line in lines:
            assert line.isprintable(), line
            assert len(line) < 1500, line
        return lines
    return []


def text_with(**changes: Any) -> str:
    return yaml.safe_dump(sweep(**changes), sort_keys=False)


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n"
    for a, b in zip("abcdefghi", "bcdefghij", strict=True)
)
HOSTILE: dict[str, tuple[str | bytes, str]] = {
    "a tag on the wrong text": ("name: !!int x", "not valid YAML"),
    "a number of 5,000 digits": (f"name: {'9' * 5000}", "not valid YAML"),
    "binary": ("name: !!binary =====", "not valid YAML"),
    "a set": ("name: !!set {a, b}", "not valid YAML"),
    "900 brackets": ("name: " + "[" * 900, "within one another"),
    "900 closed brackets": ("name: " + "[" * 900 + "]" * 900, "within one another"),
    "900 mappings": ("name: " + "{a: " * 900, "within one another"),
    "billion laughs": (LAUGHS, "more than 300,000 values"),
    "an anchor within itself": ("name: &x {a: *x}", "within itself"),
    "an unknown alias": ("name: *x", "not valid YAML"),
    "a raw NUL": (b"name: a\x00b", "not valid YAML"),
    "an escaped NUL": ('name: "a\\0b"', "control character"),
    "half a character": ('name: "\\ud800"', "control character"),
    "an escape of the terminal": ('description: "\\e[31m"', "control character"),
    "UTF-16": ("name: x".encode("utf-16"), "cannot be read"),
    "two documents": ("name: a\n---\nname: b", "not valid YAML"),
    "a key of a list": ("? [a]\n: b", "not valid YAML"),
    "a merge of nothing": ("<<: 3\nname: a", "not valid YAML"),
    "five megabytes": ("#" * 5_000_000, "at most 4,000,000 bytes"),
    "an empty list of categories": (
        text_with(datasets=[{"use": SQUARES, "categories": []}]),
        "datasets[0].categories",
    ),
    "no queries at all": (
        text_with(datasets=[{"use": SQUARES, "queries": {"normal": 0, "anomalous": 0}}]),
        "at least one query",
    ),
    "an empty list of queries": (
        text_with(datasets=[{"use": SQUARES, "queries": []}]),
        "datasets[0].queries",
    ),
    "more queries than there are": (
        text_with(datasets=[{"use": SQUARES, "queries": {"normal": 10_000, "anomalous": 1}}]),
        "expected 10000 normal queries, there are",
    ),
    "words for no category": (
        text_with(datasets=[{"use": SQUARES, "object_names": {"ent": "x"}}]),
        "Did you mean 'ant'?",
    ),
    "no words": (
        text_with(datasets=[{"use": SQUARES, "object_names": {"ant": " "}}]),
        "object_names.ant",
    ),
    "a size of nothing": (
        text_with(methods=[{"use": "patchcore", "params": {"size": 0}}]),
        "params.size: expected an integer >= 8",
    ),
    "a pool of nothing": (
        text_with(generators={"g": {"use": "toys.generators:Blend", "pool": 0}}),
        "generators.g.pool",
    ),
    "two sizes of a pool": (
        text_with(generators={"g": {"use": "toys.generators:Blend", "pool": 9, "generated": 3}}),
        "pool or generated, not both",
    ),
    "no shots of a method": (
        text_with(methods=[{"use": NEAR, "shots": []}]),
        "methods[0].shots",
    ),
    "shots of a method twice": (
        text_with(methods=[{"use": NEAR, "shots": [1, 1]}]),
        "methods[0].shots: a value stands here twice",
    ),
    "a grid without end": (
        text_with(methods=[{"use": NEAR, "grid": {"power": [*range(1, 999)], "file": ["a"] * 99}}]),
        "combinations",
    ),
    "endless time": ("time_limit: .inf\n" + text_with(), "time_limit"),
    "queries of auxiliary data": (
        text_with(auxiliary=[{"use": SQUARES, "queries": ["a"]}]),
        "auxiliary[0].queries: is of no use",
    ),
    "a plug-in of nothing": (text_with(methods=[{"use": ""}]), "methods[0].use"),
    "a plug-in with a long name": (text_with(methods=[{"use": "x" * 9_999}]), "methods[0].use"),
    "a support file that is a folder": (
        text_with(datasets=[{"use": SQUARES, "support": "."}]),
        "datasets[0].support",
    ),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_nonsense_is_told_in_clear_lines(tmp_path: Path, what: str) -> None:
    text, words = HOSTILE[what]
    began = time.process_time()
    lines = planned(tmp_path / "c.yaml", text)
    assert any(words in line for line in lines), lines
    assert time.process_time() - began < 10


@pytest.mark.parametrize(
    "contents",
    [
        {"Squares": {"ant": {"0": [["a"], ["b"]]}}},
        {"Squares": {"ant": {"0": {"a": 1}}}},
        {"Squares": {"ant": [1, 2]}},
        {"Squares": [{}]},
        [[]],
    ],
)
def test_a_support_file_of_other_things(tmp_path: Path, contents: Any) -> None:
    (tmp_path / "refs.yaml").write_text(yaml.safe_dump(contents))
    text = text_with(datasets=[{"use": SQUARES, "support": "refs.yaml", "categories": ["ant"]}])
    (line,) = planned(tmp_path / "c.yaml", text)
    assert "datasets[0].support" in line


def test_a_date_is_a_text(tmp_path: Path) -> None:
    assert planned(tmp_path / "c.yaml", text_with(name=None) + "name: 2024-99-99\n") == []
    assert planned(tmp_path / "c.yaml", text_with(name=None) + "name: 2024-01-01\n") == []


def test_all_mistakes_come_in_one_round(tmp_path: Path) -> None:
    """Schema, plug-ins, parameters and data: a typo in one hides none of the others."""
    text = text_with(
        shots=["x"],
        tpyo=1,
        datasets=[
            {"use": SQUARES, "categories": ["cat"]},
            {"use": "elpw"},
            {"use": "mvtec"},
            {"use": SQUARES, "label": "b", "querys": 3},
        ],
        methods=[
            {"use": NEAR, "params": {"powr": 1}},
            {"use": "patchcore", "params": {"size": 0, "encoder": {"model": "micro", "wights": 1}}},
            {"use": "patchcor"},
            {"use": NEAR, "label": "c", "generator": "none"},
            {"use": "regad"},
        ],
        generators={"g": {"use": "dreambooth", "params": {"strength": 2}}, "h": {"ues": 1}},
        auxiliary=[{"use": "visa"}],
    )
    lines = planned(tmp_path / "c.yaml", text, overrides=("a.b.c=1",))
    expected = [
        "shots[0]: expected",
        "tpyo: unknown key",
        "datasets[0].categories",
        "datasets[1].use",
        "datasets[2]: dataset 'mvtec' needs --data-root",
        "datasets[3].querys: unknown key",
        "methods[0].params.powr",
        "methods[1].params.size",
        "methods[1].params.encoder",
        "methods[2].use",
        "methods[3].generator",
        "generators.g.params.strength",
        "generators.h.use: this key is needed",
        "auxiliary[0]: dataset 'visa' needs --data-root",
    ]
    for words in expected:
        assert sum(words in line for line in lines) == 1, (words, lines)


def test_one_mistake_made_a_thousand_times_is_told_a_few_times(tmp_path: Path) -> None:
    lines = planned(tmp_path / "c.yaml", text_with(seeds=["x"] * 3_000))
    assert len(lines) == 4
    assert lines[-1].endswith("the same 2997 times more")
    lines = planned(tmp_path / "c.yaml", text_with(methods=[{"use": NEAR}], shots=[*range(9000)]))
    assert len(lines) < 9
    many = {f"k{'abcdefghij'[i // 10]}{'abcdefghij'[i % 10]}": 1 for i in range(90)}
    lines = planned(tmp_path / "c.yaml", text_with(**many))
    assert lines[-1] == "and 50 more mistakes"


# --- seeded fuzz ------------------------------------------------------------------------------

WORDS = ["", " ", "a", "../x", "/", ".", "nan", "1e999", "-1", "null", "é", "日本", "a\nb", "{}"]
WORDS += ["elpv", "mean_color", "patchcore", NEAR, SQUARES, "x.py", "os:path", "toys.data:No", "*"]
NUMBERS = [0, 1, -1, 2, 7, 10**6, 10**12, 10**400, 0.5, -0.0, 1e308, float("inf"), float("nan")]
KEYS = ["use", "params", "categories", "queries", "support", "object_names", "label", "grid"]
KEYS += ["generator", "shots", "auxiliary", "pool", "generated", "power", "file", "name", "seeds"]
KEYS += ["normal", "anomalous", "seed", "size", "encoder", "model", "weights", "shard", "threads"]
KEYS += ["methods", "datasets", "generators", "maps", "time_limit", "gallery", "evaluation_size"]


def anything(chance: random.Random, depth: int = 0) -> Any:
    kind = chance.randrange(8 if depth < 3 else 5)
    if kind == 0:
        return chance.choice(WORDS)
    if kind == 1:
        return chance.choice(NUMBERS)
    if kind == 2:
        return chance.choice([True, False, None])
    if kind == 3:
        return "".join(
            chance.choice("abc \t:-[]{}#&*!|>'\"%@`") for _ in range(chance.randrange(9))
        )
    if kind == 4:
        return chance.randrange(-3, 300)
    if kind == 5:
        return [anything(chance, depth + 1) for _ in range(chance.randrange(4))]
    return {chance.choice(KEYS): anything(chance, depth + 1) for _ in range(chance.randrange(4))}


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) within a value."""
    spots = []
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    for key, part in list(inner):
        spots.append((value, key))
        if isinstance(part, dict | list):
            spots += places(part)
    return spots


def rich() -> dict[str, Any]:
    return sweep(
        datasets=[
            {"use": SQUARES, "categories": ["ant"], "queries": {"normal": 2, "anomalous": 2}},
            {
                "use": SQUARES,
                "label": "b",
                "object_names": {"ant": "an ant"},
                "params": {"side": 9},
            },
        ],
        methods=[
            {"use": NEAR, "params": {"power": 1.5}, "label": "near", "shots": [1]},
            {"use": "mean_color", "grid": {"grid": [2, 4]}},
            {"use": "toys.methods:Pooled", "generator": "g"},
            {"use": "patchcore", "params": {"levels": [2, 3], "encoder": {"model": "micro"}}},
        ],
        generators={"g": {"use": "toys.generators:Blend", "pool": 5}},
        auxiliary=[{"use": SQUARES}],
        time_limit=60,
    )


def mutated(chance: random.Random) -> str:
    """A rich sweep with one to three values, keys or letters changed."""
    config = rich()
    for _ in range(chance.randint(1, 3)):
        container, key = chance.choice(places(config))
        how = chance.randrange(4)
        if how == 0 and isinstance(container, dict):
            container[chance.choice(KEYS)] = container.get(key)
            container.pop(key, None)
        elif how == 1:
            del container[key]
        else:
            container[key] = anything(chance)
        if not config:
            break
    text = yaml.safe_dump(config, sort_keys=False, allow_unicode=chance.random() < 0.5)
    if chance.random() < 0.25:  # damage the text itself
        at = chance.randrange(len(text) + 1)
        text = text[:at] + chance.choice([*"\x00\t[]{}&*!:-\"'", "\ud800", "<<: "]) + text[at + 1 :]
    return text


def wrong_cases(seeds: range, one: Callable[[random.Random], str], path: Path) -> list[str]:
    """What went wrong in seeded cases: neither a plan nor clear lines."""
    wrong = []
    for seed in seeds:
        try:
            planned(path, one(random.Random(seed)))
        except (Exception, SystemExit) as error:
            wrong.append(f"seed {seed}: {type(error).__name__}: {error}"[:300])
    return wrong


@pytest.mark.parametrize("part", range(PARTS))
def test_hundreds_of_configs_are_plans_or_clear_mistakes(tmp_path: Path, part: int) -> None:
    seeds = range(part * CASES, (part + 1) * CASES)
    wrong = wrong_cases(seeds, mutated, tmp_path / "c.yaml")
    print(f"{CASES - len(wrong)} right of {CASES}")
    assert not wrong, f"{CASES - len(wrong)} right of {CASES}; " + "\n".join(wrong[:20])

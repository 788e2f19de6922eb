"""Queries and supports that a config names."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.config.sweep import DatasetEntry, Subset
from harness.data import selection
from harness.errors import InputError
from harness.interface import Sample


def images_of(normal: int = 20, **defects: int) -> list[Sample]:
    samples = [Sample(f"good/{i}") for i in range(normal)]
    for kind, n in defects.items():
        samples += [Sample(f"{kind}/{i}", 1, defect=kind) for i in range(n)]
    return samples


@given(st.integers(0, 22), st.integers(1, 22), st.integers(0, 100))
def test_stratified_draws_so_many_of_each_kind(normal: int, anomalous: int, seed: int) -> None:
    every = images_of(dent=9, hole=9, crack=2)
    subset = Subset(normal=normal, anomalous=anomalous, seed=seed)
    if normal > 20 or anomalous > 20:
        with pytest.raises(ValueError, match=r"d/c: expected \d+ \w+ queries, there are 20"):
            selection.stratified(every, subset, "d/c")
        return
    drawn = selection.stratified(every, subset, "d/c")
    kinds = Counter(s.defect for s in drawn)
    assert kinds["good"] == normal
    assert sum(kinds.values()) - kinds["good"] == anomalous
    large = [kinds["dent"], kinds["hole"]]
    assert max(large) - min(large) <= 1
    assert kinds["crack"] >= min(2, min(large))
    assert drawn == [s for s in every if s in drawn], "the order of the dataset is kept"
    assert drawn == selection.stratified(every, subset, "d/c")


def test_defects_without_a_name_are_drawn_too() -> None:
    every = [*images_of(3), *(Sample(f"bad/{i}", 1) for i in range(4))]
    nameless = [*every[:3], *(Sample(f"bad/{i}", 1, defect="") for i in range(4))]
    for samples in (every, nameless):
        drawn = selection.stratified(samples, Subset(normal=1, anomalous=3), "d/c")
        assert [s.label for s in drawn] == [0, 1, 1, 1]


def test_stratified_draws_differ_by_name_and_seed() -> None:
    every = images_of(normal=200)
    draws = [
        selection.stratified(every, Subset(normal=20, anomalous=0, seed=seed), name)
        for seed, name in ((0, "a"), (1, "a"), (0, "b"))
    ]
    assert len({tuple(draw) for draw in draws}) == 3


def test_named_queries_by_name_or_unambiguous_stem() -> None:
    every = [Sample("good/1.png"), Sample("hole/1.png", 1), Sample("hole/2.png", 1)]
    entry = DatasetEntry(use="x", queries=["2", "good/1.png", "1"])
    assert selection.queries(entry, every, "c") == [every[0], every[2]], "'1' could be either"


def entry_with(tmp_path: Path, supports: Any) -> tuple[DatasetEntry, Path]:
    (tmp_path / "refs.json").write_text(json.dumps(supports))
    return DatasetEntry(use="x", label="d", support="refs.json"), tmp_path / "conf.yaml"


def test_support_of_somebody_else(tmp_path: Path) -> None:
    entry, conf = entry_with(tmp_path, {"d": {"c": {"0": ["good/3", "good/1"]}}})
    supports = selection.support_file(entry, conf, "here")
    assert supports is not None
    names = [s.name for s in selection.given_support(supports, images_of(), "c", 0, 2, "here")]
    assert names == ["good/3", "good/1"]
    assert len(selection.given_support(supports, images_of(), "c", 0, 1, "here")) == 1


@pytest.mark.parametrize(
    ("supports", "words"),
    [
        ({"other": {}}, "expected d: category: seed"),
        ([], "expected d: category: seed"),
        ({"d": {"c": {"0": ["good/1"]}}}, "expected 2 different image names for c, seed 0"),
        ({"d": {"c": {"0": ["good/1", "good/1"]}}}, "2 different"),
        ({"d": {"c": {"1": ["good/1", "good/2"]}}}, "seed 0"),
        ({"d": {"c": {"0": ["good/1", "good/99"]}}}, "no training image 'good/99'"),
        ({"d": {"c": {"0": [1, None]}}}, "2 different image names"),
    ],
)
def test_supports_that_are_mistakes(tmp_path: Path, supports: Any, words: str) -> None:
    entry, conf = entry_with(tmp_path, supports)

    def read() -> None:
        of_dataset = selection.support_file(entry, conf, "here") or {}
        selection.given_support(of_dataset, images_of(), "c", 0, 2, "here")

    with pytest.raises(InputError, match=words) as caught:
        read()
    assert "\n" not in str(caught.value)


def test_a_support_file_that_does_not_parse(tmp_path: Path) -> None:
    (tmp_path / "refs.json").write_text("{")
    with pytest.raises(InputError, match=r"refs\.json"):
        selection.support_file(
            DatasetEntry(use="x", label="d", support="refs.json"), tmp_path / "conf.yaml", "here"
        )


def test_a_draw_is_the_same_in_every_version() -> None:
    """What is published of a subset of the queries can be drawn again."""
    every = images_of(9, a=4, b=2)
    drawn = selection.stratified(every, Subset(normal=3, anomalous=4, seed=5), "cap")
    assert [s.name for s in drawn] == [
        *("good/1", "good/3", "good/8"),
        *("a/0", "a/2", "b/0", "b/1"),
    ]

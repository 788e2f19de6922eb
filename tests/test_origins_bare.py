"""Parts of keys and why tasks are new, of a plan that is written by hand."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from harness.config.sweep import GeneratorEntry, MethodEntry
from harness.errors import redacted
from harness.planning import graph, origins
from harness.planning.graph import Category, Code, PlanInputs, plan
from harness.planning.reasons import Reasons
from harness.tasks.task import Task
from tests.test_plan_bare import CATEGORY, CODES, ENTRIES, INPUTS, a_sweep, references

GENERATOR = Code(
    "blends",
    "state",
    "generate",
    "personalize",
    parts={
        "": {"parameter prior": "true"},
        "generate": {"parameter spread": "8"},
        "personalize": {"source a.py": "1"},
    },
    prior=True,
)
NOW = replace(
    INPUTS,
    methods=tuple(replace(c, parts={"": {"source m.py": c.digest}}) for c in CODES),
    generators={"blend": GENERATOR},
    judges={"metrics": "m"},
)


def new(inputs: PlanInputs = NOW, **changes: Any) -> dict[str, set[tuple[str, ...]]]:
    """Kind (and method's label) of the tasks that a change makes new -> why they are.

    A task has a reason if and only if its key is another.
    """
    known = plan(a_sweep(shots=[1, 2]), NOW).tasks
    before = origins.origins(a_sweep(shots=[1, 2]), NOW)
    sweep = a_sweep(**{"shots": [1, 2], **changes})
    reasons = Reasons(sweep, inputs, before)
    by_kind: dict[str, set[tuple[str, ...]]] = {}
    for key, task in plan(sweep, inputs).tasks.items():
        why = reasons.of(task)
        assert bool(why) == (key not in known), (task, why)
        if why:
            by_kind.setdefault(named(task), set()).add(why)
    return by_kind


def why_of(names: Iterable[str], reasons: Iterable[tuple[str, ...]]) -> Any:
    """What ``new`` says where tasks of these names are new for these reasons."""
    return {name: set(reasons) for name in names}


def named(task: Task) -> str:
    method = getattr(task, "method", None)
    return task.kind if method is None else f"{task.kind} {ENTRIES[method].use}"


def category(**changes: Any) -> PlanInputs:
    changed: Category = replace(CATEGORY, **changes)
    return replace(NOW, categories=(changed,))


def test_without_a_change_nothing_is_new() -> None:
    assert new() == {}


def test_a_methods_code_is_a_reason_for_its_own_tasks() -> None:
    codes = list(NOW.methods)
    codes[1] = replace(codes[1], digest="other", parts={"": {"source m.py": "other"}})
    why = {("source m.py of method taught changed",)}
    assert new(replace(NOW, methods=tuple(codes))) == why_of(
        ("train taught", "predict taught", "evaluate taught"), why
    )


@pytest.mark.parametrize(
    ("reader", "digests", "reason", "kinds"),
    [
        (
            "",
            {"state": "x", "generate": "y", "personalize": "z"},
            "parameter prior of generator blend: true -> new",
            "prepare customize generate personalize",
        ),
        (
            "generate",
            {"generate": "x"},
            "parameter spread of generator blend (generate): 8 -> new",
            "generate",
        ),
        (
            "personalize",
            {"personalize": "x"},
            "source a.py of generator blend (personalize) changed",
            "personalize",
        ),
    ],
)
def test_a_part_of_a_generator_is_a_reason_for_what_reads_it(
    reader: str, digests: dict[str, Any], reason: str, kinds: str
) -> None:
    parts = {**GENERATOR.parts, reader: dict.fromkeys(GENERATOR.parts[reader], "new")}
    inputs = replace(NOW, generators={"blend": replace(GENERATOR, parts=parts, **digests)})
    changed = [*kinds.split(), "predict compared", "evaluate compared"]
    assert new(inputs) == why_of(changed, {(reason,)})


def test_what_is_of_the_whole_sweep_is_a_reason_for_all_it_concerns() -> None:
    predictions = {f"{kind} {m.use}" for kind in ("predict", "evaluate") for m in ENTRIES}
    evaluations = {name for name in predictions if name.startswith("evaluate")}
    everything = {"prepare", "customize", "generate", "personalize", "train taught", *predictions}
    assert new(seed=3) == why_of(everything, {("seed of sweep: 0 -> 3",)})
    maps = {("maps of predictions: True -> False",)}
    assert new(maps=False) == why_of(predictions, maps)
    size = {("size of evaluation: 256 -> 64",)}
    assert new(evaluation_size=64) == why_of(evaluations, size)
    judged = replace(NOW, judges={"metrics": "other"}, metrics="other")
    metrics = {("source metrics of evaluation changed",)}
    assert new(judged) == why_of(evaluations, metrics)
    gallery = new(gallery=9)
    assert gallery["predict near"] == {("gallery of predictions: 4 -> 9",)}
    assert gallery["evaluate near"] == {("gallery of predictions: 4 -> 9",)}


def test_what_is_of_a_category_is_a_reason_for_what_reads_it() -> None:
    predictions = {f"{kind} {m.use}" for kind in ("predict", "evaluate") for m in ENTRIES}
    evaluations = {name for name in predictions if name.startswith("evaluate")}
    truth = {("labels and masks of truth of data/cup changed",)}
    assert new(category(truth="other")) == why_of(evaluations, truth)
    both = ("images of queries of data/cup changed", "masked of queries of data/cup: False -> True")
    changed = new(category(masked=True, queries=references("r", 5)))
    of_queries = {name: why for name, why in changed.items() if name not in evaluations}
    personalized = of_queries.pop("personalize")
    assert personalized == {both[:1]}, "whether there are masks is no part of its key"
    assert of_queries == why_of(predictions - evaluations, {both})
    supports = {0: CATEGORY.supports[0], 1: references("u", 2)}
    of_support = {"customize", "generate", "personalize", *predictions}
    assert new(category(supports=supports)) == why_of(
        of_support,
        {(f"{k} of support of data/cup, seed 1 changed",) for k in ("1 shot", "2 shots")},
    )
    second = {0: (*CATEGORY.supports[0][:1], *references("u", 1)), 1: CATEGORY.supports[1]}
    assert new(category(supports=second)) == why_of(
        of_support, {("2 shots of support of data/cup, seed 0 changed",)}
    )
    words = new(category(object_name="a mug"))
    assert words["prepare"] == {("object name of words of data/cup: a cup -> a mug",)}
    assert words["predict near"] == {("object name of words of data/cup: a cup -> a mug",)}


def test_more_images_in_a_pool_are_a_reason_for_what_reads_it() -> None:
    more = new(generators={"blend": GeneratorEntry(use="b", pool=6)})
    why = {
        ("images that blend adds to 1 shot: 4 -> 5",),
        ("images that blend adds to 2 shots: 3 -> 4",),
    }
    assert more == why_of(("generate", "predict compared", "evaluate compared"), why)


def test_a_methods_own_shots_count() -> None:
    methods = [*ENTRIES[:1], MethodEntry(use="taught", shots=[3]), ENTRIES[2]]
    supports = {seed: references(f"s{seed}", 3) for seed in (0, 1)}
    whole = origins.origins(a_sweep(methods=methods, shots=[1]), category(supports=supports))
    assert set(whole["support of data/cup, seed 1"]) == {"1 shot", "2 shots", "3 shots"}
    assert {len(part) for part in whole["support of data/cup, seed 1"].values()} == {8}
    shards = whole["queries of data/cup"]["shards"].split()
    assert [len(shard) for shard in shards] == [8, 8, 8]
    assert whole["cells of taught"]["shots"] == "[3]"
    assert whole["cells of first"]["shots"] == "[1]"


def test_other_auxiliary_data_are_a_reason_for_trainings_and_what_rests_on_them() -> None:
    inputs = replace(NOW, auxiliary={("taught", "data", "cup"): ("others", "changed")})
    why = {("images of auxiliary data others changed",)}
    changed = ("train taught", "predict taught", "evaluate taught")
    assert new(inputs) == why_of(changed, why)


def test_the_version_of_the_engine_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    before = origins.origins(a_sweep(), NOW)
    monkeypatch.setattr(origins, "VERSION", graph.VERSION + 1)
    why = Reasons(a_sweep(), NOW, before)
    reason = f"version of engine: {graph.VERSION} -> {graph.VERSION + 1}"
    assert {why.of(task) for task in plan(a_sweep(), NOW).tasks.values()} == {(reason,)}


@pytest.mark.parametrize("text", ["{", "[1]", "3", '"a"', "null"])
def test_damaged_origins_are_none(text: str) -> None:
    assert origins.read(text) == {}


def test_origins_are_read_as_they_were_written() -> None:
    whole = origins.origins(a_sweep(), NOW)
    assert origins.read(json.dumps(whole)) == whole
    harmed = json.loads(json.dumps(whole))
    harmed["cells"]["seeds"] = "[0, 2]"
    assert origins.read(json.dumps(harmed)) == {}
    assert origins.read(json.dumps(whole | {"record": {"form": "1"}})) == {}
    assert origins.read(json.dumps({"a": {"b": "c"}, "d": 3})) == {}


def test_the_nearest_has_most_parts_in_common() -> None:
    now = {"a": {"x": "1", "y": "2"}, "b": {"z": "3"}}
    others = {
        "one": {"a": {"x": "1"}, "c": {"p": "4", "q": "5", "r": "6"}},
        "two": {"a": {"x": "1", "y": "2"}},
        "none": {"a": {"x": "2", "y": "1"}},
    }
    assert origins.nearest(now, others) == "two"
    assert origins.nearest(now, {}) == ""


def test_secrets_are_left_out_and_their_change_is_told_all_the_same() -> None:
    def of(word: str) -> PlanInputs:
        parts = {"": {"parameter place": f'"s3://key:{word}@bucket/a"'}}
        codes = (*NOW.methods[:2], replace(NOW.methods[2], digest=word, parts=parts))
        return replace(NOW, methods=codes)

    before = origins.origins(a_sweep(), of("hunter2"))
    assert "hunter2" not in json.dumps(before)
    assert len(before["method first"]["parameter place in full"]) == 8
    assert before["method first"]["parameter place"] == '"s3://***@bucket/a"'
    assert origins.read(redacted(json.dumps(before))) == before, "as the folder's writer has it"
    why = Reasons(a_sweep(), of("other"), before)
    reasons = {why.of(task) for task in plan(a_sweep(), of("other")).tasks.values()}
    assert reasons == {(), ("parameter place in full of method first changed",)}

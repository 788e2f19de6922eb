"""Parts of keys and why tasks are new, of a plan that is written by hand."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from harness.config.sweep import GeneratorEntry, MethodEntry
from harness.planning import graph, origins
from harness.planning.graph import Category, Code, Plan, PlanInputs, plan
from harness.planning.origins import Reasons
from harness.tasks.kinds import Predict, Train
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
    assert gallery["evaluate near"] == {
        ("gallery of predictions: 4 -> 9", "gallery of evaluation: 4 -> 9")
    }


def test_what_is_of_a_category_is_a_reason_for_what_reads_it() -> None:
    predictions = {f"{kind} {m.use}" for kind in ("predict", "evaluate") for m in ENTRIES}
    evaluations = {name for name in predictions if name.startswith("evaluate")}
    truth = {("labels and masks of truth of data/cup changed",)}
    assert new(category(truth="other")) == why_of(evaluations, truth)
    both = ("images of queries of data/cup changed", "masked of queries of data/cup: False -> True")
    changed = new(category(masked=True, queries=references("r", 5)))
    of_queries = {name: why for name, why in changed.items() if name not in evaluations}
    assert of_queries == why_of({"personalize", *predictions} - evaluations, {both})
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
    assert words["prepare"] == {("new: object a mug",)}
    assert words["predict near"] == {("object name of words of data/cup: a cup -> a mug",)}


def test_more_images_in_a_pool_are_a_reason_for_what_reads_it() -> None:
    more = new(generators={"blend": GeneratorEntry(use="b", pool=6)})
    why = {
        ("images of pool of blend, 1 shot changed",),
        ("images of pool of blend, 2 shots changed",),
    }
    assert more == why_of(("generate", "predict compared", "evaluate compared"), why)


def of_trainings(training: Any = "per-seed", **declared: Any) -> set[str]:
    """Groups that trainings for no and two shots and seeds 0 and 1 are told by."""
    inputs = replace(NOW, methods=(replace(CODES[1], **declared),))
    sweep = a_sweep(methods=[MethodEntry(use="taught", training=training)], shots=[0, 2])
    return {group for group in origins.origins(sweep, inputs) if group.startswith("training")}


def test_a_training_is_new_by_what_it_is_for() -> None:
    both: dict[str, Any] = {"auxiliary_per_shots": True, "auxiliary_per_seed": True}
    assert of_trainings(**both) == {
        "training of taught, 0 shots, seed 0",
        "training of taught, 2 shots, seed 0",
        "training of taught, 2 shots, seed 1",
    }
    shots = {"training of taught, 0 shots", "training of taught, 2 shots"}
    assert of_trainings(**both | {"auxiliary_per_seed": False}) == shots
    assert of_trainings("once", **both) == shots
    seeds = {"training of taught, seed 0", "training of taught, seed 1"}
    assert of_trainings(**both | {"auxiliary_per_shots": False}) == seeds
    assert of_trainings(auxiliary_per_shots=False, auxiliary_per_seed=False) == {
        "training of taught"
    }
    assert of_trainings(auxiliary=False) == set()


def test_a_methods_own_shots_count() -> None:
    methods = [*ENTRIES[:1], MethodEntry(use="taught", shots=[3]), ENTRIES[2]]
    supports = {seed: references(f"s{seed}", 3) for seed in (0, 1)}
    whole = origins.origins(a_sweep(methods=methods, shots=[1]), category(supports=supports))
    assert set(whole["support of data/cup, seed 1"]) == {"1 shot", "2 shots", "3 shots"}
    assert {len(part) for part in whole["support of data/cup, seed 1"].values()} == {8}
    assert "training of taught, 3 shots, seed 1" in whole
    assert "training of taught, 1 shot, seed 1" not in whole


def test_other_auxiliary_data_are_a_reason_for_trainings_and_what_rests_on_them() -> None:
    inputs = replace(NOW, auxiliary={("taught", "data", "cup"): ("others", "changed")})
    why = {("images of auxiliary data others changed",)}
    changed = ("train taught", "predict taught", "evaluate taught")
    assert new(inputs) == why_of(changed, why)


def reasons(before: origins.Origins, **changes: Any) -> tuple[Reasons, Plan]:
    sweep = a_sweep(methods=ENTRIES[2:], shots=[1], **changes)
    inputs = replace(NOW, methods=NOW.methods[2:])
    return Reasons(sweep, inputs, before), plan(sweep, inputs)


def test_every_group_that_is_new_is_told_and_those_of_a_generator_where_it_works() -> None:
    before = origins.origins(a_sweep(), NOW)
    generators = ("generator blend", "generator blend (generate)", "generator blend (personalize)")
    pool = "pool of blend, 2 shots"
    for group in (*generators, pool):
        del before[group]
    why = Reasons(a_sweep(), NOW, before)
    for task in plan(a_sweep(), NOW).tasks.values():
        if isinstance(task, Predict) and task.method == 0:
            groups = [generators[0], generators[1], *([pool] * (task.shots == 2)), generators[2]]
            assert why.of(task) == (tuple(f"new: {g}" for g in groups) if task.shots else ())
    inputs = replace(NOW, methods=(CODES[1],), auxiliary={("m", "data", "cup"): ("others", "d")})
    sweep = a_sweep(methods=[MethodEntry(use="taught", generator="blend", label="m")])
    before = origins.origins(sweep, inputs)
    del before["generator blend"]
    why = Reasons(sweep, inputs, before)
    trainings = [t for t in plan(sweep, inputs).tasks.values() if isinstance(t, Train)]
    assert len(trainings) == 5
    assert {why.of(task) for task in trainings} == {()}, "nothing is generated to train on"


def test_parts_that_came_or_went_are_told_in_order() -> None:
    now = origins.origins(a_sweep(), NOW)
    before = {**now, "method first": {"file w": "1", "source m.py": "predicts", "class": "x"}}
    del before["words of data/cup"]
    why, graph_now = reasons(before)
    assert {why.of(task) for task in graph_now.tasks.values()} == {
        (
            "class of method first: removed",
            "file w of method first: removed",
            "new: words of data/cup",
        )
    }
    before = {**now, "method first": {}}
    why, _ = reasons(before)
    assert {why.of(task) for task in graph_now.tasks.values()} == {
        ("source m.py of method first: added",)
    }


def test_the_table_counts_tasks_by_reason_most_first() -> None:
    now = origins.origins(
        a_sweep(methods=ENTRIES[2:], shots=[1]), replace(NOW, methods=NOW.methods[2:])
    )
    before = {
        group: parts for group, parts in now.items() if group != "support of data/cup, seed 1"
    }
    why, planned = reasons(before)
    predictions = {k: t.seed for k, t in planned.tasks.items() if isinstance(t, Predict)}
    three_of_one = [key for key, seed in predictions.items() if seed == 1]
    one = next(key for key, seed in predictions.items() if seed == 0)
    lost = "planned before, but not done, or no longer there"
    assert why.table(planned, {one, *three_of_one}).splitlines() == [
        "predict             3  new: support of data/cup, seed 1",
        f"predict             1  {lost}",
    ]
    assert why.table(planned, set()) == ""


def test_the_version_of_the_engine_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    before = origins.origins(a_sweep(), NOW)
    monkeypatch.setattr(origins, "VERSION", graph.VERSION + 1)
    why, planned = reasons(before)
    reason = f"version of engine: {graph.VERSION} -> {graph.VERSION + 1}"
    assert {why.of(task) for task in planned.tasks.values()} == {(reason,)}


@pytest.mark.parametrize("text", ["{", "[1]", "3", '"a"', "null"])
def test_damaged_origins_are_none(text: str) -> None:
    assert origins.read(text) == {}


def test_origins_are_read_as_they_were_written() -> None:
    whole = origins.origins(a_sweep(), NOW)
    assert origins.read(json.dumps(whole)) == whole
    assert origins.read(json.dumps({"a": {"b": "c"}, "d": 3})) == {"a": {"b": "c"}}


def test_the_nearest_has_most_parts_in_common() -> None:
    now = {"a": {"x": "1", "y": "2"}, "b": {"z": "3"}}
    others = {
        "one": {"a": {"x": "1"}, "c": {"p": "4", "q": "5", "r": "6"}},
        "two": {"a": {"x": "1", "y": "2"}},
        "none": {"a": {"x": "2", "y": "1"}},
    }
    assert origins.nearest(now, others) == "two"
    assert origins.nearest(now, {}) == ""

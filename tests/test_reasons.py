"""Why tasks are new: of plans written by hand, one added to the other, and of many at random."""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import replace
from typing import Any

import pytest

from harness.config.sweep import DatasetEntry, GeneratorEntry, MethodEntry, Sweep, labelled
from harness.planning.graph import Category, Code, Plan, PlanInputs, plan
from harness.planning.origins import origins
from harness.planning.reasons import LOST, Reasons
from harness.tasks.kinds import Predict
from tests.test_plan_bare import references

#: what a method's ``use`` stands for: class, and what it declares
KINDS: dict[str, dict[str, Any]] = {
    "near": {},
    "compared": {"personalized": True},
    "taught": {"auxiliary": True, "auxiliary_per_seed": True},
    "fitted": {"auxiliary": True, "auxiliary_per_shots": True},
    "whole": {"auxiliary": True, "auxiliary_per_shots": True, "auxiliary_per_seed": True},
}
SUPPORTS = {seed: references(f"s{seed}", 4) for seed in range(4)}
CUP = Category("data", "cup", "a cup", references("q", 5), SUPPORTS, "truth of cup")
OTHERS = {seed: references(f"o{seed}", 4) for seed in range(4)}
MUG = Category("data", "mug", "a mug", references("m", 3), OTHERS, "truth of mug")


def method(use: str, **changes: Any) -> MethodEntry:
    return MethodEntry(use=use, **changes)


class Planned:
    """A sweep, its inputs and its plan, from a few words about each.

    Parameters
    ----------
    methods : as in a sweep; a parameter ``power``, and the code's ``version``, are theirs
    sources : use of a plug-in -> version of its code
    spread : a parameter of the generator that ``generate`` alone reads
    changes : of the sweep
    """

    def __init__(
        self,
        methods: list[MethodEntry],
        categories: Collection[Category] = (CUP,),
        sources: dict[str, int] | None = None,
        spread: int = 1,
        auxiliary: str = "others",
        **changes: Any,
    ) -> None:
        sources = sources or {}
        values: dict[str, Any] = {
            "name": "x",
            "datasets": [DatasetEntry(use="data")],
            "methods": methods,
            "generators": {
                name: GeneratorEntry(use="blend", pool=5)
                for name in sorted({m.generator for m in methods if m.generator})
            },
            "shots": [1],
            "seeds": [0],
            "shard": 2,
        }
        self.sweep: Sweep = labelled(Sweep(**values | changes))
        codes = []
        for entry in methods:
            parts = {"class": entry.use, "source a.py": str(sources.get(entry.use, 0))}
            values = {"power": 1} | entry.params
            parts |= {f"parameter {name}": str(value) for name, value in values.items()}
            codes.append(Code(str(sorted(parts.items())), parts={"": parts}, **KINDS[entry.use]))
        state, spreads = (
            {"class": "Blend", "source b.py": str(sources.get("blend", 0))},
            str(spread),
        )
        blend = Code(
            f"{state} {spreads}",
            state=str(state),
            generate=f"{state} {spreads}",
            personalize=str(state),
            parts={"": state, "generate": {"parameter spread": spreads}},
            prior=True,
        )
        self.inputs = PlanInputs(
            tuple(categories),
            tuple(codes),
            dict.fromkeys(self.sweep.generators, blend),
            {
                (str(entry.label), c.dataset, c.name): (
                    (f"without-{c.name}", f"all but {c.name}")
                    if entry.auxiliary
                    else (auxiliary, f"images of {auxiliary}")
                )
                for entry in self.sweep.methods
                for c in categories
                if KINDS[entry.use].get("auxiliary")
            },
            metrics="m",
            judges={"metrics": "m"},
        )

    @property
    def graph(self) -> Plan:
        return plan(self.sweep, self.inputs)


def why(before: Planned, after: Planned) -> dict[str, set[str]]:
    """Kind of the tasks that are new -> why, each as it is printed."""
    reasons = Reasons(after.sweep, after.inputs, origins(before.sweep, before.inputs))
    known = before.graph.tasks
    by_kind: dict[str, set[str]] = {}
    for key, task in after.graph.tasks.items():
        lines = reasons.of(task)
        assert bool(lines) == (key not in known), (task, lines)
        if lines:
            by_kind.setdefault(task.kind, set()).add("; ".join(lines))
    return by_kind


def all_of(reason: str | Collection[str], *kinds: str) -> dict[str, set[str]]:
    return {kind: {reason} if isinstance(reason, str) else set(reason) for kind in kinds}


CELL = ("predict", "evaluate")


def test_a_zero_shot_cell_that_is_added_was_not_planned() -> None:
    before = Planned([method("near", shots=[1]), method("near", label="b", shots=[1])])
    after = Planned([method("near", shots=[0, 1]), method("near", label="b", shots=[1])])
    assert why(before, after) == all_of("not planned before: 0 shots", *CELL)


def test_shots_that_another_method_had_are_told_with_their_method() -> None:
    params = {"power": 2}
    before = Planned([method("near"), method("near", label="b", params=params, shots=[2])])
    after = Planned([method("near"), method("near", label="b", params=params, shots=[1, 2])])
    assert why(before, after) == all_of("not planned before: 1 shot of b", *CELL)


def test_shots_that_an_equal_method_had_by_another_name_are_not_new() -> None:
    before = Planned([method("near", label="a"), method("near", label="b", shots=[2])])
    after = Planned([method("near", label="b", shots=[1, 2])])
    assert why(before, after) == {}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"seeds": [0, 3]}, "not planned before: seed 3"),
        ({"shots": [1, 2]}, "not planned before: 2 shots"),
        ({"shots": [1, 2], "seeds": [0, 3]}, None),
        ({"categories": (CUP, MUG)}, "not planned before: category data/mug"),
        ({"categories": (CUP, replace(MUG, dataset="new"))}, "not planned before: dataset new"),
        ({"sources": {"near": 1}}, "source a.py of method near changed"),
        ({"methods": [method("near"), method("compared")]}, "not planned before: method compared"),
        (
            {"methods": [method("near", params={"power": 3})]},
            "parameter power of method near: 1 -> 3",
        ),
        (
            {"methods": [method("near"), method("near", label="n3", params={"power": 3})]},
            "not planned before: method n3 (near but for parameter power: 1 -> 3)",
        ),
        ({"methods": [method("compared", label="near")]}, "class of method near: near -> compared"),
    ],
)
def test_what_a_sweep_gains_is_told(changes: dict[str, Any], reason: str | None) -> None:
    whole = {"methods": [method("near")]} | changes
    reasons = why(Planned([method("near")]), Planned(**whole))
    if reason is None:
        each = {"seed 3", "2 shots", "2 shots, seed 3"}
        assert reasons == all_of([f"not planned before: {what}" for what in each], *CELL)
    else:
        assert reasons == all_of(reason, *CELL)


def test_a_new_seed_of_changed_code_is_told_with_both() -> None:
    before = Planned([method("near")])
    after = Planned([method("near")], sources={"near": 1}, seeds=[0, 3])
    code = "source a.py of method near changed"
    assert why(before, after) == all_of([code, f"not planned before: seed 3; {code}"], *CELL)


def test_labels_that_change_places_are_no_reason() -> None:
    one, two = {"power": 1}, {"power": 2}
    before = Planned([method("near", label="a", params=one), method("near", label="b", params=two)])
    after = Planned(
        [method("near", label="a", params=two), method("near", label="b", params=one)], seeds=[0, 3]
    )
    assert why(before, after) == all_of("not planned before: seed 3", *CELL)


def test_a_dataset_by_another_label_is_the_same() -> None:
    before = Planned([method("near")])
    after = Planned([method("near")], (replace(CUP, dataset="renamed"),), seeds=[0, 3])
    assert why(before, after) == all_of("not planned before: seed 3", *CELL)


def test_classes_that_share_all_queries_are_others() -> None:
    """As those of a set that is split one against the rest."""
    digit = replace(CUP, name="eight", truth="others are normal", supports=OTHERS)
    before, after = Planned([method("near")]), Planned([method("near")], (CUP, digit))
    assert why(before, after) == all_of("not planned before: category data/eight", *CELL)


def test_an_objects_name_is_that_of_its_own_category() -> None:
    """Also beside another, or one that shows the same pictures by another name."""
    generated = GENERATED[1:]
    before = Planned(generated, (CUP, MUG))
    after = Planned(generated, (CUP, replace(MUG, object_name="a jar")))
    change = "object name of words of data/mug: a mug -> a jar"
    assert why(before, after) == all_of(change, "prepare", "customize", "generate", *CELL)
    twin = replace(CUP, dataset="twin", object_name="a vase")
    before = Planned(generated, (twin, CUP, replace(twin, dataset="third")))
    reasons = why(before, Planned(generated, (replace(CUP, object_name="a jar"),)))
    change = "object name of words of data/cup: a cup -> a jar"
    assert reasons == all_of(change, "prepare", "customize", "generate", *CELL)
    reasons = why(Planned(generated), Planned(generated, (CUP, MUG)))
    assert reasons["prepare"] == {"not planned before: category data/mug"}


def test_a_new_method_is_told_with_what_else_no_method_had() -> None:
    before = Planned([method("near")], seeds=[2])
    after = Planned([method("near"), method("taught", shots=[0, 1])], seeds=[2, 3])
    new = "not planned before: method taught"
    at_none, at_one = f"{new}, 0 shots", {new, f"{new}, seed 3"}
    assert why(before, after)["predict"] == {at_none, *at_one, "not planned before: seed 3"}


def test_queries_of_other_shards_are_no_reason() -> None:
    """Of four in shards of two one is another image; and with it in the same shard."""
    before = Planned([method("near")])
    queries = (replace(CUP.queries[0], key="other"), *CUP.queries[1:])
    after = Planned([method("near")], (replace(CUP, queries=queries),))
    reasons = Reasons(after.sweep, after.inputs, origins(before.sweep, before.inputs))
    tasks = [t for t in after.graph.tasks.values() if isinstance(t, Predict)]
    changed = ("images of queries of data/cup changed",)
    assert [reasons.of(task) for task in tasks] == [changed, (), ()]
    larger = Planned([method("near")], shard=3)
    assert why(before, larger) == all_of("shard of queries of data/cup: 2 -> 3", *CELL)
    assert why(larger, Planned([method("near")], shard=4)) == {}


GENERATED = [method("compared", generator="g"), method("near", generator="g", label="pooled")]
WORK = ("customize", "generate", "personalize", *CELL)


def test_a_generator_is_new_where_nothing_used_it_so() -> None:
    bare = Planned([method("near", label="pooled")])
    reasons = why(bare, Planned(GENERATED[1:]))
    generator = all_of("not planned before: generator g", "prepare", "customize", "generate")
    assert reasons == generator | all_of("generator of pooled: none -> g", *CELL)
    reasons = why(Planned(GENERATED[1:]), Planned(GENERATED))
    assert reasons == all_of("not planned before: method compared+g", "personalize", *CELL)
    reasons = why(Planned(GENERATED, shots=[0]), Planned(GENERATED, shots=[0, 2]))
    assert reasons == all_of("not planned before: 2 shots", "prepare", *WORK)
    own = [GENERATED[0], GENERATED[1].model_copy(update={"shots": [1, 2]})]
    reasons = why(Planned(GENERATED), Planned(own))
    assert reasons == all_of("not planned before: 2 shots", "customize", "generate", *CELL)
    reasons = why(Planned(own), Planned(GENERATED, shots=[1, 2]))
    assert reasons == all_of("not planned before: 2 shots of compared+g", "personalize", *CELL)


def test_a_generators_changes_are_told_where_they_count() -> None:
    spread = "parameter spread of generator g (generate): 1 -> 2"
    reasons = why(Planned(GENERATED), Planned(GENERATED, spread=2))
    assert reasons == all_of(spread, "generate", *CELL)
    code = "source b.py of generator g changed"
    reasons = why(Planned(GENERATED), Planned(GENERATED, sources={"blend": 1}))
    assert reasons == all_of(code, "prepare", *WORK)
    renamed = [m.model_copy(update={"generator": "h"}) for m in GENERATED]
    assert why(Planned(GENERATED), Planned(renamed)) == {}
    reasons = why(Planned(GENERATED), Planned(renamed, spread=2))
    generate = "not planned before: generator h (g but for parameter spread (generate): 1 -> 2)"
    other = {f"generator of {label}: g -> h" for label in ("compared+h", "pooled")}
    assert reasons == {"generate": {generate}, **all_of(other, *CELL)}


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        ({}, {"seeds": [0, 1]}, "not planned before: seed 1"),
        (
            {"shots": [0], "seeds": [1]},
            {"shots": [0, 2], "seeds": [1]},
            "not planned before: 2 shots",
        ),
        (
            {"shots": [2], "seeds": [1]},
            {"shots": [0, 2], "seeds": [1]},
            "not planned before: 0 shots",
        ),
        ({"shots": [0]}, {"shots": [0], "seeds": [0, 1]}, None),
        ({"shots": [0, 2], "seeds": [1]}, {"shots": [0, 2], "seeds": [1]}, None),
        ({"shots": [0, 2]}, {"shots": [0, 2], "seeds": [0, 1]}, "not planned before: seed 1"),
        ({}, {"auxiliary": "more"}, "auxiliary data of taught for data/cup: others -> more"),
    ],
)
def test_trainings_per_seed(
    before: dict[str, Any], after: dict[str, Any], reason: str | None
) -> None:
    taught = [method("taught")]
    reasons = why(Planned(taught, **before), Planned(taught, **after))
    assert reasons == (all_of(reason, "train", *CELL) if reason else {})


def test_trainings_once_or_per_seed() -> None:
    once = [method("taught", training="once")]
    reasons = why(Planned([method("taught")]), Planned(once))
    assert reasons == all_of("training of taught: per-seed -> once", "train", *CELL)
    reasons = why(Planned(once), Planned([method("taught")], seeds=[0, 1]))
    both = "training of taught: once -> per-seed"
    assert reasons["train"] == {both}
    assert reasons["predict"] == {both, f"not planned before: seed 1; {both}"}
    reasons = why(Planned([method("fitted")]), Planned([method("fitted")], shots=[1, 2]))
    assert reasons == all_of("not planned before: 2 shots", "train", *CELL)


def test_auxiliary_data_of_their_own() -> None:
    others = [method("taught")]
    own = [method("taught", auxiliary="leave-one-out")]
    data = "auxiliary data of taught for data/cup: others -> without-cup"
    assert why(Planned(others), Planned(own)) == all_of(data, "train", *CELL)
    reasons = why(Planned(own), Planned(own, (CUP, MUG)))
    assert reasons.pop("train") == {"not planned before: auxiliary data without-mug"}
    assert reasons == all_of("not planned before: category data/mug", *CELL)
    before = Planned(others)
    after = Planned(others)
    key = ("taught", "data", "cup")
    after.inputs = replace(after.inputs, auxiliary={key: ("others", "other images")})
    assert why(before, after) == all_of("images of auxiliary data others changed", "train", *CELL)


def test_a_table_counts_tasks_by_reason_most_first() -> None:
    before, after = Planned([method("near")], seeds=[0]), Planned([method("near")], seeds=[0, 1])
    reasons = Reasons(after.sweep, after.inputs, origins(before.sweep, before.inputs))
    tasks = [(k, t.seed) for k, t in after.graph.tasks.items() if isinstance(t, Predict)]
    one = next(key for key, seed in tasks if seed == 0)
    todo = {one, *(key for key, seed in tasks if seed == 1)}
    assert reasons.table(after.graph, todo).splitlines() == [
        "predict             3  not planned before: seed 1",
        f"predict             1  {LOST}",
    ]
    assert reasons.table(after.graph, set()) == ""


def drawn(rng: random.Random) -> Planned:
    """Any of many small sweeps."""
    entries = []
    for label in rng.sample(["a", "b", "c"], rng.randint(1, 3)):
        use = rng.choice([*KINDS])
        entries.append(
            method(
                use,
                label=label,
                params={"power": rng.choice([1, 1, 2])},
                shots=rng.choice([None, None, [0], [1], [0, 2]]),
                generator=rng.choice([None, "g", "h"]),
                auxiliary=rng.choice([None, "leave-one-out"]) if "aux" in str(KINDS[use]) else None,
                training=rng.choice(["per-seed", "once"]),
            )
        )
    categories = rng.sample([CUP, MUG, replace(CUP, dataset="twin")], rng.randint(1, 2))
    categories = [
        replace(c, truth=c.truth + rng.choice(["", "", " mended"]), masked=rng.random() < 0.2)
        if rng.random() < 0.5
        else c
        for c in categories
    ]
    return Planned(
        entries,
        categories,
        {use: rng.choice([0, 0, 0, 1]) for use in [*KINDS, "blend"]},
        rng.choice([1, 1, 2]),
        rng.choice(["others", "others", "more"]),
        shots=rng.choice([[1], [0, 1], [2], [1, 2]]),
        seeds=rng.choice([[0], [1], [0, 1]]),
        shard=rng.choice([2, 2, 3]),
    )


@pytest.mark.parametrize("number", range(300))
def test_a_task_has_a_reason_if_and_only_if_its_key_is_new(number: int) -> None:
    rng = random.Random(number)
    reasons = why(drawn(rng), drawn(rng))
    assert all("None" not in line and "?" not in line for each in reasons.values() for line in each)

"""The graph of inputs that are written by hand: no dataset, no plug-in, no file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import pytest

from harness import plugins
from harness.config.sweep import DatasetEntry, GeneratorEntry, MethodEntry, Sweep, labelled
from harness.errors import InputError
from harness.interface import Sample
from harness.keys import Cell, hashed
from harness.planning import payload
from harness.planning.graph import (
    Category,
    Code,
    Plan,
    PlanInputs,
    Reference,
    draw_support,
    plan,
    shard_queries,
)
from harness.planning.inputs import SweepInputs
from harness.planning.payload import Payloads
from harness.tasks.kinds import Customize, Evaluate, Personalize, Predict, Prepare, Train
from harness.tasks.references import AuxiliaryUse, CodeUse, DatasetUse


def references(name: str, count: int) -> tuple[Reference, ...]:
    """Images whose keys are in the opposite order of their names."""
    return tuple(Reference(Sample(f"{name}/{i}"), f"{name}{count - i}") for i in range(count))


CATEGORY = Category(
    "data", "cup", "a cup", references("q", 5), {0: references("s", 2), 1: references("t", 2)}, "t"
)
#: one that compares to generated images, one that learns per seed and shots, and one of neither
CODES = (
    Code("compares", personalized=True, gpus=0.5),
    Code("learns", auxiliary=True, auxiliary_per_shots=True, auxiliary_per_seed=True),
    Code("predicts"),
)
ENTRIES = [
    MethodEntry(use="compared", generator="blend"),
    MethodEntry(use="taught"),
    MethodEntry(use="near", label="first"),
]
INPUTS = PlanInputs(
    (CATEGORY,),
    CODES,
    {"blend": Code("blends", "state", "generate", "personalize", prior=True)},
    {("taught", "data", "cup"): ("others", "digest")},
)


def a_sweep(**changes: Any) -> Sweep:
    values: dict[str, Any] = {
        "name": "bare",
        "datasets": [DatasetEntry(use="data", params={"side": 3})],
        "methods": ENTRIES,
        "generators": {"blend": GeneratorEntry(use="b", pool=5)},
        "shots": [0, 1, 2],
        "seeds": [0, 1],
        "shard": 2,
    }
    return labelled(Sweep(**values | changes))


def planned(only: Mapping[str, Collection[str]] | None = None, **changes: Any) -> Plan:
    return plan(a_sweep(**changes), INPUTS, only)


def test_plug_ins_ask_for_no_gpu_nor_training_unless_they_say_so() -> None:
    asking = {t.method: t.gpus for t in planned().tasks.values() if isinstance(t, Predict)}
    assert asking == {0: 0.5, 1: 0.0, 2: 0.0}
    plain = plan(
        a_sweep(methods=[ENTRIES[0]], generators={"blend": GeneratorEntry(use="b")}),
        replace(INPUTS, methods=(Code("plain"),), generators={"blend": Code("b")}),
    )
    kinds = {task.kind for task in plain.tasks.values()}
    assert kinds == {"customize", "generate", "predict", "evaluate"}
    assert not CATEGORY.masked


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ({}, ""),
        ({"dataset": "d"}, "d/: "),
        ({"category": "c"}, "/c: "),
        ({"dataset": "d", "category": "c"}, "d/c: "),
    ],
)
def test_too_few_images_say_of_what(where: dict[str, str], words: str) -> None:
    few = [Sample("a"), Sample("b")]
    with pytest.raises(ValueError, match="normal training images") as caught:
        draw_support(few, 3, 0, **where)
    left = "3 shots asked for, but 2 normal training images can be drawn"
    assert str(caught.value) == words + left
    others: list[dict[str, Any]] = [{"reject": {"a"}}, {"identity": {"a": "same", "b": "same"}}]
    for of_others in others:
        with pytest.raises(ValueError, match=r"but 1 .* \(2 in all, the others are duplicates"):
            draw_support(few, 3, 0, **where, **of_others)


def test_a_support_is_of_seed_zero_unless_a_sweep_has_its_own() -> None:
    many = [Sample(f"{i}") for i in range(50)]
    assert draw_support(many, 9, 3) == draw_support(many, 9, 3, base=0)
    assert draw_support(many, 9, 3) != draw_support(many, 9, 3, base=1)


def test_the_first_unknown_value_of_only_in_order_is_told() -> None:
    unknown = [f"{letter}x" for letter in "tqhnbvzkfwcm"]
    with pytest.raises(InputError, match="no category 'bx'"):
        planned({"category": unknown})


def test_only_lets_through_what_all_its_keys_allow() -> None:
    graph = planned({"method": ["first", "taught"], "shots": ["1"], "seed": ["1"]})
    assert set(graph.cells) == {Cell(m, "data", "cup", 1, 1) for m in ("first", "taught")}
    assert len(planned().cells) == len(planned({}).cells) == 3 * 3 * 2


def test_a_methods_own_shots_replace_the_sweeps() -> None:
    methods = [*ENTRIES[:2], MethodEntry(use="near", shots=[2])]
    counts = Counter((cell.method, cell.shots) for cell in planned(methods=methods).cells)
    assert {shots for method, shots in counts if method == "near"} == {2}
    assert {shots for method, shots in counts if method == "taught"} == {0, 1, 2}


def test_what_is_of_no_support_has_the_seed_zero() -> None:
    """Trainings and predictions without a support are those of seed 0, whatever is asked for."""
    graph = planned(shots=[0], seeds=[1])
    of_seeds = {type(t): t.seed for t in graph.tasks.values() if isinstance(t, (Train, Predict))}
    assert of_seeds == {Train: 0, Predict: 0}
    assert set(graph.tasks) == set(planned(shots=[0], seeds=[0]).tasks)
    assert not any(isinstance(task, (Prepare, Customize)) for task in graph.tasks.values())
    generated = {t.generated for t in graph.tasks.values() if isinstance(t, (Predict, Evaluate))}
    assert generated == {0}


def test_trainings_are_as_many_as_a_method_says() -> None:
    def trainings(training: str = "per-seed", **declared: bool) -> set[Any]:
        inputs = replace(INPUTS, methods=(Code("learns", auxiliary=True, **declared),))
        method = MethodEntry(use="taught", training=training)
        graph = plan(a_sweep(methods=[method], shots=[1, 2]), inputs)
        return {(t.shots, t.seed) for t in graph.tasks.values() if isinstance(t, Train)}

    assert trainings() == {(None, None)}
    assert trainings(auxiliary_per_shots=True) == {(1, None), (2, None)}
    assert trainings(auxiliary_per_seed=True) == {(None, 0), (None, 1)}
    assert trainings("once", auxiliary_per_seed=True) == {(None, None)}


def test_tasks_need_what_they_read_and_nothing_else() -> None:
    graph = planned(shots=[1], seeds=[0])
    needs = {
        (task.kind, getattr(task, "method", None)): {graph.tasks[n].kind for n in task.needs}
        for task in graph.tasks.values()
    }
    assert needs == {
        ("prepare", None): set(),
        ("customize", None): {"prepare"},
        ("generate", None): {"customize"},
        ("personalize", None): {"customize"},
        ("train", 1): set(),
        ("predict", 0): {"customize", "generate", "personalize"},
        ("predict", 1): {"train"},
        ("predict", 2): set(),
        ("evaluate", 0): {"predict"},
        ("evaluate", 1): {"predict"},
        ("evaluate", 2): {"predict"},
    }
    evaluations = [task for task in graph.tasks.values() if isinstance(task, Evaluate)]
    assert {len(task.predictions) for task in evaluations} == {3}  # 5 queries in shards of 2
    draws = {t.draw for t in graph.tasks.values() if isinstance(t, (Customize, Personalize))}
    assert len(draws) == 1, "they draw by their support alone"


def test_shards_are_equal_and_in_the_order_of_keys() -> None:
    parts = shard_queries(CATEGORY, 2)
    assert [len(part) for part in parts] == [2, 1, 2]
    assert [r.key for part in parts for r in part] == ["q4", "q5", "q3", "q1", "q2"]


def payloads(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> tuple[Payloads, Plan]:
    """With an import of each kind in the code of plug-ins."""
    code = plugins.Source({}, frozenset({"timm", "torch", "peft", "numpy", "diffusers"}), "bytes")
    monkeypatch.setattr(payload.plugins, "find", lambda role, use: type)
    monkeypatch.setattr(payload.plugins, "source", lambda cls: code)
    sweep = a_sweep(**changes)
    graph = plan(sweep, INPUTS)
    return Payloads(sweep, SweepInputs(INPUTS, {}, {}, [], []), graph), graph


def test_tasks_are_named_by_all_they_have_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    context, graph = payloads(monkeypatch, shots=[0, 1], seeds=[1])
    for task in graph.tasks.values():
        names = context.names(task)
        assert (names.pop("key"), names.pop("kind")) == (task.key, task.kind)
        del names["affinity"]
        of_support = {"dataset": "data", "category": "cup"}
        if isinstance(task, Prepare):
            assert names == {"generator": "blend"}
        if isinstance(task, Train):
            seed = 1 if task.shots else 0
            assert names == {"method": "taught", "shots": task.shots, "seed": seed}
        if isinstance(task, Customize):
            assert names == of_support | {"generator": "blend", "shots": 1, "seed": 1}
        if isinstance(task, Predict) and task.shots:
            label = ("compared+blend", "taught", "first")[task.method]
            generator = {} if task.method else {"generator": "blend"}
            numbers = {"shots": 1, "seed": 1, "shard": task.shard}
            assert names == of_support | generator | numbers | {"method": label}
        if isinstance(task, Evaluate) and not task.shots:
            label = ("compared+blend", "taught", "first")[task.method]
            assert names == of_support | {"method": label, "shots": 0, "seed": 0}


def test_cells_of_a_result_are_all_that_share_it(monkeypatch: pytest.MonkeyPatch) -> None:
    context, graph = payloads(monkeypatch, shots=[0], seeds=[0, 1])
    for cell, key in graph.cells.items():
        assert context.cells_of(key) == [cell._replace(seed=seed) for seed in (0, 1)]
    assert context.cells_of("none") == []
    key = graph.cells[Cell("first", "data", "cup", 0, 0)]
    places = tuple(f"bare/{{}}/first/data/cup/k0_s{seed}" for seed in (0, 1))
    assert context.places(key) == places


def test_supports_are_what_was_drawn_with_a_seed_of_the_sweep(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    context, _ = payloads(monkeypatch)
    assert [i.image for i in context.support(0, 1, 1).images] == ["t/0"]
    assert context.support(0, 0, 1).images == ()
    assert [context.support(0, 2, seed).seed for seed in (0, 1)] == [0, 1]
    assert context.support(0, 2, 0).dataset.params == {"side": 3}
    other, _ = payloads(monkeypatch, seed=7)
    # eight hexadecimal digits: numpy and torch take seeds below 2 ** 32
    drawn = [other.support(0, 2, seed).seed for seed in (0, 1)]
    assert [f"{seed:08x}" for seed in drawn] == [hashed(7, seed)[:8] for seed in (0, 1)]


def test_heavy_imports_are_listed_in_order_and_light_ones_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    context, _ = payloads(monkeypatch)
    assert context.method(0).imports == ("diffusers", "peft", "timm", "torch")
    assert context.generator("blend").id == "blends"


def test_code_is_looked_at_once_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Later it may be edited, or gone: what payloads say of it is what was planned."""
    sweep = a_sweep()
    extra = AuxiliaryUse("id", DatasetUse("extra", {"side": 2}), ("c",), {}, "held")
    inputs = SweepInputs(INPUTS, {"others": extra}, {}, [], [])
    context = Payloads(sweep, inputs, plan(sweep, INPUTS))
    looked: list[tuple[str, str]] = []
    code = plugins.Source({"a.py": "says"}, frozenset(), "bytes")

    def find(role: str, use: str) -> type:
        looked.append((role, use))
        return type

    monkeypatch.setattr(payload.plugins, "find", find)
    monkeypatch.setattr(payload.plugins, "source", lambda cls: code)
    context.look()
    methods = [("method", use) for use in ("compared", "taught", "near")]
    assert sorted(looked) == sorted(
        [*methods, ("generator", "b"), ("dataset", "data"), ("dataset", "extra")]
    )
    looked.clear()
    planned = CodeUse(code.digest, ("a.py",), "bytes")
    assert [context.method(i).code for i in range(3)] == [planned] * 3
    assert context.generator("blend").code == planned
    assert context.dataset(0) == DatasetUse("data", {"side": 3}, planned)
    assert context.auxiliary("others").dataset == DatasetUse("extra", {"side": 2}, planned)
    assert context.auxiliary("others").held_out == "held"
    assert looked == []

"""The graph: supports, shards, and which change re-runs which tasks."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import config
from harness.data.contents import Stamps
from harness.interface import Sample
from harness.planning import inputs, listing
from harness.planning.graph import Plan, draw_support, plan, shard_queries, shards
from harness.tasks.kinds import KINDS
from tests.sweeps import NEAR, SQUARES, sweep, written

pytestmark = pytest.mark.usefixtures("toys")


def samples(n: int) -> list[Sample]:
    return [Sample(f"{i:04}") for i in range(n)]


draws = st.tuples(st.integers(0, 60), st.integers(0, 50), st.integers(0, 2**31))


@given(draws, st.integers(0, 10), st.sets(st.integers(0, 59)))
def test_supports_are_nested_distinct_and_never_a_rejected_image(
    case: tuple[int, int, int], base: int, rejected: set[int]
) -> None:
    n, shots, seed = case
    reject = {f"{i:04}" for i in rejected}
    left = {s.name for s in samples(n)} - reject
    if shots > len(left):
        with pytest.raises(ValueError, match=f"{shots} shots asked for, but {len(left)} normal"):
            draw_support(samples(n), shots, seed, base=base, reject=reject)
        return
    drawn = [s.name for s in draw_support(samples(n), shots, seed, base=base, reject=reject)]
    assert len(set(drawn)) == shots
    assert set(drawn) <= left
    for k in range(shots):
        fewer = draw_support(samples(n), k, seed, base=base, reject=reject)
        assert [s.name for s in fewer] == drawn[:k]


@given(st.integers(2, 40), st.integers(0, 1000))
def test_of_equal_images_one_is_drawn(n: int, seed: int) -> None:
    identity = {f"{i:04}": f"{i // 2}" for i in range(n)}
    most = len(set(identity.values()))
    drawn = draw_support(samples(n), most, seed, identity=identity)
    assert len({identity[s.name] for s in drawn}) == most
    with pytest.raises(ValueError, match="the others are duplicates"):
        draw_support(samples(n), most + 1, seed, identity=identity)


def test_draws_differ_by_seed_category_dataset_and_sweep() -> None:
    def of(**changes: Any) -> tuple[str, ...]:
        arguments = {"seed": 0, "dataset": "d", "category": "c", "base": 0} | changes
        return tuple(s.name for s in draw_support(samples(500), 8, **arguments))

    draws = {
        of(),
        of(seed=1),
        of(category="e"),
        of(dataset="e"),
        of(base=1),
        of(dataset="c", category="d"),
    }
    assert len(draws) == 6


def test_every_image_is_drawn_equally_often() -> None:
    counts: dict[str, int] = defaultdict(int)
    for seed in range(2000):
        for s in draw_support(samples(10), 3, seed):
            counts[s.name] += 1
    assert len(counts) == 10
    assert max(abs(c - 600) for c in counts.values()) < 5 * 20.5  # five standard deviations


@given(st.integers(0, 500), st.integers(1, 120))
def test_shards_cover_everything_once_and_evenly(n: int, most: int) -> None:
    parts = shards(n, most)
    assert [i for part in parts for i in range(n)[part]] == list(range(n))
    sizes = [part.stop - part.start for part in parts]
    assert len(parts) == -(-n // most)
    assert all(0 < size <= most for size in sizes)
    assert max(sizes, default=0) - min(sizes, default=0) <= 1


GENERATED = [
    {"use": NEAR},
    {"use": NEAR, "label": "same"},
    {"use": "toys.methods:Taught"},
    {"use": "toys.methods:TaughtPerShots"},
    {"use": "toys.methods:Taught", "label": "others", "auxiliary": "leave-one-out"},
    {"use": "toys.methods:Pooled", "generator": "blend"},
    {"use": "toys.methods:Compared", "generator": "blend"},
]
BLEND = {"use": "toys.generators:Blend", "pool": 6}


def everything(**changes: Any) -> dict[str, Any]:
    """A sweep with tasks of all kinds."""
    config = sweep(
        datasets=[{"use": SQUARES, "params": {"masks": True}}],
        auxiliary=[{"use": "folder", "params": {"root": "AUX"}}],
        methods=GENERATED,
        generators={"blend": BLEND},
        shots=[1, 2],
        seeds=[0, 1],
        shard=4,
    )
    return {k: v for k, v in (config | changes).items() if v is not None}


@pytest.fixture
def planned(tmp_path: Path) -> Callable[..., Plan]:
    from PIL import Image as Picture

    for name in ("train/good/0", "train/good/1", "test/good/0", "test/bad/0"):
        path = tmp_path / "AUX" / "thing" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Picture.new("RGB", (8, 8), (len(name), 3, 7)).save(path)

    def go(sweep_config: dict[str, Any]) -> Plan:
        path = written(tmp_path / "conf.yaml", sweep_config)
        loaded = config.load(path)
        return plan(loaded, inputs.collect_inputs(loaded, path, str(tmp_path)).plan_inputs)

    return go


def keys(graph: Plan) -> dict[str, set[str]]:
    by_kind: dict[str, set[str]] = {kind: set() for kind in KINDS}
    for key, task in graph.tasks.items():
        assert key == task.key
        by_kind[task.kind].add(key)
    return by_kind


def test_tasks_come_after_their_needs_and_every_kind_is_there(
    planned: Callable[..., Plan],
) -> None:
    graph = planned(everything())
    seen: set[str] = set()
    for key, task in graph.tasks.items():
        assert set(task.needs) <= seen
        seen.add(key)
    count = {kind: len(of_kind) for kind, of_kind in keys(graph).items()}
    # 2 categories, 2 shots, 2 seeds, 7 methods of which 2 are the same, 10 queries in shards of 4.
    assert count == {
        # for each seed: one on the folder, one for each shots on it, one for each category
        "train": 2 * (1 + 2 + 2),
        "prepare": 2,
        "customize": 8,
        "generate": 8,
        "personalize": 8 * 3,
        "predict": 6 * 8 * 3,
        "evaluate": 6 * 8,
    }
    assert len(graph.cells) == 7 * 8
    assert len(set(graph.cells.values())) == 6 * 8, "methods that differ by label share results"


#: what is changed -> the kinds whose keys change, all of them; the others keep all
CHANGES: dict[str, tuple[dict[str, Any], set[str]]] = {
    "nothing": ({}, set()),
    "description": ({"description": "x"}, set()),
    "name": ({"name": "other"}, set()),
    "limits": ({"time_limit": 9, "attempts": 5}, set()),
    "size of evaluation": ({"evaluation_size": 64}, {"evaluate"}),
    "sweep seed": (
        {"seed": 1},
        set(KINDS),
    ),
    "maps": ({"maps": False}, {"predict", "evaluate"}),
    "shards": ({"shard": 5}, {"personalize", "predict", "evaluate"}),
    "pixels of the tested data": (
        {"datasets": [{"use": SQUARES, "params": {"masks": True, "shift": 1}}]},
        {"customize", "generate", "personalize", "predict", "evaluate"},
    ),
    "words": (
        {
            "datasets": [
                {
                    "use": SQUARES,
                    "params": {"masks": True},
                    "object_names": {"ant": "emmet", "bee": "bumble"},
                }
            ]
        },
        {"prepare", "customize", "generate", "personalize", "predict", "evaluate"},
    ),
    "parameter of the generator": (
        {"generators": {"blend": {"use": "toys.generators:Blend", "params": {"fails": "-"}}}},
        {"prepare", "customize", "generate", "personalize"},
    ),
    "parameter that personalizing alone reads": (
        {"generators": {"blend": BLEND | {"params": {"share": 0.4}}}},
        {"personalize"},
    ),
    "parameter that generating alone reads": (
        {"generators": {"blend": BLEND | {"params": {"spread": 3.0}}}},
        {"generate"},
    ),
    "parameter that both read": (
        {"generators": {"blend": BLEND | {"params": {"light": 1.5}}}},
        {"generate", "personalize"},
    ),
    "training once": (
        {"methods": [m | {"training": "once"} for m in GENERATED]},
        {"train"},
    ),
}
#: kinds of which some keys are allowed to change and others to stay
MIXED = {
    "pixels of the tested data": {"train"},
    "words": {"train"},
    "parameter of the generator": {"predict", "evaluate"},
    "parameter that personalizing alone reads": {"predict", "evaluate"},
    "parameter that generating alone reads": {"predict", "evaluate"},
    "parameter that both read": {"predict", "evaluate"},
    "training once": {"predict", "evaluate"},
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_re_runs_exactly_what_it_concerns(planned: Callable[..., Plan], what: str) -> None:
    changes, expected = CHANGES[what]
    before, after = keys(planned(everything())), keys(planned(everything(**changes)))
    for kind in KINDS:
        common = before[kind] & after[kind]
        if kind in expected:
            assert not common, f"{kind} ignores a change of {what}"
        elif kind in MIXED.get(what, ()):
            assert common != before[kind]
            assert common, f"all {kind} change with {what}"
        else:
            assert after[kind] == before[kind], f"{kind} depends on {what}"


def test_more_shots_seeds_methods_or_categories_keep_every_key(
    planned: Callable[..., Plan],
) -> None:
    small = planned(everything(methods=GENERATED[:3] + GENERATED[5:], shots=[1], seeds=[0]))
    large = planned(everything(shots=[1, 2, 3], seeds=[0, 1, 2]))
    assert set(small.tasks) <= set(large.tasks)
    one = [{"use": SQUARES, "params": {"masks": True}, "categories": ["bee"]}]
    methods = [m for m in GENERATED if "auxiliary" not in m]
    assert set(planned(everything(datasets=one, methods=methods)).tasks) <= set(large.tasks)


def test_the_order_of_the_config_is_no_matter(planned: Callable[..., Plan]) -> None:
    first = planned(everything())
    data = [{"use": SQUARES, "params": {"masks": True}, "categories": ["bee", "ant"]}]
    back = everything(datasets=data, methods=GENERATED[::-1], shots=[2, 1], seeds=[1, 0])
    again = planned(back)
    assert dict(again.cells) == dict(first.cells)
    assert set(again.tasks) == set(first.tasks)


def test_training_is_per_seed_or_once_for_all(planned: Callable[..., Plan]) -> None:
    def seeds_of_states(**method: Any) -> dict[str, set[int]]:
        """State that predictions rest on -> seeds of the cells that do."""
        taught = {"use": "toys.methods:Taught", **method}
        graph = planned(everything(methods=[taught], shots=[1], seeds=[0, 1, 2]))
        seeds_of: dict[str, set[int]] = defaultdict(set)
        for cell, key in graph.cells.items():
            for predict in graph.tasks[key].needs:
                (train,) = graph.tasks[predict].needs
                seeds_of[train].add(cell.seed)
        return seeds_of

    assert list(seeds_of_states().values()) == [{0}, {1}, {2}]
    assert list(seeds_of_states(training="once").values()) == [{0, 1, 2}]
    # One that declares that its training draws nothing is trained once in any case.
    assert list(seeds_of_states(params={"random": False}).values()) == [{0, 1, 2}]


def test_zero_shot_is_one_result_for_all_seeds(planned: Callable[..., Plan]) -> None:
    graph = planned(sweep(shots=[0], seeds=[0, 1, 2]))
    assert len(graph.cells) == 6
    assert len(set(graph.cells.values())) == 2


def test_only_some_cells(tmp_path: Path, planned: Callable[..., Plan]) -> None:
    path = written(tmp_path / "conf.yaml", everything())
    loaded = config.load(path)
    plan_inputs = inputs.collect_inputs(loaded, path, str(tmp_path)).plan_inputs
    some = plan(loaded, plan_inputs, {"shots": {"2"}, "category": {"bee"}})
    whole = plan(loaded, plan_inputs)
    assert {(c.shots, c.category) for c in some.cells} == {(2, "bee")}
    assert dict(some.cells).items() <= dict(whole.cells).items()
    assert set(some.tasks) < set(whole.tasks)


def test_queries_are_in_an_order_that_says_nothing_of_labels(tmp_path: Path) -> None:
    data = [{"use": SQUARES, "params": {"queries": 400}}]
    path = written(tmp_path / "conf.yaml", sweep(datasets=data, shard=50))
    loaded = config.load(path)
    plan_inputs = inputs.collect_inputs(loaded, path, None).plan_inputs
    for category in plan_inputs.categories:
        labels = [r.sample.label for part in shard_queries(category, 50) for r in part]
        assert sum(labels) == 200
        runs = sum(a != b for a, b in itertools.pairwise(labels)) + 1
        assert abs(runs - 201) < 50, "five standard deviations from a random order"
        for part in shard_queries(category, 50):
            assert 10 < sum(r.sample.label for r in part) < 40, "labels are spread over shards"


def test_keys_say_nothing_of_labels(tmp_path: Path) -> None:
    """Same data with the labels turned round: the same images have the same keys."""
    path = written(tmp_path / "conf.yaml", sweep())
    loaded = config.load(path)
    for category in inputs.collect_inputs(loaded, path, None).plan_inputs.categories:
        for r in category.queries:
            assert len(r.key) == 32
            assert set(r.key) <= set("0123456789abcdef")
            turned = Sample(r.sample.image, 1 - r.sample.label, defect="other")
            entry = loaded.datasets[0]
            stamps = Stamps(listing.open_entry(entry, None, ""))
            identity = listing.identity_of(entry, stamps)
            assert listing.key_of(stamps, identity, turned) == r.key


@settings(max_examples=5, deadline=None)
@given(st.permutations(["ant", "bee", "cat"]))
def test_supports_do_not_depend_on_other_categories(order: list[str]) -> None:
    drawn = [draw_support(samples(30), 4, 0, dataset="d", category=c) for c in order]
    by_name = dict(zip(order, drawn, strict=True))
    assert by_name["bee"] == draw_support(samples(30), 4, 0, dataset="d", category="bee")


def test_the_pools_size_is_in_its_key_and_in_no_other_of_the_generator(
    planned: Callable[..., Plan],
) -> None:
    """Also where the support fills the pool, so that nothing is generated."""

    def of(pool: int) -> dict[str, set[str]]:
        blend = {"blend": BLEND | {"pool": pool}}
        return keys(planned(everything(methods=GENERATED[-2:], generators=blend, shots=[2])))

    none, one, more = of(2), of(3), of(4)
    for kind in ("customize", "personalize"):
        assert none[kind] == one[kind] == more[kind]
        assert none[kind]
    assert len(none["generate"]) == len(one["generate"]) == len(more["generate"])
    assert not none["generate"] & one["generate"]
    assert not one["generate"] & more["generate"]


def test_draws_know_seeds_and_images_but_no_code_or_parameter(
    planned: Callable[..., Plan],
) -> None:
    def draws(**changes: Any) -> tuple[dict[str, set[str]], set[str]]:
        graph, by_kind = planned(everything(**changes)), defaultdict(set)
        for task in graph.tasks.values():
            by_kind[task.kind] |= {task.draw, getattr(task, "draw_queries", task.draw)}
        del by_kind["evaluate"]
        return dict(by_kind), set(graph.tasks)

    before, tasks = draws()
    methods = [entry | {"params": {"power": 3.0}} for entry in GENERATED]
    blend = BLEND | {"params": {"share": 0.4, "prior": True, "fails": "never"}}
    same, others = draws(methods=methods, generators={"blend": blend})
    assert same == before
    assert not tasks & others
    reseeded, _ = draws(seed=1)
    assert not set().union(*before.values()) & set().union(*reseeded.values())
    pixels, _ = draws(datasets=[{"use": SQUARES, "params": {"masks": True, "shift": 1}}])
    for kind in ("customize", "generate", "personalize", "predict"):
        assert not before[kind] & pixels[kind]

"""The cost table: terms, which entry counts, sums, and what it says of a broken one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness import config
from harness.config.sweep import Sweep
from harness.errors import InputError
from harness.planning import costs
from harness.planning.graph import Plan, PlanInputs, plan
from harness.tasks.kinds import KINDS, Predict
from harness.tasks.task import Task
from tests.sweeps import HOME, SQUARES, sweep, written

pytestmark = pytest.mark.usefixtures("toys")

BLEND = "toys.generators:Blend"


def table(**changes: Any) -> dict[str, Any]:
    flat = {kind: {"task": 1} for kind in KINDS}
    return {"hardware": "a fast one", "default": {"seconds": flat, "megabytes": flat}} | changes


@pytest.fixture
def planned(tmp_path: Path) -> Callable[..., tuple[Sweep, PlanInputs, Plan]]:
    def go(**changes: Any) -> tuple[Sweep, PlanInputs, Plan]:
        from harness.planning.inputs import collect_inputs

        methods = [{"use": "toys.methods:Near"}, {"use": "toys.methods:Compared", "generator": "g"}]
        defaults = sweep(
            datasets=[{"use": SQUARES, "params": {"queries": 10}}],
            methods=methods,
            generators={"g": {"use": BLEND, "pool": 7}},
            shots=[2],
            shard=4,
        )
        path = written(tmp_path / "c.yaml", defaults | changes)
        loaded = config.load(path)
        inputs = collect_inputs(loaded, path, None).plan_inputs
        return loaded, inputs, plan(loaded, inputs)

    return go


def generator_of(task: Task) -> str:
    """Name of the generator a task has to do with, "" without one."""
    generated = isinstance(task, Predict) and task.customized is not None
    return "g" if generated or (task.plugin or ("",))[0] == "generator" else ""


def estimator(
    path: Path, prices: dict[str, Any], loaded: Sweep, inputs: PlanInputs
) -> costs.Estimator:
    path.write_text(yaml.safe_dump(prices))
    values = costs.parameters(loaded)
    return costs.Estimator(costs.read(path), loaded, inputs.categories, values)


def test_terms_count_images_references_and_parameters(
    tmp_path: Path, planned: Callable[..., tuple[Sweep, PlanInputs, Plan]]
) -> None:
    loaded, inputs, graph = planned()
    entries = [
        {"use": "Blend", "kind": "generator", "when": {"share": 0.25}, "seconds": {}},
        {
            "use": "Blend",
            "kind": "generator",
            "when": {"share": 0.5},
            "seconds": {
                "generate": {"image": 10, "pool": 100},
                "customize": {"support * share": 6},
                "personalize": {"task": 3, "image * share": 2},
            },
        },
        {"use": "Near", "kind": "method", "seconds": {"predict": {"image * power": 1}}},
    ]
    estimate = estimator(tmp_path / "t.yaml", table(plugins=entries), loaded, inputs)
    seconds: dict[str, list[float]] = {}
    for task in graph.tasks.values():
        seconds.setdefault(f"{task.kind} {generator_of(task)}", []).append(estimate.seconds(task))
    assert set(seconds["generate g"]) == {10 * 5 + 100 * 7}  # 7 in all, of which 2 are references
    assert set(seconds["customize g"]) == {6 * 2 * 0.5}
    # 10 queries in shards of 3, 4 and 3 or so
    assert sum(seconds["personalize g"]) == pytest.approx(2 * (3 * 3 + 2 * 0.5 * 10))
    assert sum(seconds["predict "]) == pytest.approx(2 * 10 * 2.0)  # power is 2 by default
    assert set(seconds["predict g"]) == {1.0}  # not listed
    assert set(seconds["prepare g"]) == {1.0}


def test_stages_add_up_and_count_gpus_by_the_share_of_a_worker(
    tmp_path: Path, planned: Callable[..., tuple[Sweep, PlanInputs, Plan]]
) -> None:
    loaded, inputs, graph = planned()
    estimate = estimator(tmp_path / "t.yaml", table(), loaded, inputs)
    kinds = [task.kind for task in graph.tasks.values()]
    for stage in estimate.stages(graph, graph.tasks):
        assert stage.tasks == stage.seconds == stage.megabytes == kinds.count(stage.kind)
        assert stage.gpu_seconds == 0
    asking = {
        key: replace(task, gpus={"customize": 0.5, "personalize": 0.25}.get(task.kind, 0.0))
        for key, task in graph.tasks.items()
    }
    shared = Plan(asking, graph.cells)
    for stage in estimate.stages(shared, asking):
        held = 0.5 if stage.kind in ("customize", "personalize") else 0.0
        assert stage.gpu_seconds == held * stage.seconds
    assert estimate.stages(graph, []) == []
    text = costs.render(estimate.stages(graph, graph.tasks), [])
    count = len(kinds)
    assert text.splitlines()[-1].split() == ["together", str(count), "0", str(count), *["0.0"] * 3]


def test_what_the_table_lacks_costs_what_the_kind_says(
    tmp_path: Path, planned: Callable[..., tuple[Sweep, PlanInputs, Plan]]
) -> None:
    loaded, inputs, graph = planned()
    default = {"seconds": {"predict": {"task": 7}}, "megabytes": {"predict": {"task": 8}}}
    estimate = estimator(tmp_path / "t.yaml", table(default=default), loaded, inputs)
    for task in graph.tasks.values():
        expected = (7, 8) if task.kind == "predict" else (KINDS[task.kind].seconds, 0)
        assert (estimate.seconds(task), estimate.megabytes(task)) == expected


def test_a_term_that_is_nothing_is_named(
    tmp_path: Path, planned: Callable[..., tuple[Sweep, PlanInputs, Plan]]
) -> None:
    loaded, inputs, graph = planned()
    entry = {"use": "Near", "kind": "method", "seconds": {"predict": {"image * powr": 1}}}
    estimate = estimator(tmp_path / "t.yaml", table(plugins=[entry]), loaded, inputs)
    with pytest.raises(
        InputError, match=r"'powr' is neither a unit nor a numeric parameter.*power"
    ):
        estimate.stages(graph, graph.tasks)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"plugins": [{"use": "x", "kind": "methods"}]}, "plugins.0.kind"),
        ({"plugins": [{"use": "x", "kind": "method", "second": {}}]}, "plugins.0.second"),
        ({"plugins": [{"use": "x", "kind": "method", "seconds": {"fit": {}}}]}, "fit"),
        ({"default": {"seconds": {"evalute": {}}}}, "Did you mean 'evaluate'"),
    ],
)
def test_a_broken_table_is_told_where(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    path = tmp_path / "t.yaml"
    path.write_text(yaml.safe_dump(table(**change)))
    with pytest.raises(InputError, match=words):
        costs.read(path)
    with pytest.raises(InputError, match=r"nowhere\.yaml"):
        costs.read(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize("tune", ["full", "lora"])
def test_the_whole_reproduction_has_costs_of_its_own(tune: str) -> None:
    conf = HOME / "conf" / "full.yaml"
    loaded = config.load(conf, [f"generators.dreambooth.params.tune={tune}"])
    assert len(loaded.datasets) == 11
    assert (loaded.shots, len(loaded.seeds)) == ([2, 4, 8], 5)
    prices = costs.read()
    listed = {(e.kind, e.use) for e in prices.plugins}
    assert {("method", m.use) for m in loaded.methods} <= listed
    methods, generators = costs.parameters(loaded)
    dreambooth = costs._Costs(prices, "generator", "dreambooth", generators["dreambooth"])
    units = dict.fromkeys(costs.UNITS, 1.0)
    size = dreambooth.megabytes("customize")(units)
    # 859.5 million changes, or 3.19 million weights of the adapter, of two bytes
    assert size == pytest.approx(1719 if tune == "full" else 6.4, rel=0.1)
    for m, values in zip(loaded.methods, methods, strict=True):
        for kind in ("train", "predict"):
            assert costs._Costs(prices, "method", m.use, values).seconds(kind)(units) > 0

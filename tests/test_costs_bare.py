"""Costs and disk of a plan that is written by hand, by tables that are."""

from __future__ import annotations

import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path
from typing import Any

import pydantic
import pytest
import yaml

from harness.errors import InputError
from harness.planning import costs, disk
from harness.planning.costs import Default, Entry, Estimator, Stage, Table
from harness.planning.graph import Plan
from harness.tasks.kinds import KINDS, Customize, Predict
from tests.test_plan_bare import CATEGORY, a_sweep, planned

VALUES: tuple[list[dict[str, Any]], dict[str, dict[str, Any]]] = (
    [{"side": None, "mode": "fast"}, {"side": 4}, {}],
    {"blend": {"steps": 10}},
)


def estimator(
    *entries: Entry,
    masked: bool = False,
    seconds: Any = None,
    megabytes: Any = None,
    **changes: Any,
) -> Estimator:
    """Two categories, of which the second has twice the queries."""
    second = replace(CATEGORY, queries=CATEGORY.queries * 2)
    categories = [replace(each, masked=masked) for each in (CATEGORY, second)]
    default = Default(seconds=seconds or {}, megabytes=megabytes or {})
    table = Table(hardware="any", default=default, plugins=list(entries))
    return Estimator(table, a_sweep(**changes), categories, VALUES)


def predict(method: int = 0, **fields: Any) -> Predict:
    numbers = {"category": 0, "shots": 2, "seed": 0, "generated": 3, "shard": 0}
    names = {"key": "k", "affinity": "a", "support": "s", "draw_queries": "d"}
    return Predict(**{**names, **numbers, "method": method, **fields})


def customize(category: int, **fields: Any) -> Customize:
    numbers = {"category": category, "shots": 2, "seed": 0, "generated": 3}
    return Customize(key="k", affinity="a", generator="blend", prepared=None, **numbers, **fields)


def cells_of(text: str) -> dict[str, list[str]]:
    """The numbers of each line by its name."""
    return {line.split()[0]: line.split()[1:] for line in text.splitlines()[1:]}


def test_time_is_in_minutes_below_two_hours() -> None:
    stages = [Stage("predict", 5, 6600.0, 3300.0, 5_000_000.0), Stage("train", 2, 600.0, 0.0, 0.0)]
    minutes = costs.render(stages, [replace(stages[0], tasks=3)])
    assert "minutes  GPU-minutes" in minutes
    assert cells_of(minutes) == {
        "predict": ["5", "3", "2", "110.0", "55.0", "5000.0"],
        "train": ["2", "0", "2", "0.0", "0.0", "0.0"],
        "together": ["7", "3", "4", "110.0", "55.0", "5000.0"],
    }
    hours = costs.render(stages, stages)  # two hours to the second
    assert "hours    GPU-hours" in hours
    assert cells_of(hours)["together"] == ["7", "7", "0", "2.0", "0.9", "5000.0"]
    long = [Stage("predict", 1, 3.6e6, 7.2e6, 0.0)]
    assert cells_of(costs.render(long, long))["predict"][3:5] == ["1000.0", "2000.0"]


def test_what_is_not_to_do_takes_nothing() -> None:
    stages = [Stage(kind, 1, 90.0, 90.0, 9e6) for kind in KINDS]
    count = str(len(KINDS))
    none = ["0.0", "0.0", "0.0"]
    assert cells_of(costs.render(stages, []))["together"] == [count, "0", count, *none]
    assert cells_of(costs.render([], [])) == {"together": ["0", "0", "0", *none]}


def test_a_worker_holds_the_largest_share_of_a_gpu_and_never_more_than_one() -> None:
    estimate = estimator(seconds={"predict": {"task": 10}}, megabytes={"predict": {"task": 3}})

    def stages(*shares: float) -> list[Stage]:
        tasks = {f"{i}": predict(gpus=share) for i, share in enumerate(shares)}
        return estimate.stages(Plan(tasks, {}), tasks)

    assert stages(0.25, 0.5, 0.0) == [Stage("predict", 3, 30.0, 10.0, 9.0)]
    assert stages(0.5, 2.0) == [Stage("predict", 2, 20.0, 20.0, 6.0)]
    assert stages(0.0) == [Stage("predict", 1, 10.0, 0.0, 3.0)]
    assert stages() == []


def test_terms_are_products_of_units_and_parameters_and_add_up() -> None:
    seconds = {"predict": {"image * support": 2, "task": 0.5, "pool": 100}}
    estimate = estimator(seconds=seconds)
    # shards of two queries or one, two references, and five images in all
    assert estimate.seconds(predict()) == 2 * 2 * 2 + 0.5 + 100 * 5
    assert estimate.seconds(predict(shard=1)) == 2 * 1 * 2 + 0.5 + 100 * 5
    entry = Entry(use="b", kind="generator", seconds={"customize": {"steps * support": 3}})
    assert estimator(entry).seconds(customize(0)) == 3 * 10 * 2


def test_maps_count_where_there_are_masks_and_maps_are_asked_for() -> None:
    def maps(**changes: Any) -> float:
        estimate = estimator(megabytes={"predict": {"masked": 7}}, **changes)
        return estimate.megabytes(predict())

    assert maps(masked=True) == 7
    assert maps(masked=False) == maps(masked=True, maps=False) == 0


def test_the_first_entry_that_fits_counts() -> None:
    entries = [
        Entry(use="compared", kind="generator", seconds={"predict": {"task": 1}}),
        Entry(use="compared", kind="method", when={"mode": "slow"}, seconds={"predict": {}}),
        Entry(
            use="compared",
            kind="method",
            when={"mode": "fast", "side": None},  # all that it has
            assume={"side": 8},
            seconds={"predict": {"side": 1}},
        ),
        Entry(use="compared", kind="method", seconds={"predict": {"task": 5}}),
        Entry(use="taught", kind="method", assume={"side": 8}, seconds={"predict": {"side": 1}}),
    ]
    estimate = estimator(*entries)
    assert estimate.seconds(predict(0)) == 8  # assumed
    assert estimate.seconds(predict(1)) == 4  # its own
    assert estimate.seconds(predict(2)) == KINDS["predict"].seconds
    text = Entry(use="compared", kind="method", seconds={"predict": {"mode": 1}})
    with pytest.raises(InputError, match="'mode' is neither a unit nor a numeric parameter"):
        estimator(text).seconds(predict(0))


def test_a_table_cannot_be_changed_and_no_term_is_below_zero() -> None:
    default = Default(seconds={"predict": {"task": 0.0}})
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        default.seconds = {}
    with pytest.raises(pydantic.ValidationError, match="greater than or equal to 0"):
        Default(seconds={"predict": {"task": -0.1}})


def test_a_mistake_in_the_table_costs_estimates_and_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(costs, "parameters", lambda sweep: VALUES)
    path = tmp_path / "costs.yaml"

    def forgiving(**table: Any) -> tuple[float, list[str]]:
        path.write_text(yaml.safe_dump({"hardware": "any", "default": {}} | table))
        lines: list[str] = []
        sweep, todo = a_sweep(), [predict()]
        estimate = costs.forgiving(sweep, [CATEGORY], todo, lines.append, path)
        return estimate.seconds(todo[0]), lines

    rough = KINDS["predict"].seconds
    assert forgiving(default={"seconds": {"predict": {"task": 77}}}) == (77, [])
    seconds, lines = forgiving(default={"seconds": {"predict": {"tusk": 77}}})
    assert seconds == rough
    (line,) = lines
    assert line.startswith("costs of compared: seconds.predict: 'tusk' is neither")
    assert line.endswith("the time left is estimated by default costs")
    assert " more" not in line
    seconds, (line,) = forgiving(plugins=[{"use": "x", "kind": "methods", "second": {}}])
    assert seconds == rough
    assert "plugins.0.kind" in line
    assert " and 1 more; the time left" in line


def test_models_are_counted_by_category_and_apart() -> None:
    estimate = estimator(megabytes={"customize": {"task": 10}, "predict": {"image": 1}})
    tasks = {
        **{f"a{i}": customize(0) for i in range(2)},
        **{f"b{i}": customize(1) for i in range(3)},
        "p": predict(),
        "q": predict(shard=1),
        "done": customize(0),
    }
    graph = Plan(tasks, {})
    todo = [key for key in tasks if key != "done"]
    assert disk.need(estimate, graph, todo) == disk.Need(others=3.0, models=50.0, most=30.0)
    assert disk.need(estimate, graph, ["p"]) == disk.Need(others=2.0, models=0.0, most=0.0)
    assert disk.need(estimate, graph, []).total(True) == 0
    need = disk.Need(others=3.0, models=50.0, most=30.0)
    assert (need.total(True), need.total(False)) == (53.0, 33.0)
    assert disk.need(estimate, planned(seeds=[0]), []) == disk.Need(0.0, 0.0, 0.0)


def test_room_is_that_of_the_nearest_folder_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    rooms = {tmp_path: usage(0, 0, 2_500_000_000_000)}
    monkeypatch.setattr(shutil, "disk_usage", rooms.__getitem__)
    assert disk.free(tmp_path / "runs" / "later") == disk.free(tmp_path) == 2_500_000


def test_the_disk_is_told_as_it_is() -> None:
    need = disk.Need(others=1500, models=3000, most=1000)
    assert disk.lines(need, 4500, keep_models=True) == [
        "Disk: 4.5 GB (3.0 GB of customized models, among it), 4.5 GB are free."
    ]
    assert disk.lines(need, None, keep_models=False) == [
        "Disk: 2.5 GB (3.0 GB of customized models, each removed when nothing needs it any more)."
    ]
    assert disk.lines(need, 2400, keep_models=False)[1:] == [
        "! the storage has less room than the plan needs"
    ]
    assert disk.lines(need, 4499, keep_models=True)[1:] == [
        "! the storage has less room than the plan needs; keep_models: false needs 2.5 GB"
    ]
    assert disk.lines(disk.Need(700, 0, 0), 1e6, keep_models=True) == [
        "Disk: 0.7 GB, 1,000.0 GB are free."
    ]

"""What planning collects of data and code: every mistake, every part of a key, in order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness import config
from harness.errors import InputError
from harness.keys import hashed
from harness.planning.graph import Code
from harness.planning.inputs import SweepInputs, checked_sweep, collect_inputs
from tests.sweeps import NEAR, SQUARES, sweep, written

pytestmark = pytest.mark.usefixtures("toys")

BLEND = "toys.generators:Blend"
STRIPS = "toys.declared:Strips"
TAUGHT = "toys.methods:Taught"
TRAINED = "toys.declared:Trained"
VIEWS = "toys.data:Views"
WEIGHTY = "toys.declared:Weighty"


def collected(folder: Path, only: Any = None, **changes: Any) -> SweepInputs:
    path = written(folder / "conf.yaml", sweep(**changes))
    return collect_inputs(config.load(path), path, str(folder), only)


def places(folder: Path, **changes: Any) -> list[str]:
    """Where the mistakes are that collecting names."""
    with pytest.raises(InputError) as caught:
        collected(folder, **changes)
    return [problem.where.rpartition(": ")[2] for problem in caught.value.problems]


def weighty(file: object) -> dict[str, Any]:
    return {"use": WEIGHTY, "params": {"weights": str(file)}}


GONE = {"file": "gone.bin"}


def test_every_mistake_is_named_at_once(tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "datasets": [
            {"use": SQUARES, "label": "a", "categories": ["x"]},
            {"use": SQUARES, "label": "b", "object_names": {"y": "z"}},
        ],
        "methods": [
            {"use": NEAR, "label": "m", "params": GONE},
            {"use": TRAINED, "params": {"on": ["no_such"]}, "label": "t"},
            {"use": NEAR, "label": "n", "params": GONE},
        ],
        "generators": {"g": weighty("gone"), "h": weighty("gone")},
        "auxiliary": [{"use": VIEWS, "categories": ["x"]}, {"use": VIEWS, "categories": ["y"]}],
    }
    expected = ["datasets[0].categories", "datasets[1].object_names", "methods[0].params"]
    expected += ["methods[1].params.trained_on", "methods[2].params"]
    expected += ["generators.g.params", "generators.h.params"]
    assert sorted(places(tmp_path, **changes)) == sorted(expected)
    # Auxiliary data are looked at where some method trains on them.
    changes["methods"].append({"use": TAUGHT})
    auxiliary = ["auxiliary[0].categories", "auxiliary[1].categories"]
    assert sorted(places(tmp_path, **changes)) == sorted(expected + auxiliary)


def test_a_config_with_mistakes_has_its_data_looked_at_as_well(tmp_path: Path) -> None:
    (tmp_path / "weights").touch()
    present, absent = str(tmp_path / "weights"), str(tmp_path / "gone")
    conf = sweep(
        datasets=[
            {"use": SQUARES, "unknown": 1},
            {"use": SQUARES, "label": "b", "categories": ["x"]},
            {"use": SQUARES, "label": "c", "categories": ["y"]},
        ],
        methods=[
            {"use": NEAR, "unknown": 1},
            {"use": NEAR, "label": "m", "grid": {"file": [absent, present]}},
            {"use": NEAR, "label": "n", "grid": {"file": [present, absent]}},
        ],
        generators={"g": weighty(absent), "h": weighty(present)},
        auxiliary=[{"use": VIEWS, "unknown": 1}, {"use": VIEWS, "categories": ["x"]}],
    )
    with pytest.raises(InputError) as caught:
        checked_sweep(written(tmp_path / "c.yaml", conf), [], None)
    where = [problem.where.rpartition(": ")[2] for problem in caught.value.problems]
    of_config = ["datasets[0].unknown", "methods[0].unknown", "auxiliary[0].unknown"]
    of_data = ["datasets[1].categories", "datasets[2].categories", "methods[1].params"]
    of_data += ["generators.g.params", "auxiliary[1].categories"]
    assert sorted(where) == sorted(of_config + of_data)
    right = written(tmp_path / "c.yaml", sweep(datasets=[{"use": SQUARES, "categories": ["x"]}]))
    assert checked_sweep(right, [], None) == config.load(right)  # data are left for later


def test_what_only_leaves_out_is_not_asked_for(tmp_path: Path) -> None:
    data = [
        {"use": SQUARES, "label": "a", "categories": ["x"]},
        {"use": STRIPS, "label": "b"},
        {"use": STRIPS, "label": "c", "categories": ["wool"]},
    ]
    plan = collected(tmp_path, {"dataset": {"b", "c"}}, datasets=data)
    categories = [(c.dataset, c.name) for c in plan.plan_inputs.categories]
    assert categories == [("b", "steel"), ("b", "wool"), ("c", "wool")]
    assert {label: list(names) for label, names in plan.supports.items()} == {
        "b": ["steel", "wool"],
        "c": ["wool"],
    }
    for only in ({"dataset": {"a"}}, {"seed": {"0"}}, None):
        with pytest.raises(InputError, match="no category 'x'"):
            collected(tmp_path, only, datasets=data)


def test_caveats_of_generators_are_told_of_the_methods_that_use_them(tmp_path: Path) -> None:
    (tmp_path / "w").touch()
    plan = collected(
        tmp_path,
        methods=[
            {"use": "toys.methods:Compared", "generator": "g"},
            {"use": "toys.methods:Compared", "generator": "h"},
            {"use": NEAR},
        ],
        generators={"g": weighty(tmp_path / "w"), "h": {"use": BLEND}},
    )
    assert plan.notes == [{"method": "Compared+g", "note": "small weights"}]


def generator_code(folder: Path, **params: Any) -> Code:
    methods = [{"use": "toys.methods:Compared", "generator": "g"}]
    generators = {"g": {"use": BLEND, "params": params}}
    plan = collected(folder, methods=methods, generators=generators)
    return plan.plan_inputs.generators["g"]


def test_a_parameter_is_part_of_what_reads_it(tmp_path: Path) -> None:
    plain = generator_code(tmp_path)
    (source,) = (part for part in plain.parts[""] if part.endswith("generators.py"))
    assert set(plain.parts[""]) >= {"class", source, "parameter prior", "parameter fails"}
    assert source.startswith("source ")
    of_uses = {use: plain.parts[use] for use in ("generate", "personalize")}
    assert of_uses == {
        "generate": {"parameter spread": "8.0", "parameter light": "1.0"},
        "personalize": {"parameter share": "0.5", "parameter light": "1.0"},
    }
    assert not set(plain.parts[""]) & {f"parameter {n}" for n in ("spread", "light", "share")}

    def changed(**params: Any) -> set[str]:
        code = generator_code(tmp_path, **params)
        digests = ("digest", "state", "generate", "personalize")
        return {name for name in digests if getattr(code, name) != getattr(plain, name)}

    assert changed(share=0.4) == {"digest", "personalize"}
    assert changed(spread=7) == {"digest", "generate"}
    assert changed(light=2) == {"digest", "generate", "personalize"}
    assert changed(prior=False) == {"digest", "state", "generate", "personalize"}
    assert changed(share=0.5, spread=8) == set()


def test_the_parts_of_a_method_are_its_values_and_the_contents_of_its_files(tmp_path: Path) -> None:
    weights = tmp_path / "w.txt"
    weights.write_text("1")
    methods = [
        {"use": NEAR, "params": {"file": str(weights), "power": 3}},
        {"use": TRAINED, "params": {"place": "there"}},
        {"use": TRAINED, "label": "default"},
    ]
    first, second, third = collected(tmp_path, methods=methods).plan_inputs.methods
    assert first.parts[""]["parameter power"] == "3.0"
    # sha256 of "1"
    assert first.parts[""]["file w.txt"].startswith("6b86b273ff34fce19d6b804eff5a3f57")
    # A path is no plain value: what was said of it counts, and nothing where nothing was.
    assert second.parts[""]["parameter place"] == '"there"'
    assert "parameter place" not in third.parts[""]
    assert third.parts[""]["parameter on"] == "[]"
    assert second.digest != third.digest


def test_files_of_one_name_are_parts_each_and_the_order_of_keys_is_none(tmp_path: Path) -> None:
    method = tmp_path / "two.py"
    method.write_text(TWO_FILES)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "w.bin").write_text(folder)

    def of(weights: dict[str, str]) -> Code:
        methods = [{"use": str(method), "params": {"weights": weights}}]
        return collected(tmp_path, methods=methods).plan_inputs.methods[0]

    a, b = (str(tmp_path / folder / "w.bin") for folder in ("a", "b"))
    code = of({"x": a, "y": b})
    files = {part: text for part, text in code.parts[""].items() if part.startswith("file ")}
    assert set(files) == {"file w.bin", "file w.bin (2)"}
    assert len(set(files.values())) == 2
    other = of({"y": b, "x": a})
    assert other.digest == code.digest
    assert other.parts == code.parts


TWO_FILES = """
from pathlib import Path

from harness.interface import Method


class Two(Method):
    def __init__(self, weights: dict[str, str] = {}):
        self.weights = weights

    def files(self):
        return sorted(map(Path, self.weights.values()))

    def fit(self, support):
        pass

    def predict(self, queries):
        pass
"""


def test_data_that_weights_have_seen_are_refused_each_where_it_is_tested(tmp_path: Path) -> None:
    def complaints(*names: str) -> list[str]:
        methods = [{"use": TRAINED, "params": {"on": list(names)}}]
        data = [{"use": SQUARES, "label": "a"}, {"use": STRIPS}, {"use": SQUARES, "label": "b"}]
        with pytest.raises(InputError) as caught:
            collected(tmp_path, methods=methods, datasets=data)
        return [problem.message for problem in caught.value.problems]

    seen = [f"{TRAINED} was trained on {SQUARES}, which datasets test as {x!r}" for x in "ab"]
    unknown, *rest = complaints("mvtek", "mvtec", VIEWS, SQUARES)
    assert "no dataset 'mvtek'" in unknown
    assert "mvtec" in unknown.partition("'mvtek'")[2]
    assert rest == seen


def taught(folder: Path, *auxiliary: Any, one: bool = False, **entry: Any) -> SweepInputs:
    squares = {"use": SQUARES, "params": {"masks": True}, **entry}
    methods = [
        {"use": NEAR},
        {"use": TAUGHT},
        {"use": TAUGHT, "label": "others", "auxiliary": "leave-one-out"},
    ]
    methods = methods[: 2 if one else 3]
    return collected(folder, datasets=[squares], methods=methods, auxiliary=list(auxiliary))


def test_methods_train_on_the_first_other_dataset_or_on_other_categories(tmp_path: Path) -> None:
    words = {"ant": "an emmet"}
    last = {"use": STRIPS}
    plan = taught(tmp_path, {"use": SQUARES}, {"use": VIEWS, "object_names": words}, last)
    uses, chosen = plan.auxiliary, plan.plan_inputs.auxiliary
    assert {name: (use.categories, use.held_out) for name, use in uses.items()} == {
        "Views": (("ant",), ""),
        "Squares-without-ant": (("bee",), "ant"),
        "Squares-without-bee": (("ant",), "bee"),
    }
    assert (uses["Views"].dataset.use, uses["Views"].object_names) == (VIEWS, words)
    assert {key: name for key, (name, _) in chosen.items()} == {
        ("Taught", "Squares", "ant"): "Views",
        ("Taught", "Squares", "bee"): "Views",
        ("others", "Squares", "ant"): "Squares-without-ant",
        ("others", "Squares", "bee"): "Squares-without-bee",
    }
    assert all(digest == uses[name].id for name, digest in chosen.values())
    assert plan.remarks == []
    with pytest.raises(InputError, match="no auxiliary dataset other than it"):
        taught(tmp_path, {"use": SQUARES})
    with pytest.raises(InputError, match="nothing to train on for Squares/ant"):
        taught(tmp_path, {"use": VIEWS}, params={"names": ["ant"]})


def test_a_training_is_named_by_all_that_it_sees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from toys.declared import Strips

    def digest(changed: str = "", **entry: Any) -> str:
        """With other contents of one source."""
        monkeypatch.setattr(Strips, "stamp", lambda _, s: f"new {s}" if s == changed else s)
        return taught(tmp_path, {"use": STRIPS, **entry}, one=True).auxiliary["Strips"].id

    seen = [
        digest(),
        digest("wool/mask/0"),
        digest("wool/train/3"),
        digest("wool/strip/1"),
        digest(object_names={"wool": "yarn"}),
        digest(object_names={"wool": "a rug"}),
        digest(categories=["wool"]),
    ]
    assert len(set(seen)) == len(seen)
    assert digest("wool/mask/1") == seen[0], "no such mask"


def test_other_masks_are_another_truth_of_the_same_queries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from toys.declared import Strips

    before = strips(tmp_path).plan_inputs.categories
    monkeypatch.setattr(Strips, "stamp", lambda _, s: f"new {s}" if s == "wool/mask/0" else s)
    after = strips(tmp_path).plan_inputs.categories
    assert [c.queries for c in after] == [c.queries for c in before]
    assert [a.truth == b.truth for a, b in zip(after, before, strict=True)] == [True, False]


def strips(folder: Path, shots: int = 2, **entry: Any) -> SweepInputs:
    return collected(folder, datasets=[{"use": STRIPS, **entry}], shots=[shots])


def test_tiles_of_a_strip_lie_side_by_side(tmp_path: Path) -> None:
    for category in strips(tmp_path).plan_inputs.categories:
        order = [r.sample.image for r in category.queries]
        assert order == sorted(order, key=hashed)
        assert order[::2] == order[1::2], "two tiles of each"
        for first, second in zip(category.queries[::2], category.queries[1::2], strict=True):
            assert first.key < second.key


def test_a_category_has_masks_where_one_of_its_queries_has(tmp_path: Path) -> None:
    categories = {
        count: strips(tmp_path, params={"masked": count}).plan_inputs.categories[0]
        for count in (0, 1, 6)
    }
    assert {count: category.masked for count, category in categories.items()} == {
        0: False,
        1: True,
        6: True,
    }


def test_words_of_the_config_replace_those_of_the_dataset(tmp_path: Path) -> None:
    plan = strips(tmp_path, object_names={"wool": "yarn"})
    words = [category.object_name for category in plan.plan_inputs.categories]
    assert words == ["a piece of steel", "yarn"]


def test_remarks_of_data_and_of_leaks_are_told(tmp_path: Path) -> None:
    dusty = [{"method": f"s/{name}", "note": f"{name} is dusty"} for name in ("steel", "wool")]
    assert strips(tmp_path, label="s").remarks == dusty
    *own, leak = strips(tmp_path, 5, label="s", params={"shared": True}).remarks
    assert own == dusty
    assert leak["method"] == "s"
    assert "2 of 2 supports leak: up to 1 of 5 images" in leak["note"]


def test_a_support_has_as_many_as_any_method_takes(tmp_path: Path) -> None:
    methods = [{"use": NEAR}, {"use": NEAR, "label": "more", "shots": [1, 4]}]
    for category in collected(tmp_path, methods=methods, shots=[2, 3]).plan_inputs.categories:
        assert len(category.supports[0]) == 4


def test_a_support_file_takes_the_place_of_a_draw(tmp_path: Path) -> None:
    names = {name: {"0": [f"{name}/train/{i}" for i in (4, 2)]} for name in ("steel", "wool")}
    (tmp_path / "theirs.json").write_text(json.dumps({"Strips": names}))
    plan = strips(tmp_path, support="theirs.json")
    assert plan.supports["Strips"] == names


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("a b", True),
        ("café-1_2.x", True),
        ("", False),
        (".a", False),
        ("=a", False),
        ("a/b", False),
        ("a\\b", False),
        ("{a", False),
        ("a\n", False),
    ],
)
def test_names_of_categories_are_names_of_folders(tmp_path: Path, name: str, plain: bool) -> None:
    data = [{"use": SQUARES, "params": {"names": ["ant", name]}, "categories": ["ant"]}]
    if plain:
        assert len(collected(tmp_path, datasets=data).plan_inputs.categories) == 1
        return
    with pytest.raises(InputError, match="no plain name of a folder"):
        collected(tmp_path, datasets=data)


def test_categories_are_those_that_are_asked_for_once_and_in_order(tmp_path: Path) -> None:
    plan = strips(tmp_path, categories=["wool", "steel", "wool"])
    assert [c.name for c in plan.plan_inputs.categories] == ["wool", "steel"]
    for entry in ({"categories": ["wol"]}, {"object_names": {"wol": "x"}}):
        with pytest.raises(InputError, match=r"no category 'wol'.*wool"):
            strips(tmp_path, **entry)
    with pytest.raises(InputError, match="no test image 'steel/strip/9'"):
        strips(tmp_path, queries=["steel/strip/0@0,0,8,8", "steel/strip/9"])


def test_mistakes_of_all_categories_are_told_and_no_category_is_left(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        strips(tmp_path, 5)
    (steel, wool) = (problem.message for problem in caught.value.problems)
    assert "Strips/steel: 5 shots asked for, but 4" in steel
    assert "Strips/wool: 5 shots asked for, but 4" in wool

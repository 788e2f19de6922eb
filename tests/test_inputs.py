"""What the disk and the code say to a plan: mistakes in data, and keys that follow contents."""

from __future__ import annotations

import importlib
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Picture

from harness import config, plugins
from harness.errors import InputError
from harness.planning import inputs
from harness.planning.inputs import SweepInputs
from harness.results import metrics
from tests.sweeps import FAKES, NEAR, SQUARES, sweep, written

pytestmark = pytest.mark.usefixtures("toys")


@pytest.fixture
def collect_inputs(tmp_path: Path) -> Callable[..., SweepInputs]:
    def go(entries: dict[str, Any], root: Path | None = None) -> SweepInputs:
        path = written(tmp_path / "conf.yaml", entries)
        return inputs.collect_inputs(config.load(path), path, None if root is None else str(root))

    return go


def mistakes(collect_inputs: Callable[..., SweepInputs], *sources: Any) -> list[str]:
    with pytest.raises(InputError) as caught:
        collect_inputs(*sources)
    return [str(problem) for problem in caught.value.problems]


def picture(path: Path, seed: int, side: int = 8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    Picture.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(path)


def tree(root: Path, categories: str = "cup pen", kind: str = "png", seed: int = 0) -> Path:
    """A small dataset in MVTec's form."""
    for c, category in enumerate(categories.split()):
        names = [f"train/good/{i}" for i in range(4)] + [f"test/good/{i}" for i in range(3)]
        names += [f"test/hole/{i}" for i in range(3)]
        for i, name in enumerate(names):
            picture(root / category / f"{name}.{kind}", seed + 100 * c + i)
    return root


FOLDER = {"datasets": [{"use": "folder"}]}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (FOLDER, ["datasets[0]", "--data-root"]),
        (
            {"datasets": [{"use": SQUARES, "categories": ["ant", "bea"]}]},
            ["datasets[0].categories", "no category 'bea'", "Did you mean 'bee'?"],
        ),
        ({"shots": [11]}, ["11 shots asked for, but 10 normal training images"]),
        (
            {"datasets": [{"use": SQUARES, "queries": ["ant/good/000", "ant/god/002"]}]},
            ["datasets[0].queries", "no test image 'ant/god/002'"],
        ),
        (
            {"datasets": [{"use": SQUARES, "support": "gone.json"}]},
            ["datasets[0].support", "gone.json", "no such file"],
        ),
        (
            {"methods": [{"use": NEAR, "params": {"file": "gone.bin"}}]},
            ["gone.bin", "No such file"],
        ),
        (
            {
                "methods": [{"use": "toys.methods:Taught"}],
                "auxiliary": [{"use": SQUARES}],
            },
            ["auxiliary", "other than it"],
        ),
        (
            {"datasets": [{"use": SQUARES, "params": {"names": ["../out"]}}]},
            ["'../out'", "no plain name"],
        ),
        (
            {"datasets": [{"use": SQUARES, "params": {"names": ["{0}"]}}]},
            ["'{0}'", "no plain name"],
        ),
    ],
)
def test_mistakes_about_data(
    collect_inputs: Callable[..., SweepInputs], changes: dict[str, Any], words: list[str]
) -> None:
    lines = mistakes(collect_inputs, sweep(**changes))
    assert len(lines) == 1 + (11 in changes.get("shots", ()))  # of the dataset, or each category
    for word in words:
        assert word in lines[0], lines


def test_a_data_root_that_is_not_there(
    collect_inputs: Callable[..., SweepInputs], tmp_path: Path
) -> None:
    (line,) = mistakes(collect_inputs, sweep(**FOLDER), tmp_path / "gone")
    assert "gone" in line
    (tmp_path / "empty").mkdir()
    (line,) = mistakes(collect_inputs, sweep(datasets=[{"use": "mvtec"}]), tmp_path / "empty")
    assert "empty" in line


def test_an_empty_file_is_named(collect_inputs: Callable[..., SweepInputs], tmp_path: Path) -> None:
    root = tree(tmp_path / "data")
    (root / "pen/test/hole/1.png").write_bytes(b"")
    (line,) = mistakes(collect_inputs, sweep(**FOLDER), root)
    assert "pen/test/hole/1.png" in line
    assert "empty" in line


def test_mistakes_of_several_datasets_are_told_at_once(
    collect_inputs: Callable[..., SweepInputs],
) -> None:
    data = [
        {"use": SQUARES, "label": "a", "categories": ["x"]},
        {"use": SQUARES, "label": "b", "categories": ["y"]},
    ]
    assert len(mistakes(collect_inputs, sweep(datasets=data))) == 2


def test_the_same_dataset_by_another_name_is_no_auxiliary(
    collect_inputs: Callable[..., SweepInputs],
) -> None:
    changes = {
        "datasets": [{"use": "elpv", "queries": {"normal": 2, "anomalous": 2}}],
        "auxiliary": [{"use": "datasets.elpv:ELPV"}],
        "methods": [{"use": "toys.methods:Taught"}],
    }
    (line,) = mistakes(collect_inputs, sweep(**changes))
    assert "other than it" in line


def test_tested_images_are_not_trained_on_under_another_datasets_name(
    collect_inputs: Callable[..., SweepInputs], tmp_path: Path
) -> None:
    """A copy of MVTec AD read by ``folder``: the adapters differ, the pictures do not."""
    bottle = tree(tmp_path / "copy") / "pen"
    bottle.rename(bottle.with_name("bottle"))
    tree(tmp_path / "copy/others", seed=50)
    changes: dict[str, Any] = {
        "datasets": [{"use": "folder", "categories": ["bottle"]}],
        "auxiliary": [{"use": "mvtec"}],
        "methods": [{"use": "toys.methods:Taught"}],
    }
    with pytest.raises(InputError, match="would train on 6 of 6 images of folder/bottle"):
        collect_inputs(sweep(**changes), tmp_path / "copy")
    changes["datasets"] = [{"use": "folder", "params": {"root": "others"}}]
    collect_inputs(sweep(**changes), tmp_path / "copy")


def test_weights_are_not_tested_on_what_they_saw_under_another_name(
    collect_inputs: Callable[..., SweepInputs], tmp_path: Path
) -> None:
    """A checkpoint of MVTec AD on a copy that ``folder`` reads: refused where MVTec is at hand;
    where it is not, or only a part of it is, that is said.
    """
    root = tree(tmp_path / "root/mvtec", "bottle")
    tree(tmp_path / "root/others", seed=50)
    (tmp_path / "root/copy").mkdir()
    shutil.copytree(root / "bottle", tmp_path / "root/copy/pen")

    def notes(tested: str, trained_on: str = "mvtec", root: str = "root", **more: Any) -> Any:
        method = {"use": "toys.declared:Trained", "params": {"on": [trained_on]}, "label": "m"}
        data = [{"use": "folder", "params": {"root": str(tmp_path / "root" / tested)}}]
        config = {"datasets": data, "methods": [method]} | more
        (tmp_path / root).mkdir(exist_ok=True)
        remarks = collect_inputs(sweep(**config), tmp_path / root).remarks
        return [each["note"] for each in remarks if each["method"] == "m"]

    start = "was trained on mvtec: whether that holds images of folder that are tested cannot be"
    seen = "trained_on: toys.declared:Trained was trained on mvtec, which holds 6 of 6 images of"
    with pytest.raises(InputError, match=rf"methods\[0\].params.{seen} folder/pen that are tested"):
        notes("copy")
    part = [f"{start} checked by content: 14 of its 15 categories are not here"]
    assert notes("others") == part
    assert notes("copy", root="empty") == [
        f"{start} checked by content: mvtec cannot be opened here"
    ]
    # Where the sweep says itself where the data are, they are looked at there, all of them.
    where = {"use": "mvtec", "params": {"root": str(root)}, "categories": ["bottle"]}
    with pytest.raises(InputError, match="6 of 6 images"):
        notes("copy", root="empty", auxiliary=[{"use": "elpv"}, where])
    (note,) = notes("others", trained_on=SQUARES)
    assert note.endswith(f"the adapter of {SQUARES} does not know images by what they hold")
    (note,) = notes("others", datasets=[{"use": SQUARES}])
    assert note.endswith("14 of its 15 categories are not here")
    assert notes("others", trained_on="elpv") == []
    (note,) = notes("others", trained_on="elpv", datasets=[{"use": SQUARES}])
    assert note.endswith("the adapter of Squares does not know images by what they hold")


def test_leave_one_out_says_which_tested_images_others_hold(
    collect_inputs: Callable[..., SweepInputs], tmp_path: Path
) -> None:
    """As on MNIST, where each digit is tested on the images of all ten."""
    tree(tmp_path, "cup pen mug")
    changes: dict[str, Any] = {
        "datasets": [{"use": "folder", "categories": ["cup", "pen"]}],
        "methods": [{"use": "toys.methods:Taught", "auxiliary": "leave-one-out"}],
    }
    assert collect_inputs(sweep(**changes), tmp_path).remarks == []
    for name in ("good/0", "hole/2"):
        shutil.copy(tmp_path / "mug/test" / f"{name}.png", tmp_path / "pen/test" / f"{name}.png")
    changes["datasets"][0]["categories"].append("mug")
    (remark,) = [
        r for r in collect_inputs(sweep(**changes), tmp_path).remarks if "one-out" in r["note"]
    ]
    assert remark["method"] == "Taught"
    assert remark["note"].endswith("hold too: pen (2 of 6), mug (2 of 6)")


def test_image_keys_follow_contents_and_folder_not_the_data_root(
    collect_inputs: Callable[..., SweepInputs], tmp_path: Path
) -> None:
    def of(data_root: Path, **params: Any) -> set[str]:
        collected = collect_inputs(sweep(datasets=[{"use": "folder", "params": params}]), data_root)
        return {r.key for c in collected.plan_inputs.categories for r in c.queries}

    first = tree(tmp_path / "one")
    moved = shutil.copytree(first, tmp_path / "elsewhere")
    assert of(first) == of(moved), "keys depend on where the data root is"
    picture(moved / "pen/test/hole/1.png", 999, side=9)
    assert len(of(first) & of(moved)) == len(of(first)) - 1
    # Two folders of one layout, the same names, and files of the same size.
    tree(tmp_path / "lines/a", kind="bmp", seed=0)
    tree(tmp_path / "lines/b", kind="bmp", seed=50)
    assert not of(tmp_path / "lines", root="a") & of(tmp_path / "lines", root="b")


def test_supports_do_not_depend_on_how_a_file_is_spelled(
    collect_inputs: Callable[..., SweepInputs], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(FAKES / "toys")
    short = collect_inputs(sweep(datasets=[{"use": "data.py:Squares"}]))
    long = collect_inputs(sweep(datasets=[{"use": f"{FAKES / 'toys' / 'data.py'}:Squares"}]))
    assert short.supports == long.supports
    assert short.plan_inputs == long.plan_inputs


def digest(collect_inputs: Callable[..., SweepInputs], use: str = NEAR, **params: Any) -> str:
    collected = collect_inputs(sweep(methods=[{"use": use, "params": params}]))
    return collected.plan_inputs.methods[0].digest


def test_a_methods_key_follows_parameters_and_weights(
    collect_inputs: Callable[..., SweepInputs], tmp_path: Path
) -> None:
    weights = tmp_path / "weights.txt"
    weights.write_text("2.0")
    digests = {
        digest(collect_inputs),
        digest(collect_inputs, power=3),
        digest(collect_inputs, file=str(weights)),
    }
    weights.write_text("3.0")  # of the same size
    digests.add(digest(collect_inputs, file=str(weights)))
    assert len(digests) == 4
    weights.write_text("2.0")
    assert digest(collect_inputs, file=str(weights)) in digests


def test_a_methods_key_follows_its_source_and_its_helpers(
    collect_inputs: Callable[..., SweepInputs], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    package = tmp_path / "copied"
    shutil.copytree(FAKES / "toys", package, ignore=shutil.ignore_patterns("__pycache__"))
    for path in package.glob("*.py"):
        path.write_text(path.read_text().replace("from toys", "from copied"))
    digests = {}
    for what, file in {
        "nothing": None,
        "its module": "methods.py",
        "a helper": "_tally.py",
        "a module it does not import": "trouble.py",
    }.items():
        if file is not None:
            path = package / file
            path.write_text(path.read_text() + "\nANOTHER = 1\n")
        for name in [n for n in sys.modules if n.split(".")[0] == "copied"]:
            del sys.modules[name]
        importlib.invalidate_caches()
        plugins.source.cache_clear()
        digests[what] = digest(collect_inputs, "copied.methods:Near")
    assert len({digests["nothing"], digests["its module"], digests["a helper"]}) == 3
    assert digests["a module it does not import"] == digests["a helper"]


def test_the_code_of_metrics_counts_for_results_only(
    collect_inputs: Callable[..., SweepInputs], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = collect_inputs(sweep()).plan_inputs
    changed = tmp_path / "metrics.py"
    changed.write_text(Path(str(metrics.__file__)).read_text() + "\nANOTHER = 1\n")
    monkeypatch.setattr(metrics, "__file__", str(changed))
    after = collect_inputs(sweep()).plan_inputs
    assert after.metrics != before.metrics
    assert after.categories == before.categories
    assert after.methods == before.methods


def test_duplicates_of_a_query_are_never_drawn(
    collect_inputs: Callable[..., SweepInputs], tmp_path: Path
) -> None:
    root = tree(tmp_path / "data")
    shutil.copy(root / "pen/test/good/0.png", root / "pen/train/good/2.png")
    collected = collect_inputs(sweep(**FOLDER, shots=[3], seeds=list(range(20))), root)
    drawn = collected.supports["folder"]["pen"]
    assert all("pen/train/good/2.png" not in names for names in drawn.values())
    (line,) = mistakes(collect_inputs, sweep(**FOLDER, shots=[4]), root)
    assert "3 normal training images can be drawn" in line
    assert "duplicates" in line


def test_recorded_supports_are_nested_and_the_same_for_every_method(
    collect_inputs: Callable[..., SweepInputs],
) -> None:
    collected = collect_inputs(
        sweep(shots=[1, 2, 4], methods=[{"use": NEAR}, {"use": "mean_color"}])
    )
    (category, *_) = collected.plan_inputs.categories
    names = collected.supports["Squares"]["ant"]["0"]
    assert [r.sample.name for r in category.supports[0]] == names
    assert len(set(names)) == 4


def test_notes_of_methods_are_kept(
    collect_inputs: Callable[..., SweepInputs], tmp_path: Path
) -> None:
    path = tmp_path / "noted.py"
    path.write_text("from toys.methods import Near\nclass Noted(Near):\n    note = 'tiny models'\n")
    collected = collect_inputs(sweep(methods=[{"use": str(path), "label": "a"}]))
    assert collected.notes == [{"method": "a", "note": "tiny models"}]


def test_weights_that_saw_the_tested_data_are_refused(tmp_path: Path) -> None:
    """And those that did not need no auxiliary dataset."""
    (tmp_path / "2.pt").write_bytes(b"weights")

    def complaints(trained_on: str) -> list[str]:
        params = {"checkpoint": str(tmp_path / "{shots}.pt"), "trained_on": trained_on}
        path = written(
            tmp_path / "conf.yaml",
            sweep(
                datasets=[{"use": "surfaces", "categories": ["bolt"]}],
                methods=[{"use": "mean_color"}, {"use": "regad", "params": params}],
                shots=[2],
            ),
        )
        try:
            inputs.collect_inputs(config.load(path), path, None)
        except InputError as error:
            return [str(problem) for problem in error.problems]
        return []

    (seen,) = complaints("surfaces")
    assert "methods[1].params.trained_on: regad was trained on surfaces" in seen
    (unknown,) = complaints("surface")
    assert "no dataset 'surface'" in unknown
    assert "surfaces" in unknown
    assert complaints("mvtec") == []


TWO = {"datasets": [{"use": "mvtec"}, {"use": SQUARES, "label": "here"}]}


def test_data_that_only_leaves_out_may_be_missing(tmp_path: Path) -> None:
    path = written(tmp_path / "conf.yaml", sweep(**TWO))
    loaded, empty = config.load(path), tmp_path / "empty"
    empty.mkdir()
    for only in ({}, {"dataset": {"mvtec"}}, {"dataset": {"mvtec", "here"}}, {"shots": {"2"}}):
        with pytest.raises(InputError, match="MVTec"):
            inputs.collect_inputs(loaded, path, str(empty), only)
    narrowed = inputs.collect_inputs(loaded, path, str(empty), {"dataset": {"here"}})
    assert {c.dataset for c in narrowed.plan_inputs.categories} == {"here"}
    assert set(narrowed.supports) == {"here"}

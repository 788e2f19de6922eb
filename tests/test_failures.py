"""A plug-in that goes wrong in one cell costs that cell and no other."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Picture

from tests.sweeps import NEAR, Runner, Tally, rows, sweep

pytestmark = pytest.mark.timeout(900)

TROUBLE = "toys.trouble:Trouble"


def troubled(**params: Any) -> dict[str, Any]:
    return {"use": TROUBLE, "label": "-".join(map(str, params.values())), "params": params}


#: what happens -> a word of the error that is recorded
ENDS = {
    "raise": "RuntimeError: this is",
    "exit": "SystemExit: 0",
    "generator exit": "GeneratorExit",
    "os._exit": "exited with status 3 (tried twice)",
    "segfault": "died of signal SIGSEGV (tried twice)",
    "interrupt": "died of signal SIGINT",
    "memory": "MemoryError",
    "hang": "exceeded the time limit of 4 s",
    "short": "scores of shape (9,), expected (10,)",
    "flat maps": "maps of shape (10, 4), expected (10, h, w)",
    "nothing": "AttributeError",
}


def test_each_way_to_go_wrong_costs_its_cell(
    run_sweep: Runner, tally: Tally, tmp_path: Path
) -> None:
    methods = [{"use": NEAR}] + [troubled(how=how) for how in ENDS if " " not in how]
    methods += [
        {"use": TROUBLE, "label": how.replace(" ", "-"), "params": {"how": how}}
        for how in ENDS
        if " " in how
    ]
    calm = sweep(name="calm", methods=[{"use": NEAR}])
    assert run_sweep(calm) == 0
    config = sweep(methods=methods, time_limit=4.0, attempts=2)
    assert run_sweep(config) == 1
    folder = tmp_path / "runs" / "toy"
    done = {(r["method"], r["category"]) for r in rows(folder)}
    failed = {(r["method"], r["category"]): r for r in rows(folder, "failures.csv")}
    for how, words in ENDS.items():
        label = how.replace(" ", "-")
        assert (label, "ant") in done, f"{how}: the other category is missing"
        assert (label, "bee") not in done
        error = failed[label, "bee"]["error"]
        assert "\n" not in error
        shown = words.replace("(tried twice)", "(tried 2 times)")
        assert shown in error, f"{how}: {error}"
    assert len(failed) == len(ENDS)
    assert {("Near", "ant"), ("Near", "bee")} <= done
    values = {(r["category"], r["image_auroc"]) for r in rows(folder) if r["category"] == "ant"}
    assert len(values) == 1, "trouble in one cell changed another"
    assert rows(tmp_path / "runs" / "calm")[0] == rows(folder)[0]
    assert "RuntimeError" in failed["raise", "bee"]["traceback"]
    # Run again: what failed stays failed, nothing is computed.
    tally.new()
    assert run_sweep(config) == 1
    assert tally.new() == []


def test_scores_that_are_no_numbers_are_said_not_invented(
    run_sweep: Runner, tmp_path: Path
) -> None:
    methods = [
        {"use": TROUBLE, "label": h.replace(" ", "-"), "params": {"how": h}}
        for h in ("nan", "one nan")
    ]
    assert run_sweep(sweep(methods=methods)) == 0
    results = {(r["method"], r["category"]): r for r in rows(tmp_path / "runs" / "toy")}
    bad = results["nan", "bee"]
    assert bad["image_auroc"] == bad["image_auprc"] == ""
    assert bad["status"]
    assert results["nan", "ant"]["image_auroc"] != ""
    assert results["one-nan", "bee"]["image_auroc"] == "", "a query without a score was left out"


def test_retrying_failed_cells(run_sweep: Runner, tally: Tally, tmp_path: Path) -> None:
    marker = str(tmp_path / "over")
    method = {"use": TROUBLE, "params": {"how": "raise", "once": marker}}
    config = sweep(methods=[{"use": NEAR}, method])
    assert run_sweep(config) == 1
    folder = tmp_path / "runs" / "toy"
    assert len(rows(folder)) == 3
    assert tally.counts()["fit"] == 3
    assert run_sweep(config) == 1, "a failure is remembered"
    assert tally.new() == []
    assert run_sweep(config, retry_failed=True) == 0
    assert tally.counts() == {"fit": 1, "predict": 1, "encode": 12}
    assert len(rows(folder)) == 4
    assert not (folder / "failures.csv").exists()


def test_a_worker_that_dies_once_is_replaced(
    run_sweep: Runner, tally: Tally, tmp_path: Path
) -> None:
    methods = [
        {
            "use": TROUBLE,
            "label": how.replace(".", ""),
            "params": {"how": how, "when": when, "once": str(tmp_path / how)},
        }
        for how, when in (("os._exit", "fit"), ("segfault", "predict"), ("interrupt", "fit"))
    ]
    assert run_sweep(sweep(methods=methods)) == 0
    assert tally.counts()["trouble"] == 3
    assert len(rows(tmp_path / "runs" / "toy")) == 6


def test_a_hanging_task_ends_at_its_limit_and_not_before(run_sweep: Runner, tmp_path: Path) -> None:
    method = {"use": TROUBLE, "params": {"how": "hang", "once": str(tmp_path / "once")}}
    began = time.monotonic()
    assert run_sweep(sweep(methods=[method], time_limit=4.0)) == 0
    assert time.monotonic() - began > 4.0


def pictures(root: Path) -> Path:
    for c, category in enumerate(("cup", "pen")):
        names = [f"train/good/{i}" for i in range(4)]
        names += [f"test/{kind}/{i}" for kind in ("good", "hole") for i in range(4)]
        for i, name in enumerate(names):
            path = root / category / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            noise = np.random.default_rng([c, i]).integers(0, 256, (12, 12, 3), dtype=np.uint8)
            Picture.fromarray(noise).save(path)
    return root


def test_an_unreadable_image_is_named_whatever_the_method_does(
    run_sweep: Runner, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = pictures(tmp_path / "data")
    broken = root / "pen/test/hole/2.png"
    good = broken.read_bytes()
    broken.write_bytes(good[:100])
    methods = [
        {"use": TROUBLE, "label": how, "params": {"how": how, "where": "pen"}}
        for how in ("calm", "eats", "wraps")
    ]
    config = sweep(datasets=[{"use": "folder"}], methods=methods)
    assert run_sweep(config, data_root=str(root)) == 2
    folder = tmp_path / "runs" / "toy"
    assert {r["category"] for r in rows(folder)} == {"cup"}
    assert len(rows(folder)) == len(rows(folder, "failures.csv")) == 3
    first = capsys.readouterr().err.splitlines()[0]
    assert str(broken) in first
    assert "Error" not in first
    # Mended, the same command completes it: bad data is always tried again.
    broken.write_bytes(good)
    assert run_sweep(config, data_root=str(root)) == 0
    assert len(rows(folder)) == 6


def test_a_file_that_vanishes_is_named(
    run_sweep: Runner, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A support image is replaced by a folder after it was listed: it cannot be read."""
    config = sweep(datasets=[{"use": "toys.data:Squares", "params": {"broken": ["bee/good/004"]}}])
    assert run_sweep(config) == 2
    assert "bee/good/004" in capsys.readouterr().err
    assert [r["category"] for r in rows(tmp_path / "runs" / "toy")] == ["ant"]


def test_a_generator_that_fails_costs_the_cells_that_name_it(
    run_sweep: Runner, tmp_path: Path
) -> None:
    calls = ("prepare", "customize", "load", "generate", "personalize")
    compared = [{"use": "toys.methods:Compared", "generator": call} for call in calls]
    blend = "toys.generators:Blend"
    config = sweep(
        datasets=[{"use": "toys.data:Squares", "categories": ["ant"]}],
        methods=[{"use": NEAR}, *compared],
        generators={c: {"use": blend, "params": {"fails": c}, "pool": 3} for c in calls},
    )
    assert run_sweep(config) == 1
    folder = tmp_path / "runs" / "toy"
    assert [r["method"] for r in rows(folder)] == ["Near"]
    errors = {r["method"]: r["error"] for r in rows(folder, "failures.csv")}
    assert errors == {f"Compared+{c}": f"RuntimeError: {c} failed" for c in calls}


def test_damaged_artifacts_are_made_again(run_sweep: Runner, tally: Tally, tmp_path: Path) -> None:
    """All shards of a cell truncated, and its result lost: the cell is computed, not failed."""
    config = sweep(datasets=[{"use": "toys.data:Squares", "categories": ["ant"]}], shard=3)
    assert run_sweep(config) == 0
    folder = tmp_path / "runs"
    before = (folder / "toy/results.csv").read_bytes()
    parts = list((folder / ".artifacts/predict").rglob("*.safetensors"))
    assert len(parts) == 4
    for path in parts:
        path.write_bytes(path.read_bytes()[:50])
    shutil.rmtree(folder / "toy")
    shutil.rmtree(folder / ".artifacts/evaluate")
    tally.new()
    assert run_sweep(config) == 0
    assert tally.counts()["predict"] == 4
    assert (folder / "toy/results.csv").read_bytes() == before


def test_what_a_method_is_handed_cannot_be_spoilt(run_sweep: Runner, tmp_path: Path) -> None:
    places = ("query", "support", "pool", "personalized", "customized", "trained")
    entry = {"use": "toys.methods:Writes", "generator": "g", "auxiliary": "leave-one-out"}
    config = sweep(
        methods=[{**entry, "label": where, "params": {"where": where}} for where in places],
        generators={"g": {"use": "toys.generators:Blend", "pool": 3}},
    )
    assert run_sweep(config) == 1
    failed = rows(tmp_path / "runs" / "toy", "failures.csv")
    assert {r["method"] for r in failed} == set(places)
    assert len(failed) == 2 * len(places)
    assert all("read-only" in r["error"] for r in failed)

"""A sweep's folder goes on with more of the same, and with nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Picture

from harness.errors import InputError
from harness.results.folder.continuation import refusals
from tests.sweeps import NEAR, SQUARES, Runner, Tally, rows, sweep

OLD: dict[str, Any] = {
    "name": "toy",
    "seed": 0,
    "shots": [2],
    "seeds": [0],
    "datasets": [{"use": "mvtec", "label": "mvtec", "categories": ["pill"], "queries": None}],
    "methods": [{"use": "padim", "label": "padim", "params": {"channels": 50}, "shots": None}],
    "generators": {"g": {"use": "dreambooth", "pool": 30}},
}


def changed(**values: Any) -> dict[str, Any]:
    return {**OLD, **values}


@pytest.mark.parametrize(
    "new",
    [
        changed(shots=[2, 4]),
        changed(seeds=[1, 0]),
        changed(description="said anew"),
        changed(datasets=[{**OLD["datasets"][0], "categories": ["bottle", "pill"]}]),
        changed(datasets=[{**OLD["datasets"][0], "categories": None}]),
        changed(datasets=[*OLD["datasets"], {"use": "elpv", "label": "elpv"}]),
        changed(methods=[{"use": "winclip", "label": "winclip"}, *OLD["methods"]]),
        changed(generators={**OLD["generators"], "h": {"use": "dreambooth"}}),
    ],
)
def test_more_is_welcome(new: dict[str, Any]) -> None:
    assert refusals(OLD, new) == []


@pytest.mark.parametrize(
    ("new", "words"),
    [
        (changed(shots=[4]), "shots lacks 2"),
        (changed(seed=1), "seed was 0, is 1"),
        (changed(methods=[]), "'padim' is gone"),
        (
            changed(methods=[{**OLD["methods"][0], "params": {"channels": 60}}]),
            "params of 'padim' was {'channels': 50}, is {'channels': 60}",
        ),
        (
            changed(datasets=[{**OLD["datasets"][0], "queries": {"normal": 1}}]),
            "queries of 'mvtec' was None",
        ),
        (changed(generators={"g": {"use": "dreambooth", "pool": 8}}), "pool of 'g' was 30, is 8"),
    ],
)
def test_what_would_mix_two_sweeps_is_refused(new: dict[str, Any], words: str) -> None:
    (reason,) = refusals(OLD, new)
    assert words in reason


def test_a_finished_sweep_takes_a_seed_and_a_method_more(
    run_sweep: Runner, tmp_path: Path, tally: Tally
) -> None:
    assert run_sweep(sweep(seeds=[0])) == 0
    before = rows(tmp_path / "runs" / "toy")
    more = sweep(seeds=[0, 1], methods=[{"use": NEAR}, {"use": "mean_color"}])
    assert run_sweep(more) == 0
    after = rows(tmp_path / "runs" / "toy")
    assert [row for row in after if row in before] == before, "what was there stays, to the digit"
    assert len(after) == 4 * len(before)
    with pytest.raises(InputError, match="'mean_color' is gone"):
        run_sweep(sweep(seeds=[0, 1], datasets=[{"use": SQUARES}]))


def test_a_sweep_of_data_that_are_here_goes_on_when_the_others_are(
    run_sweep: Runner, tmp_path: Path
) -> None:
    data = tmp_path / "data/mine"
    for i, name in enumerate(["train/good/0", "train/good/1", "test/good/0", "test/hole/0"]):
        (data / "cup" / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 256, (8, 8, 3), np.uint8)
        Picture.fromarray(pixels).save(data / "cup" / f"{name}.png")
    entries = sweep(
        datasets=[
            {"use": "folder", "params": {"root": str(data)}, "label": "mine"},
            {"use": SQUARES, "label": "here"},
        ]
    )
    data.rename(tmp_path / "away")
    with pytest.raises(InputError, match="mine"):
        run_sweep(entries)
    assert run_sweep(entries, only=("dataset=here",)) == 0
    folder = tmp_path / "runs/toy"
    assert {row["dataset"] for row in rows(folder)} == {"here"}
    (tmp_path / "away").rename(data)
    assert run_sweep(entries) == 0
    supports = json.loads((folder / "support.json").read_text())
    data.rename(tmp_path / "away")
    assert run_sweep(entries, only=("dataset=here",)) == 0
    assert {row["dataset"] for row in rows(folder)} == {"here", "mine"}
    assert json.loads((folder / "support.json").read_text()) == supports

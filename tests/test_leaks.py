"""What supports share with queries: never drawn by default, counted where a dataset says so."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture

from harness import config
from harness.errors import InputError
from harness.keys import Cell
from harness.planning.inputs import SweepInputs, collect_inputs
from tests.sweeps import Runner, rows, sweep, written

pytestmark = pytest.mark.usefixtures("toys")

CODE = """
from pathlib import Path
from harness.interface import Dataset, Sample

class Patients(Dataset):
    def __init__(self, root: str, shared: bool = False) -> None:
        self.root, self.shares_groups = Path(root), shared
    def categories(self):
        return ["eye"]
    def _of(self, part):
        names = sorted(p.name for p in (self.root / part).iterdir())
        return [Sample(f"{part}/{n}", int("bad" in n), group=n.split("-")[0]) for n in names]
    def train(self, category):
        return self._of("train")
    def test(self, category):
        return self._of("test")
"""


@pytest.fixture
def eyes(tmp_path: Path) -> Path:
    """Patients 0 to 5 in train, twice each; of these 0, 1 and 2 are tested, and 7."""
    names = [f"train/{patient}-{eye}.png" for patient in range(6) for eye in range(2)]
    names += [f"test/{patient}-good.png" for patient in (0, 1, 7)] + ["test/2-bad.png"]
    for number, name in enumerate(names):
        path = tmp_path / "eyes" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Picture.fromarray(pixels).save(path)
    (tmp_path / "patients.py").write_text(CODE)
    return tmp_path


def inputs(eyes: Path, shots: int = 6, **entry: object) -> SweepInputs:
    conf = config_of(eyes, shots, **entry)
    path = written(eyes / "conf.yaml", conf)
    return collect_inputs(config.load(path), path, str(eyes))


def config_of(eyes: Path, shots: int, **entry: object) -> dict[str, object]:
    dataset = {"use": str(eyes / "patients.py"), "label": "eyes", **entry}
    dataset["params"] = {"root": "eyes", **dict(entry.get("params") or {})}  # type: ignore[call-overload]
    return sweep(datasets=[dataset], methods=[{"use": "mean_color"}], shots=[shots], seeds=[0, 1])


def patients(collected: SweepInputs) -> set[str]:
    seeds = collected.supports["eyes"]["eye"]
    return {name.split("/")[1].split("-")[0] for names in seeds.values() for name in names}


def test_patients_that_are_tested_are_never_drawn(eyes: Path) -> None:
    collected = inputs(eyes)
    assert patients(collected) == {"3", "4", "5"}
    assert collected.support_leaks(Cell("mean_color", "eyes", "eye", 6, 0)) == 0
    assert collected.remarks == []


def test_where_too_few_are_left_it_is_said(eyes: Path) -> None:
    with pytest.raises(InputError, match=r"6 normal training images can be drawn .*tested too"):
        inputs(eyes, 7)


def test_a_published_partition_keeps_them_and_counts_them(eyes: Path) -> None:
    collected = inputs(eyes, 12, params={"shared": True})
    assert patients(collected) == set("012345")
    assert collected.support_leaks(Cell("mean_color", "eyes", "eye", 12, 0)) == 6
    few = [collected.support_leaks(Cell("mean_color", "eyes", "eye", k, 1)) for k in range(1, 13)]
    assert few == sorted(few)
    (note,) = collected.remarks
    assert note["method"] == "eyes"
    assert "2 of 2 supports leak: up to 6 of 12 images" in note["note"]


def test_only_queries_that_are_asked_for_are_touched(eyes: Path) -> None:
    entry = {"params": {"shared": True}, "queries": ["test/7-good.png", "test/2-bad.png"]}
    collected = inputs(eyes, 12, **entry)
    assert collected.support_leaks(Cell("mean_color", "eyes", "eye", 12, 0)) == 2


def test_a_support_of_somebody_else_is_kept_and_counted(eyes: Path) -> None:
    names = ["train/0-0.png", "train/4-0.png"]
    theirs = {"eyes": {"eye": {"0": names, "1": names}}}
    (eyes / "theirs.json").write_text(json.dumps(theirs))
    collected = inputs(eyes, 2, support="theirs.json")
    assert collected.support_leaks(Cell("mean_color", "eyes", "eye", 2, 0)) == 1


def test_the_count_stands_beside_the_result(
    eyes: Path, run_sweep: Runner, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    conf = config_of(eyes, 12, params={"shared": True})
    for _ in range(2):  # computed, then resumed
        assert run_sweep(conf, data_root=str(eyes), quiet=False) == 0
        table = rows(tmp_path / "runs/toy")
        assert [row["support_leaks"] for row in table] == ["6", "6"]
        assert all(0.5 <= float(row["trivial_auroc"]) <= 1 for row in table)
        printed = capsys.readouterr()
        assert "! eyes: 2 of 2 supports leak" in printed.err
        assert "eyes: 2 of 2 supports leak" in printed.out  # under the tables

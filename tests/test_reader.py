"""A sweep's folder as its report reads it: names, what is missing, its size, what is damaged."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import yaml

from harness.results import aggregate, metrics
from harness.results.aggregate import csv_text, read_csv
from harness.results.folder import reader
from harness.storage.store import Store
from tests.folders import folder_of_a_sweep

FAILED = ("mine", "toys", "y", 2, 1)


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    return folder_of_a_sweep(tmp_path / "whole", {"mine": 1.5, "other": 1.0})


def test_definitions_are_those_of_images_then_what_pixels_add() -> None:
    titles = {name: metric.title for name, metric in metrics.RECORDS.items()}
    places = {title: place for place, title in enumerate(reader.DEFINITIONS)}
    images = ["image_auroc", "image_auprc", "image_f1_max"]
    order = [*(titles[name] for name in images), "Pixel metrics", titles["pixel_aupro"], "Scores"]
    assert [places[title] for title in order] == sorted(places[title] for title in order)
    definitions = {metric.definition for metric in metrics.RECORDS.values()}
    assert definitions <= set(reader.DEFINITIONS.values())
    repeated = {titles[name] for name in titles if name.startswith("pixel_")} - {"AUPRO"}
    assert not repeated & set(places), "what is said of images holds for pixels"


def test_a_whole_sweep_lacks_nothing(whole: Path) -> None:
    sweep = reader.load(whole)
    assert sweep.name == "whole"
    assert sweep.gaps == []
    assert sweep.counts == "12 cells finished, 2 methods, 1 dataset, 3 seeds"
    assert sweep.environment["format"] == aggregate.FORMAT
    expected = sweep.expected.sort_values(aggregate.CELL, ignore_index=True)
    pd.testing.assert_frame_equal(expected, sweep.results[aggregate.CELL])


def test_what_failed_is_expected_and_named(tmp_path: Path) -> None:
    skills = {"mine": 1.5, "other": 1.0}
    sweep = reader.load(folder_of_a_sweep(tmp_path / "s", skills, failing=[FAILED]))
    assert sweep.gaps == ["mine, toys, 2 shots: seed 1: y"]
    assert sweep.counts == "11 cells finished, 1 failed, 2 methods, 1 dataset, 3 seeds"
    cells = set(sweep.expected.itertuples(index=False, name=None))
    assert FAILED in cells
    assert len(cells) == 12


def test_a_category_that_failed_for_all_is_in_no_summary_of_before(tmp_path: Path) -> None:
    failing = [("mine", "toys", "y", 2, seed) for seed in range(3)]
    folder = folder_of_a_sweep(tmp_path / "s", {"mine": 1.5}, failing=failing)
    assert read_csv(folder / "summary.csv")["missing"].tolist() == [""]
    assert reader.load(folder).gaps == ["mine, toys, 2 shots: seed 0: y; seed 1: y; seed 2: y"]


def test_the_summary_of_the_sweep_is_taken_unless_it_lacks_a_column(whole: Path) -> None:
    path = whole / "summary.csv"
    summary = read_csv(path)
    own = summary.assign(missing=["", "seed 9: never run"])
    path.write_text(csv_text(own))
    assert reader.load(whole).gaps == ["other, toys, 2 shots: seed 9: never run"]
    path.write_text(csv_text(own.assign(more=1)))
    assert reader.load(whole).gaps == ["other, toys, 2 shots: seed 9: never run"]
    path.write_text(csv_text(own.drop(columns="pixel_aupro_mean")))
    assert reader.load(whole).gaps == []
    path.unlink()
    pd.testing.assert_frame_equal(reader.load(whole).summary, summary, check_dtype=False)


def test_methods_come_as_in_the_config_then_by_name(tmp_path: Path) -> None:
    names = ["z", "c", "a", "f", "b", "e", "d", "g"]
    failing = [("g", "toys", category, 2, 0) for category in "xy"]
    folder = folder_of_a_sweep(
        tmp_path / "s", dict.fromkeys(names, 1.0), {"toys": "xy"}, seeds=1, failing=failing
    )
    entries = ["use", {"label": "q"}, {"use": "knn", "label": "z"}, {"use": "never"}, {"use": "c"}]
    config = {"name": "", "methods": entries, "datasets": [{"use": "toys"}]}
    (folder / "sweep.yaml").write_text(yaml.safe_dump(config))
    sweep = reader.load(folder)
    assert sweep.uses == {"z": "knn", "never": "never", "c": "c", "toys": "toys"}
    assert sweep.methods == ["z", "c", "a", "b", "d", "e", "f", "g"]
    assert sweep.name == "s", "a config without a name leaves the folder's"


def test_a_folder_without_its_other_files_is_read(whole: Path) -> None:
    for path in whole.iterdir():
        if path.is_file() and path.name != "results.csv":
            path.unlink()
    sweep = reader.load(whole)
    assert (sweep.config, sweep.environment, sweep.notes, sweep.audit) == ({}, {}, [], None)
    assert [len(frame) for frame in (sweep.failed, sweep.timings, sweep.costs)] == [0, 0, 0]
    assert list(sweep.costs.columns) == [*aggregate.GROUP, "total_ms"]
    assert list(sweep.failed.columns) == [*aggregate.CELL, "task", "error", "traceback"]
    assert reader.supports(whole) == {}
    assert sweep.methods == ["mine", "other"]


def test_notes_and_supports_are_read_as_they_are(whole: Path) -> None:
    (whole / "notes.json").write_text(json.dumps([{"method": "mine", "note": 3}, "x", {}]))
    assert reader.load(whole).notes == [
        {"method": "mine", "note": "3"},
        {"method": "", "note": ""},
    ]
    assert reader.supports(whole) == {
        f"toys/{category} seed {seed}": [f"{seed}.png"] for category in "xy" for seed in range(3)
    }
    (whole / "notes.json").write_text(json.dumps({"not": "a list"}))
    assert reader.load(whole).notes == []


@pytest.mark.parametrize("format", [aggregate.FORMAT + 1, "new", None])
def test_a_folder_of_a_newer_format_is_refused(whole: Path, format: object) -> None:
    (whole / "environment.json").write_text(json.dumps({"format": format}))
    with pytest.raises(ValueError, match=r"environment\.json: format: written by a newer version"):
        reader.load(whole)


@pytest.mark.parametrize("name", ["environment.json", "notes.json", "sweep.yaml", "audit.json"])
def test_what_cannot_be_read_is_named(whole: Path, name: str) -> None:
    (whole / name).write_text("{")
    with pytest.raises(ValueError, match=name.replace(".", r"\.")) as caught:
        reader.load(whole)
    assert "\n" not in str(caught.value)


def test_a_row_without_its_timing_was_not_written_to_its_end(whole: Path) -> None:
    timings = whole / "timings.csv"
    frame = read_csv(timings)
    frame.iloc[1:].to_csv(timings, index=False)
    assert len(reader.load(whole).results) == 12, "of before there were digests"
    header, *rows = timings.read_text().splitlines()
    results = (whole / "results.csv").read_text()
    text = "\n".join([header, *rows, ""])
    beside = reader.seal.values_of(results, aggregate.CELL)
    timings.write_text(reader.seal.sealed(text, aggregate.CELL, beside))
    sweep = reader.load(whole)
    assert len(sweep.results) == 11
    assert tuple(frame.iloc[0][aggregate.CELL]) not in set(
        sweep.results[aggregate.CELL].itertuples(index=False, name=None)
    )
    assert not any(str(column).endswith("digest") for column in sweep.timings)


def test_a_folder_that_is_not_what_was_written_is_refused(
    whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader.integrity, "PAUSE", 0.0)
    reader.integrity.list_files(Store(str(whole.parent)), whole.name)
    assert len(reader.load(whole).results) == 12
    support = whole / "support.json"
    support.write_text(support.read_text().replace("0.png", "9.png"))
    with pytest.raises(ValueError, match=r"support\.json: damaged, not what was written"):
        reader.load(whole)

"""All sweeps of a storage on one page, in a browser where there is one."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from harness.__main__ import main
from harness.reporting import leaderboard
from harness.storage.store import Store
from tests.folders import folder_of_a_sweep


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    folder_of_a_sweep(tmp_path / "one", {"a": 1.0, "b": 2.0}, {"toys": ["x", "y"], "elpv": ["c"]})
    folder_of_a_sweep(
        tmp_path / "two&more",
        {"a": 1.5},
        shots=(2, 8),
        methods=[{"use": "winclip", "label": "a", "params": {"encoder": {"model": "micro"}}}],
    )
    (tmp_path / ".artifacts" / "x").mkdir(parents=True)
    return tmp_path


def test_every_mean_is_there_once_and_links_to_its_report(storage: Path) -> None:
    assert main(["leaderboard", str(storage)]) == 0
    html = (storage / leaderboard.PAGE).read_text()
    rows, problems = leaderboard.rows(Store(str(storage)))
    assert problems == []
    keys = [(row.sweep, row.method, row.dataset, row.shots) for row in rows]
    assert len(keys) == len(set(keys)) == 6
    assert html.count("<tr data-dataset") == 6
    assert 'href="two%26more/report.html"' in html
    assert "two&amp;more" in html
    assert "src=" not in html
    for row in rows:
        assert f">{row.metrics['image_auroc'][1]}</a>" in html


def test_profiles_are_told_by_the_models(storage: Path) -> None:
    rows, _ = leaderboard.rows(Store(str(storage)))
    assert {row.sweep: row.profile for row in rows}["two&more"] == "micro"
    config = {"generators": {"g": {"use": "dreambooth", "params": {"base": "micro"}}}}
    for entry, profile in (
        ({"use": "patchcore"}, "micro"),  # its default is a small network
        ({"use": "winclip"}, "full"),
        ({"use": "o2n", "generator": "g"}, "micro"),
        (
            {"use": "winclip", "params": {"encoder": {"model": "ViT-B-16", "weights": "random:0"}}},
            "random",
        ),
        ({"use": "gone:Away"}, "full"),
    ):
        assert leaderboard.profile(config, entry) == profile


def test_a_damaged_sweep_is_named_and_the_others_stay(
    storage: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (storage / "one" / "results.csv").write_text("method\n1,2\n")
    newer = json.loads((storage / "two&more" / "environment.json").read_text()) | {"format": 99}
    folder_of_a_sweep(storage / "later", {"a": 1.0})
    (storage / "later" / "environment.json").write_text(json.dumps(newer))
    assert main(["leaderboard", str(storage)]) == 0
    err = capsys.readouterr().err
    assert "not read: one: " in err
    assert re.search(
        r"not read: later: .*format: written by a newer version.*at most 2, got 99", err
    )
    assert "two&amp;more" in (storage / leaderboard.PAGE).read_text()


def test_an_empty_storage_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["leaderboard", str(tmp_path)]) == 2
    assert "expected a storage with sweeps" in capsys.readouterr().err


def test_old_folders_stay_readable(storage: Path) -> None:
    """A folder from before some metrics, with a summary and timings of fewer columns."""
    from harness.reporting import report

    folder = storage / "one"
    (folder / "environment.json").unlink()
    for name, gone in (
        ("results.csv", ("image_f1_max", "pixel_aupro", "status")),
        ("summary.csv", ("image_f1_max_mean", "pixel_aupro_n", "missing")),
        ("timings.csv", ("fit_s",)),
    ):
        lines = [line.split(",") for line in (folder / name).read_text().splitlines()]
        keep = [i for i, head in enumerate(lines[0]) if head not in gone]
        text = "\n".join(",".join(line[i] for i in keep) for line in lines)
        (folder / name).write_text(text + "\n")
    for format in report.FORMATS:
        assert "elpv" in report.render(folder, format)

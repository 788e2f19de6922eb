"""Two sweeps beside each other, through the command line."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from harness.__main__ import main
from harness.reporting import compare
from harness.results import comparison
from tests.folders import folder_of_a_sweep


@pytest.fixture
def before(tmp_path: Path) -> Path:
    return folder_of_a_sweep(tmp_path / "before", {"mine": 1.6, "other": 1.0}, shots=(2, 4))


def after(tmp_path: Path, skill: float, **changes: object) -> Path:
    skills = {"mine": skill, "other": 1.0}
    return folder_of_a_sweep(tmp_path / "after", skills, shots=(2, 4), **changes)  # type: ignore


def test_differences_are_of_the_shared_means(before: Path, tmp_path: Path) -> None:
    compared = comparison.compare([before, after(tmp_path, 0.6)])[0]
    assert compared.shared == 24
    assert compared.same == 12  # the other method's
    frames = [pd.read_csv(folder / "results.csv") for folder in (before, tmp_path / "after")]
    change = next(c for c in compared.changes if (c.metric, c.method) == ("image_auroc", "mine"))
    means = [
        f[(f["method"] == "mine") & (f["shots"] == change.shots)].groupby("seed")["image_auroc"]
        for f in frames
    ]
    x, y = (mean.mean().to_numpy() for mean in means)
    assert change.sure.mean == pytest.approx(float((y - x).mean()))
    assert change.sure.low < change.sure.mean < change.sure.high < 0
    assert change.p_holm >= change.sure.p
    still = next(c for c in compared.changes if (c.metric, c.method) == ("image_auroc", "other"))
    assert still.sure.mean == 0
    assert np.isnan(still.sure.low)  # no interval of width zero
    assert ("code, data or settings", "keys of 24 cells", "12 of them others") in compared.differing


@pytest.mark.parametrize(
    ("skill", "options", "status"),
    [
        (0.6, [], 0),
        (0.6, ["--fail-below", "1"], 1),
        (0.6, ["--fail-below", "-1"], 1),  # a fall, with or without its sign
        (0.6, ["--fail-below", "90"], 0),
        (1.6, ["--fail-below", "0"], 0),
        (3.0, ["--fail-below", "0"], 0),  # better is not worse
    ],
)
def test_exit_status(
    before: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    skill: float,
    options: list[str],
    status: int,
) -> None:
    second = after(tmp_path, skill)
    assert main(["compare", str(before), str(second), *options]) == status
    printed = capsys.readouterr()
    assert ("worse: mine, toys, 2 shots: AUROC" in printed.err) == (status == 1)
    assert "other" in printed.out


def test_a_cell_that_failed_is_worse_and_a_smaller_sweep_is_not(
    before: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    second = after(tmp_path, 1.6, failing=[("mine", "toys", "y", 4, 1)])
    assert main(["compare", str(before), str(second), "--fail-below", "0"]) == 1
    assert "failed: mine, toys, 4 shots: y seed 1" in capsys.readouterr().err
    (second / "failures.csv").unlink()
    assert main(["compare", str(before), str(second), "--fail-below", "0"]) == 0
    assert "only in before: mine, toys, 4 shots: y seed 1" in capsys.readouterr().out


def test_what_differs_is_named(before: Path, tmp_path: Path) -> None:
    second = after(
        tmp_path,
        1.6,
        environment={"commit": "f" * 40, "data": {"toys": "1234"}},
        methods=[{"use": "mine", "params": {"size": 64}}, {"use": "other"}],
    )
    support = json.loads((second / "support.json").read_text())
    support["toys"]["x"]["1"] = ["another.png"]
    (second / "support.json").write_text(json.dumps(support))
    differing = {name: (x, y) for name, x, y in comparison.compare([before, second])[0].differing}
    assert differing["environment commit"] == ("0123abcd" * 5, "f" * 40)
    assert differing["config methods[mine].params.size"] == ("–", "64")
    assert differing["data toys"] == ("–", "1234")
    assert differing["support images"] == ("as drawn for toys/x seed 1", "others")
    assert not any(name.startswith("config name") for name in differing)


def test_queries_are_paired_by_name_whatever_their_order(before: Path, tmp_path: Path) -> None:
    second = after(tmp_path, 1.6)
    for path in second.rglob("k*.csv"):
        head, *lines = path.read_text().splitlines()
        path.write_text("\n".join([head, *reversed(lines)]) + "\n")
    changes = comparison.compare([before, second])[0].changes
    assert all(change.sure.mean == 0 and np.isnan(change.sure.low) for change in changes)


def test_bad_folders_are_one_line(
    before: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    strange = folder_of_a_sweep(tmp_path / "strange", {"strange": 1.0}, {"else": ["z"]})
    for folders, words in (
        ([before], "two or more"),
        ([before, tmp_path / "nowhere"], "nowhere: expected a sweep's folder"),
        ([before, strange], "no cell in common"),
    ):
        assert main(["compare", *map(str, folders)]) == 2
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 1


def test_formats(before: Path, tmp_path: Path) -> None:
    second = after(tmp_path, 0.6)
    third = folder_of_a_sweep(tmp_path / "third<b>", {"mine": 2.0}, shots=(2,))
    compared = comparison.compare([before, second, third], 1)
    text = compare.render(compared, "text")
    assert "after against before" in text
    assert max(map(len, text.splitlines())) < 120
    markdown = compare.render(compared, "markdown")
    assert "| toys | 2 | mine |" in markdown
    assert "third\\<b\\> against before" in markdown
    html = compare.render(compared, "html")
    assert "third&lt;b&gt; against before" in html
    assert "<b>" not in html
    assert "http" not in html
    HTMLParser().feed(html)
    body = html[html.index("<main>") : html.index("</main>") + 7].replace("<br>", "")
    tables = ElementTree.fromstring(body).findall(".//table")
    assert len(tables) == 6  # AUROC, AUPRC and what differs, twice
    assert all(head.get("scope") == "col" for table in tables for head in table.iter("th"))

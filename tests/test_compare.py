"""Two sweeps beside each other, through the command line."""

from __future__ import annotations

import json
import shutil
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from harness.__main__ import main
from harness.reporting import compare
from harness.results import comparison
from harness.results.aggregate import csv_text, results_frame
from harness.results.comparison import Change, Comparison
from harness.results.intervals import Interval
from tests.folders import folder_of_a_sweep


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("original") / "before"
    return folder_of_a_sweep(folder, {"mine": 1.6, "other": 1.0}, shots=(2, 4))


@pytest.fixture
def before(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "before"))


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
        environment={"commit": "f" * 40, "data": {"toys": "0123456789abcdef" * 2}},
        methods=[{"use": "mine", "params": {"size": 64}}, {"use": "other"}],
    )
    for folder, names in ((before, ["a.png", "b.png"]), (second, ["a.png", "another.png"])):
        support = json.loads((folder / "support.json").read_text())
        support["toys"]["x"]["1"] = names
        (folder / "support.json").write_text(json.dumps(support))
    differing = {name: (x, y) for name, x, y in comparison.compare([before, second])[0].differing}
    assert differing["environment commit"] == ("0123abcd" * 5, "f" * 40)
    assert differing["config methods[mine].params.size"] == ("–", "64")
    assert differing["data toys"] == ("–", "0123456789abcdef")
    assert differing["support images"] == ("as drawn for toys/x seed 1", "others")
    assert not any(name.startswith("config name") for name in differing)
    assert not any("toys" in name for name in differing if name.startswith("environment"))


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


SURE = Interval(-0.05, -0.08, -0.02, 0.01)
NO_INTERVAL = Interval(0.01, np.nan, np.nan, np.nan)


def change(method: str, metric: str = "image_auroc", shots: int = 2, **others: Any) -> Change:
    values = {"before": 0.9, "after": 0.85, "sure": SURE, "p_holm": 0.02, "seeds": 3}
    return Change(metric=metric, method=method, dataset="d", shots=shots, **values | others)


def compared(changes: list[Change], **others: Any) -> Comparison:
    values: dict[str, Any] = {"new": [], "lost": [], "failed": [], "differing": []}
    return Comparison(("old", "new"), 12, 3, changes, **values | others)


def test_tables_of_changes_by_metric_and_what_differs() -> None:
    changes = [
        change("b", shots=4),
        change("a", shots=4, sure=NO_INTERVAL, p_holm=np.nan, seeds=1),
        change("b", "pixel_aupro"),
        change("b"),
    ]
    long = ("setting", "x" * 40, "y" * 41)
    first, second, differing = compare.tables(compared(changes, differing=[long]))
    row = ["90.0", "85.0", "-5.0", "-8.0 to -2.0", "0.020", "3"]
    assert first.rows == [
        ["d", "2", "b", *row],
        ["d", "4", "a", *row[:2], "+1.0", "–", "–", "1"],
        ["d", "4", "b", *row],
    ]
    assert second.rows == [["d", "2", "b", *row]]
    assert first.columns[3:5] == ["old", "new"]
    assert first.names == differing.names == 3
    assert differing.rows == [["setting", "x" * 40, "y" * 39 + "…"]]
    for count, last in ((40, "s39"), (41, "and 1 more"), (45, "and 5 more")):
        settings = [(f"s{i}", "x", "y") for i in range(count)]
        rows = compare.tables(compared([], differing=settings))[-1].rows
        assert len(rows) == min(count, 41)
        assert rows[-1][0] == last


def test_lines_of_all_else() -> None:
    fallen = [change("a", "image_auprc")]
    shown = compare.lines(compared([change("a", seeds=2)], fallen=fallen, failed=["f"]))
    assert shown == [
        "12 cells in common, 3 of them with the same figures",
        "worse: a, d, 2 shots: AUPRC 90.0 to 85.0",
        "failed: f",
    ]
    few, many = [f"c{i}" for i in range(10)], [f"c{i}" for i in range(12)]
    shown = compare.lines(compared([change("a"), change("b", seeds=1)], new=few, lost=many))
    assert shown[1:11] == [f"only in new: {cell}" for cell in few]
    assert shown[11:] == [
        *(f"only in old: {cell}" for cell in few),
        "only in old: and 2 more groups",
    ]
    alone = compare.lines(compared([change("a", seeds=1), change("b", seeds=1)]))
    assert alone[1:] == ["One seed in common shows no spread: no intervals."]


def test_texts_hold_every_table_and_line() -> None:
    one = compared([change("a")], lost=["gone"], differing=[("setting", "x", "y")])
    for format, heading in (("text", "new against old\n"), ("markdown", "# new against old\n")):
        text = compare.render([one], format)
        assert text.startswith(heading)
        for words in ("differences in points", "What differs", "setting", "only in old: gone"):
            assert words in text, (format, words)
        assert text.endswith("only in old: gone\n")
    assert "What differs" not in compare.render([compared([change("a")])], "text")


@pytest.fixture
def uneven(tmp_path: Path) -> tuple[Path, Path]:
    """Two sweeps of other seeds, shots, categories and names; of each, some cells are alone."""
    skills = {"mine": 1.0, "other": 1.0}
    old = folder_of_a_sweep(tmp_path / "old" / "s", skills, {"d": ["x", "y"]}, shots=(2, 4))
    new = folder_of_a_sweep(tmp_path / "new" / "s", skills, {"d": ["x", "y"], "e": ["e"]}, seeds=4)
    for folder, method, metric in ((old, "mine", 0.5), (new, "other", 0.5)):
        table = pd.read_csv(folder / "results.csv")
        cell = (table["method"] == method) & (table["category"] == "x") & (table["seed"] == 2)
        table.loc[cell & (table["dataset"] == "d"), "pixel_auroc"] = metric
        (folder / "results.csv").write_text(csv_text(results_frame(plain(table))))
    return old, new


def plain(table: pd.DataFrame) -> list[dict[str, Any]]:
    rows = table.to_dict("records")
    return [{k: v for k, v in row.items() if v == v} for row in rows]


def test_cells_that_only_one_has(uneven: tuple[Path, Path]) -> None:
    old, new = uneven
    one = comparison.compare([old, new])[0]
    assert one.names == (str(old), str(new)), "of one name, they are told by their paths"
    assert one.shared == 2 * 2 * 3
    assert one.same == 12 - 2, "a value that only one has is no equal figure; two undefined are"
    assert one.lost == [
        f"{method}, d, 4 shots: x seed 0, x seed 1, x seed 2 and 3 more"
        for method in ("mine", "other")
    ]
    assert one.new == [
        f"{method}, {rest}"
        for method in ("mine", "other")
        for rest in (
            "d, 2 shots: x seed 3, y seed 3",
            "e, 2 shots: seed 0, seed 1, seed 2 and 1 more",
        )
    ]
    assert one.failed == []
    assert {(c.method, c.dataset, c.shots, c.seeds) for c in one.changes} == {
        (method, "d", 2, 3) for method in ("mine", "other")
    }
    assert set(one.frame["difference"]) == {0.0}
    assert "sure" not in one.frame
    differing = {name: (x, y) for name, x, y in one.differing}
    assert differing["queries e/e"] == ("–", "26 normal, 14 anomalous")
    assert differing["config seeds"] == ("[0, 1, 2]", "[0, 1, 2, 3]")
    assert not {"support images", "code, data or settings", "config name"} & set(differing)


def test_a_mean_is_over_the_categories_that_both_have(tmp_path: Path) -> None:
    names = {"a": 1.0, "b": 1.0}
    old = folder_of_a_sweep(tmp_path / "old", names)
    new = folder_of_a_sweep(
        tmp_path / "new", names, failing=[("a", "toys", "y", 2, s) for s in range(3)]
    )
    one = comparison.compare([old, new])[0]
    assert one.shared == 9
    assert {(c.method, c.seeds) for c in one.changes} == {("a", 3), ("b", 3)}
    assert one.failed == ["a, toys, 2 shots: y seed 0, y seed 1, y seed 2"]


@pytest.mark.parametrize("lacking", [0, 1])
def test_seeds_are_those_of_which_both_know_the_metric(
    lacking: int, before: Path, tmp_path: Path
) -> None:
    folders = [before, after(tmp_path, 0.6)]
    table = folders[lacking] / "results.csv"
    frame = pd.read_csv(table)
    frame.loc[(frame["seed"] == 0) & (frame["method"] == "mine"), "image_auroc"] = np.nan
    frame.to_csv(table, index=False)
    changes = comparison.compare(folders)[0].changes
    seeds = {(c.metric, c.method): c.seeds for c in changes}
    assert seeds["image_auroc", "mine"] == seeds["image_auroc", "other"] - 1
    change = next(c for c in changes if (c.metric, c.method) == ("image_auroc", "mine"))
    known = {"method": "mine", "shots": change.shots}
    means = []
    for folder in folders:
        table = pd.read_csv(folder / "results.csv")
        cells = table[(table[list(known)] == pd.Series(known)).all(axis=1) & (table["seed"] != 0)]
        means.append(cells["image_auroc"].mean())
    assert change.sure.mean == pytest.approx(means[1] - means[0])


def test_a_method_of_which_one_knows_nothing_hides_no_other(before: Path, tmp_path: Path) -> None:
    """The first in order; the second has every value in both."""
    folders = [before, after(tmp_path, 0.6)]
    for folder, seeds in zip(folders, ([0, 1], [2, 3, 4]), strict=True):
        frame = pd.read_csv(folder / "results.csv")
        lacking = frame["seed"].isin(seeds) & (frame["method"] == "mine")
        frame.loc[lacking, "image_auroc"] = np.nan
        frame.to_csv(folder / "results.csv", index=False)
    one = comparison.compare(folders)[0]
    assert {c.method for c in one.changes if c.metric == "image_auroc"} == {"other"}
    assert {c.method for c in one.changes if c.metric == "image_auprc"} == {"mine", "other"}


def test_a_fall_of_exactly_so_much_is_none(before: Path, tmp_path: Path) -> None:
    second = after(tmp_path, 0.6)
    first = comparison.compare([before, second])[0]
    assert first.fallen == []
    worst = min(first.changes, key=lambda c: c.sure.mean)
    points = -100 * worst.sure.mean
    assert comparison.compare([before, second], points)[0].fallen == []
    fallen = comparison.compare([before, second], points - 1e-6)[0].fallen
    assert [(c.metric, c.shots) for c in fallen] == [(worst.metric, worst.shots)]

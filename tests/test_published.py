"""The papers' tables as entered, read off them a second time; and what stands beside them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from harness.errors import InputError, Problem
from harness.results import published

# (table, method, dataset, shots, metric, mean, deviation), read off the papers one by one
PRINTED = [
    ("o2n_table1", "padim", "mvtec", 2, "image_auroc", 78.5, 2.5),
    ("o2n_table1", "o2n", "aitex", 2, "image_auprc", 53.6, 1.2),
    ("o2n_table1", "inctrl", "ksdd", 2, "image_auroc", 97.2, 2.9),
    ("o2n_table1", "coop", "visa", 4, "image_auprc", 84.2, 1.6),
    ("o2n_table1", "regad", "elpv", 8, "image_auprc", 69.6, 1.5),
    ("o2n_table2", "winclip", "resc", 2, "image_auroc", 85.46, 2.1),
    ("o2n_table2", "padim", "brainmri", 2, "image_auroc", 65.7, 12.2),
    ("o2n_table2", "patchcore", "oct2017", 4, "image_auprc", 88.1, 2.0),
    ("o2n_table2", "o2n", "headct", 8, "image_auprc", 99.1, 0.6),
    ("o2n_table3", "coop", "mnist", 2, "image_auroc", 55.7, 0.6),
    ("o2n_table3", "inctrl", "cifar10", 8, "image_auprc", 99.4, 0.1),
    ("o2n_table4", "o2n-single-1", "resc", 8, "image_auroc", 39.6, None),
    ("o2n_table4", "o2n-pair-2", "cifar10", 8, "image_auroc", 88.2, None),
    ("o2n_table5", "o2n-no-text", "headct", 8, "image_auroc", 93.9, None),
    ("adp_table1", "adp-label", "visa", 16, "image_auroc", 90.1, 0.5),
    ("adp_table1", "winclip", "mvtec", 8, "image_auroc", 94.6, 0.1),
    ("adp_table2", "adp-ca", "visa", 4, "image_auroc", 85.3, None),
]


def test_published_tables_are_whole() -> None:
    frame = published.read()
    sizes = {"o2n_table1": 210, "o2n_table2": 132, "o2n_table3": 72, "o2n_table4": 66}
    sizes |= {"o2n_table5": 22, "adp_table1": 24, "adp_table2": 8}
    assert frame.groupby("table").size().to_dict() == sizes
    assert not frame.duplicated(["table", "method", "dataset", "shots", "metric"]).any()
    assert frame["mean"].between(0.1, 1).all()
    by_key = frame.set_index(["table", "method", "dataset", "shots", "metric"])
    for *key, mean, std in PRINTED:
        row = by_key.loc[tuple(key)]
        assert row["mean"] == pytest.approx(mean / 100)
        assert np.isnan(row["std"]) if std is None else row["std"] == pytest.approx(std / 100)


def test_tables_that_repeat_a_number_agree() -> None:
    """Tables 4 and 5 end with the headline row: the 8-shot AUROC of Tables 1 to 3."""
    frame = published.read()
    ours = frame[(frame["method"] == "o2n") & (frame["metric"] == "image_auroc")]
    eight = ours[ours["shots"] == 8].groupby("dataset")["mean"]
    assert (eight.nunique() == 1).all()
    assert (eight.size() == 3).all()
    assert len(eight) == 11


def test_a_bad_published_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no tables"):
        published.read(tmp_path)
    (tmp_path / "x.yaml").write_text("source: y\nresults: [{method: a}]")
    with pytest.raises(ValueError, match=r"x\.yaml: not a table"):
        published.read(tmp_path)


def result(method: str, dataset: str, shots: int, **values: list[float | None]) -> str:
    figures = ", ".join(f"{metric}: {pair}" for metric, pair in values.items())
    row = f"{{method: {method}, dataset: {dataset}, shots: {shots}, {figures}}}"
    return row.replace("None", "null")


def tables(folder: Path, **results: list[str]) -> Path:
    """Tables of one paper each, by the file's stem."""
    for stem, rows in results.items():
        text = f"source: {stem.upper()}\nruns: 1\nnotes: ''\nresults: [{', '.join(rows)}]\n"
        (folder / f"{stem}.yaml").write_text(text)
    return folder


@pytest.fixture
def papers(tmp_path: Path) -> Path:
    headline = result("knn", "toys", 2, image_auroc=[80.0, 1.5], image_auprc=[60.0, None])
    four = result("knn", "toys", 4, image_auroc=[90.0, None])
    return tables(
        tmp_path,
        one_1=[headline, four, result("knn", "else", 2, image_auroc=[50.0, None])],
        one_2=[result("knn", "toys", 2, image_auroc=[80.0, 1.5], image_auprc=[61.0, None])],
        two_1=[result("knn", "toys", 2, image_auroc=[80.0, None])],
    )


def summary(*rows: tuple[str, str, int, float, float]) -> pd.DataFrame:
    names = ["method", "dataset", "shots", "image_auroc_mean", "image_auprc_mean"]
    frame = pd.DataFrame(rows, columns=names)
    return frame.assign(image_auroc_std=0.01, image_auprc_std=0.02)


def test_tables_are_read_by_name_in_shares(tmp_path: Path) -> None:
    stems = [f"t{i:02d}" for i in range(12)]
    row = result("knn", "toys", 2, image_auroc=[12.5, None], pixel_aupro=[50, 2])
    frame = published.read(tables(tmp_path, **{stem: [row] for stem in stems}))
    assert frame["table"].tolist() == [stem for stem in stems for _ in range(2)]
    assert frame["source"].tolist() == [stem.upper() for stem in stems for _ in range(2)]
    assert frame.columns.tolist() == published.COLUMNS
    first = frame.iloc[:2].set_index("metric")
    assert first["mean"].to_dict() == {"image_auroc": 0.125, "pixel_aupro": 0.5}
    assert first["std"].isna().tolist() == [True, False]


def test_means_stand_beside_the_same_dataset_shots_and_method(papers: Path) -> None:
    """Of one paper a number is there once; another paper's of the same value is another."""
    ours = summary(("mine", "pics", 2, 0.75, 0.65), ("knn", "toys", 8, 0.9, 0.9))
    frame = published.compare(ours, {"mine": "knn", "pics": "toys"}, papers)
    assert list(frame.index) == [0, 1, 2, 3]
    columns = "method dataset shots metric ours ours_std printed_as published published_std"
    assert list(frame.columns) == [*columns.split(), "difference", "table", "source"]
    shown = frame[["metric", "published", "table", "source"]].itertuples(index=False, name=None)
    assert list(shown) == [
        ("image_auprc", 0.6, "one_1", "ONE_1"),
        ("image_auroc", 0.8, "one_1", "ONE_1"),
        ("image_auprc", 0.61, "one_2", "ONE_2"),
        ("image_auroc", 0.8, "two_1", "TWO_1"),
    ]
    assert frame["difference"].tolist() == pytest.approx([0.05, -0.05, 0.04, -0.05])
    assert frame["ours_std"].tolist() == [0.02, 0.01, 0.02, 0.01]
    assert frame["published_std"].fillna(-1).tolist() == [-1, 0.015, -1, -1]
    assert set(frame["method"]) == {"mine"}
    assert set(frame["dataset"]) == {"pics"}
    assert set(frame["printed_as"]) == {"knn"}


def test_a_mean_of_ours_that_is_undefined_hides_no_other(papers: Path) -> None:
    frame = published.compare(summary(("knn", "toys", 2, np.nan, 0.65)), {}, papers)
    assert frame["metric"].tolist() == ["image_auprc", "image_auprc"]
    label = published.compare(summary(("knn", "toys", 4, 0.9, 0.9)), {"knn": "other"}, papers)
    assert label["printed_as"].tolist() == ["knn"], "a label that is printed is meant"
    nothing = published.compare(summary(("knn", "toys", 8, 0.9, 0.9)), {}, papers)
    assert nothing.empty
    assert list(nothing.columns) == list(frame.columns)


def queries(**counts: tuple[int, int]) -> pd.DataFrame:
    """Results whose categories have so many normal and anomalous queries, in two seeds."""
    rows = [("pics", category, seed, *each) for category, each in counts.items() for seed in (0, 1)]
    return pd.DataFrame(rows, columns=["dataset", "category", "seed", "n_normal", "n_anomalous"])


@pytest.mark.parametrize(
    ("counts", "ours"),
    [
        ({"x": (1, 3), "y": (7, 7)}, ""),  # 0.75 and 0.5, as in the paper
        ({"x": (504, 1496), "y": (998, 1002)}, ""),  # within the tolerance
        ({"x": (520, 1480), "y": (500, 500)}, "0.620"),
        ({"x": (7, 7), "y": (1, 3)}, "0.625"),  # one for the other: their mean alone agrees
        ({"x": (10, 30)}, "0.750"),  # a category alone: the mean differs
        ({"x": (10, 30), "y": (20, 20), "z": (3, 5)}, ""),  # an unknown one goes by the mean
        ({"x": (10, 30), "y": (20, 20), "z": (2, 6)}, "0.667"),
    ],
)
def test_what_moves_with_the_prevalence_is_withheld_where_that_differs(
    monkeypatch: pytest.MonkeyPatch, papers: Path, counts: dict[str, tuple[int, int]], ours: str
) -> None:
    plugin = SimpleNamespace(counts={"x": (5, 10, 30), "y": (9, 20, 20)})
    asked = []
    monkeypatch.setattr(published.plugins, "find", lambda *which: asked.append(which) or plugin)
    uses = {"pics": "toys"}
    means = summary(("knn", "pics", 2, 0.75, 0.65), ("knn", "pics", 4, 0.8, 0.8))
    beside = published.compare(means, uses, papers)
    frame = published.withhold(beside, queries(**counts), uses)
    assert asked == [("dataset", "toys")]
    moves = frame["metric"] == "image_auprc"
    assert moves.sum() == 2
    assert (frame["difference"].isna() == (moves & bool(ours))).all()
    reason = f"prevalence {ours} here and 0.625 in the paper's test set" if ours else ""
    assert set(frame.loc[moves, "withheld"]) == {reason}
    assert set(frame.loc[~moves, "withheld"]) == {""}
    kept = frame["difference"].notna()
    assert frame.loc[kept, "difference"].equals(beside.loc[kept, "difference"])
    line = f"‡ pics: AUPRC is not compared, {reason}"
    assert published.withheld(frame) == ([line] if ours else [])


def test_a_dataset_without_official_counts_withholds_nothing(
    monkeypatch: pytest.MonkeyPatch, papers: Path
) -> None:
    beside = published.compare(summary(("knn", "toys", 2, 0.75, 0.65)), {}, papers)
    results = queries(x=(1, 9)).assign(dataset="toys")

    def absent(*_: str) -> None:
        raise InputError(Problem("toys", "not here"))

    for find in (absent, lambda *_: SimpleNamespace(counts={})):
        monkeypatch.setattr(published.plugins, "find", find)
        frame = published.withhold(beside, results, {})
        assert set(frame["withheld"]) == {""}
        assert frame["difference"].equals(beside["difference"])

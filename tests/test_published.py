"""The papers' tables as entered, checked against values read off them a second time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

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

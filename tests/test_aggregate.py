"""Aggregation and paired comparison against the arithmetic spelled out, and CSV byte for byte."""

from __future__ import annotations

import math
import statistics
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from harness.results import aggregate
from harness.results.aggregate import csv_text, read_csv, results_frame, summary_frame


def cell(method: str, category: str, seed: int, auroc: float | None, **more: object) -> dict:
    row = {
        "method": method,
        "dataset": "toys",
        "category": category,
        "shots": 2,
        "seed": seed,
        "n_normal": 10,
        "n_anomalous": 5,
        "image_auroc": auroc,
        "status": "ok" if auroc is not None else "image metrics: only normal images",
    }
    return row | more


def toys(methods: str = "ab", categories: str = "xyz", seeds: int = 4) -> list[dict]:
    rng = np.random.default_rng(0)
    grid = product(methods, categories, range(seeds))
    return [cell(method, category, seed, rng.random()) for method, category, seed in grid]


def by_hand(rows: list[dict], method: str, seeds: list[int]) -> list[float]:
    return [
        statistics.mean(
            row["image_auroc"] for row in rows if row["method"] == method and row["seed"] == seed
        )
        for seed in seeds
    ]


def test_rows_come_out_sorted_and_typed_whatever_their_order() -> None:
    rows = toys()
    frame = results_frame(rows)
    assert list(frame.columns) == aggregate.RESULT_COLUMNS
    assert list(frame[aggregate.CELL].itertuples(index=False, name=None)) == sorted(
        tuple(row[name] for name in aggregate.CELL) for row in rows
    )
    assert frame["pixel_aupro"].isna().all()
    assert csv_text(frame) == csv_text(results_frame(reversed(rows)))
    assert csv_text(results_frame([])) == ",".join(aggregate.RESULT_COLUMNS) + "\n"


def test_bad_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="more than one result"):
        results_frame([cell("a", "x", 0, 0.5), cell("a", "x", 0, 0.6)])
    with pytest.raises(ValueError, match="unknown \\['points'\\]"):
        results_frame([cell("a", "x", 0, 0.5, points=1)])
    with pytest.raises(ValueError, match="lacks \\['status'\\]"):
        results_frame([{k: v for k, v in cell("a", "x", 0, 0.5).items() if k != "status"}])


def test_csv_reads_back_exactly(tmp_path: Path) -> None:
    names = ["NA", "nan", "001", "a,b", 'quo"te', "né", "<b>", "", "line\nbreak"]
    rows = [cell("m", name, seed, 1 / (seed + 3)) for seed, name in enumerate(names)]
    rows[0] |= {"pixel_ap": 0.1 + 0.2, "pixel_auroc": 5e-324, "status": "x; y"}
    frame = results_frame(rows)
    text = csv_text(frame)
    path = tmp_path / "results.csv"
    path.write_bytes(text.encode())
    back = read_csv(path, aggregate.RESULT_COLUMNS)
    pd.testing.assert_frame_equal(back, frame, check_exact=True, check_dtype=False)
    assert csv_text(back) == text
    assert "\r" not in text
    assert "0.30000000000000004,,,,,,,x; y\n" in text  # undefined is empty


def test_words_stay_words_in_every_table(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    names = [
        "method",
        "task",
        "error",
        "traceback",
        "query",
        "defect",
        "group",
        "metric",
        "trivial",
    ]
    path.write_text(",".join([*names, "seed", "score"]) + "\n" + "001," * len(names) + "001,\n")
    (row,) = read_csv(path).to_dict("records")
    assert [row[name] for name in names] == ["001"] * len(names)
    assert row["seed"] == 1
    assert math.isnan(row["score"])


def test_unreadable_csv_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    with pytest.raises(FileNotFoundError):
        read_csv(path)
    for contents in (b"", b"\xff\xfe\x00", b'a,b\n"1,2\n', b"a,b\n1,2,3\n1,2\n1,2,3,4\n"):
        path.write_bytes(contents)
        with pytest.raises(ValueError, match=r"results\.csv: ") as caught:
            read_csv(path, ["method"])
        assert "\n" not in str(caught.value)


def test_means_over_categories_then_over_seeds() -> None:
    rows = toys()
    summary = summary_frame(results_frame(rows)).set_index("method")
    for method in "ab":
        means = by_hand(rows, method, [0, 1, 2, 3])
        assert summary.loc[method, "image_auroc_mean"] == pytest.approx(statistics.mean(means))
        assert summary.loc[method, "image_auroc_std"] == pytest.approx(statistics.stdev(means))
    row = summary.loc["a"]
    counts = row[["n_seeds", "n_categories", "n_cells", "image_auroc_n", "pixel_aupro_n"]]
    assert list(counts) == [4, 3, 12, 4, 0]
    assert row["complete"]
    assert row["missing"] == ""
    assert math.isnan(row["pixel_aupro_mean"])


def test_one_seed_has_no_spread() -> None:
    summary = summary_frame(results_frame(toys(seeds=1)))
    assert summary["image_auroc_std"].isna().all()
    assert summary["image_auroc_mean"].notna().all()


def test_a_seed_that_lacks_a_category_is_left_out_and_named() -> None:
    rows = [row for row in toys() if (row["method"], row["category"], row["seed"]) != ("a", "y", 2)]
    summary = summary_frame(results_frame(rows)).set_index("method")
    means = by_hand(rows, "a", [0, 1, 3])
    row = summary.loc["a"]
    assert row["image_auroc_mean"] == pytest.approx(statistics.mean(means))
    assert row["image_auroc_std"] == pytest.approx(statistics.stdev(means))
    assert (row["n_seeds"], row["n_cells"], row["image_auroc_n"]) == (3, 11, 3)
    assert not row["complete"]
    assert row["missing"] == "seed 2: y"
    assert summary.loc["b", "complete"]


def test_a_category_missing_in_every_seed_leaves_no_mean() -> None:
    rows = [row for row in toys() if (row["method"], row["category"]) != ("a", "y")]
    row = summary_frame(results_frame(rows)).set_index("method").loc["a"]
    assert math.isnan(row["image_auroc_mean"])
    assert (row["n_seeds"], row["n_cells"]) == (0, 8)
    assert row["missing"].startswith("seed 0: y; seed 1: y")


def test_what_was_asked_for_counts_not_what_came() -> None:
    frame = results_frame(toys(methods="a", categories="x"))
    asked = aggregate.grid(results_frame(toys(methods="ab", categories="xy")))
    summary = summary_frame(frame, asked).set_index("method")
    assert summary.loc["a", "n_seeds"] == 0
    assert summary.loc["a", "missing"].startswith("seed 0: y")
    assert summary.loc["b", "n_cells"] == 0
    assert summary["image_auroc_mean"].isna().all()  # y ran nowhere: that is missing, not undefined


def test_undefined_values() -> None:
    rows = toys()
    for row in rows:  # one category has no value for anybody, another none for one cell
        if row["category"] == "z" or (row["method"], row["category"], row["seed"]) == ("a", "x", 1):
            row["image_auroc"] = None
    summary = summary_frame(results_frame(rows)).set_index("method")
    counting = [row for row in rows if row["category"] != "z"]
    assert summary.loc["b", "image_auroc_mean"] == pytest.approx(
        statistics.mean(by_hand(counting, "b", [0, 1, 2, 3]))
    )
    assert summary.loc["b", "complete"]
    row = summary.loc["a"]
    assert row["image_auroc_mean"] == pytest.approx(
        statistics.mean(by_hand(counting, "a", [0, 2, 3]))
    )
    assert (row["n_seeds"], row["image_auroc_n"]) == (4, 3)
    assert row["missing"] == "image_auroc undefined in seed 1: x"


def test_undefined_values_are_named_by_metric_then_seed() -> None:
    rows = [row | {"image_auprc": 0.5} for row in toys(seeds=3)]
    holes = {("x", 2, "image_auprc"), ("x", 2, "image_auroc"), ("y", 0, "image_auroc")}
    for row in rows:
        for category, seed, metric in holes:
            if (row["method"], row["category"], row["seed"]) == ("a", category, seed):
                row[metric] = None
    row = summary_frame(results_frame(rows)).set_index("method").loc["a"]
    assert row["missing"] == (
        "image_auroc undefined in seed 0: y; image_auroc undefined in seed 2: x; "
        "image_auprc undefined in seed 2: x"
    )


def test_nothing_finished_is_an_empty_summary() -> None:
    assert list(summary_frame(results_frame([])).columns) == aggregate.SUMMARY_COLUMNS


def test_long_lists_of_names_are_cut_short() -> None:
    assert aggregate.names(["b", "a", "a"]) == "a, b"
    assert aggregate.names("edcba") == "a, b, c and 2 more"

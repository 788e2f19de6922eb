"""Tables of a report, cell by cell, of results written by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from harness.reporting import tables
from harness.results.aggregate import results_frame, summary_frame

NAN = math.nan
Key = tuple[str, str, str, int, int]


def results(cells: dict[Key, float | None], **others: float) -> pd.DataFrame:
    """A frame of cells, by method, dataset, category, shots and seed, with their image AUROC."""
    names = ("method", "dataset", "category", "shots", "seed")
    counts = {"n_normal": 3, "n_anomalous": 1, "status": "ok"}
    return results_frame(
        [
            dict(zip(names, key, strict=True)) | counts | {"image_auroc": value} | others
            for key, value in cells.items()
        ]
    )


CELLS: dict[Key, float | None] = {
    ("a", "d", "x", 1, 0): 0.5,
    ("a", "d", "x", 1, 1): 0.7,
    ("a", "d", "y", 1, 0): 0.9,
    ("a", "d", "y", 1, 1): 0.9,
    ("b", "d", "x", 1, 0): 0.6,
    ("b", "d", "x", 1, 1): 0.6,
    ("b", "d", "y", 1, 0): 0.91,
    ("b", "d", "y", 1, 1): 0.95,
    ("b", "d", "x", 4, 0): 0.75,
    ("b", "d", "y", 4, 0): 0.75,
    ("a", "e", "z", 4, 0): 0.25,
}


def test_figures_in_words() -> None:
    assert tables.percent(0.93149) == "93.1"
    assert tables.percent(0.93149, 2) == "93.15"
    assert tables.percent(NAN) == tables.points(NAN) == tables.figure(NAN) == tables.NOTHING
    assert tables.points(0.021) == "+2.1"
    assert tables.points(-0.5) == "-50.0"
    assert tables.spread(0.5, NAN) == "50.0"
    assert tables.spread(0.5, 0.02) == "50.0 ± 2.0"
    shown = [tables.figure(x) for x in (0.5, 9.994, 10.0, 99.94, 100.0, 1204.2)]
    assert shown == ["0.50", "9.99", "10.0", "99.9", "100", "1,204"]


@pytest.mark.parametrize(
    ("printed", "places"),
    [
        (["1.0", "2.0", "2.0"], [1, 2]),
        (["1.0", "1.0"], []),
        (["1.0", tables.NOTHING], []),
        ([tables.NOTHING, "10.0", "9.0"], [1]),
        ([], []),
    ],
)
def test_the_best_are_those_with_the_highest_printed_figure(
    printed: list[str], places: list[int]
) -> None:
    assert tables.best_places(printed, "image_auroc") == places


def test_the_headline_has_a_row_for_each_method_that_ran() -> None:
    summary = summary_frame(results(CELLS))
    near = {"image_auroc": {("d", 1, "a"), ("d", 4, "nobody"), ("e", 4, "b")}}
    table = tables.headline(summary, ["image_auroc"], ["b", "a", "c"], "title", near)
    assert table.columns == ["dataset", "method", "1 shot", "4 shots"]
    assert [span for _, span in table.groups] == [2]
    # of d: a's seeds have means 0.7 and 0.8; b's 0.755 and 0.775; at 4 shots one of two seeds
    spread_a, spread_b = (100 * np.std(x, ddof=1) for x in ((0.7, 0.8), (0.755, 0.775)))
    assert table.rows == [
        ["d", "b", f"76.5 ± {spread_b:.1f}", "75.0†"],
        ["", "a", f"75.0 ± {spread_a:.1f}", "–"],
        ["e", "a", "–", "25.0"],
    ]
    assert table.best == {(0, 2)}
    assert table.near == {(1, 2)}
    assert table.names == 2


def test_several_metrics_stand_beside_each_other_and_datasets_without_any_are_left_out() -> None:
    both = pd.concat([results(CELLS, image_auprc=0.5), results({("a", "n", "z", 4, 0): None})])
    summary = summary_frame(both.reset_index(drop=True))
    metrics = ["image_auroc", "image_auprc", "pixel_auroc"]
    assert tables.reported(summary, metrics) == metrics[:2]
    table = tables.headline(summary, metrics[:2], ["a", "b"], "title")
    assert [row[0] for row in table.rows] == ["d", "", "e"]
    assert [span for _, span in table.groups] == [2, 2]
    assert table.rows[0][4:] == ["50.0 ± 0.0", "–"]
    assert table.best == {(1, 2)}, "equal figures of the second metric are not set off"
    assert table.near == set()


def test_a_method_without_maps_lacks_no_pixel_metric() -> None:
    cells = results(CELLS)
    cells.loc[cells["method"] == "b", "pixel_auroc"] = 0.5
    summary = summary_frame(cells)
    table = tables.headline(summary, ["pixel_auroc"], ["a", "b"], "title")
    assert table.rows == [["d", "a", "–", "–"], ["", "b", "50.0 ± 0.0", "50.0†"]]


def test_categories_down_and_methods_across() -> None:
    first, second, third = tables.categories(results(CELLS), "image_auroc", ["b", "a"])
    assert [t.title for t in (first, second, third)] == ["d, 1 shot", "d, 4 shots", "e, 4 shots"]
    assert first.columns == ["category", "b", "a"]
    deviations = [100 * np.std(x, ddof=1) for x in ((0.5, 0.7), (0.91, 0.95))]
    assert first.rows == [
        ["x", "60.0 ± 0.0", f"60.0 ± {deviations[0]:.1f}"],
        ["y", f"93.0 ± {deviations[1]:.1f}", "90.0 ± 0.0"],
    ]
    assert first.best == {(1, 1)}, "the first row's are equal as printed"
    assert second.rows == [["x", "75.0"], ["y", "75.0"]]
    assert third.best == set()


def test_who_leads() -> None:
    summary = summary_frame(results(CELLS))
    assert tables.leader(summary, {}) == "b"  # 76 against 50 per cent, over all datasets and shots
    assert tables.leader(summary, {"a": "o2n"}) == "a"
    assert tables.leader(summary[summary["method"] == "a"], {}) is None


def against(**changes: Any) -> dict[str, Any]:
    row = {"dataset": "d", "shots": 2, "method": "m", "metric": "image_auroc", "table": "p_table1"}
    row |= {"printed_as": "m", "ours": 0.9, "ours_std": 0.01, "withheld": False}
    return row | {"published": 0.95, "published_std": NAN, "difference": -0.05} | changes


def test_ours_theirs_and_the_difference() -> None:
    frame = pd.DataFrame(
        [
            against(shots=4, printed_as="M+", withheld=True),
            against(metric="image_auprc", published=0.8, difference=0.1),
            against(),
        ]
    )
    table = tables.against(frame)
    assert table.columns == [
        "dataset",
        "shots",
        "method",
        "printed",
        *["ours", "theirs", "diff."] * 2,
    ]
    assert [span for _, span in table.groups] == [3, 3]
    assert table.names == 4
    shown = ["90.0 ± 1.0", "95.0", "-5.0"]
    assert table.rows == [
        ["d", "2", "m", "p table 1", *shown, "90.0 ± 1.0", "80.0", "+10.0"],
        [
            "d",
            "4",
            "m",
            "p table 1 as M+",
            *shown[:2],
            tables.published.WITHHELD,
            *["–"] * 3,
        ],
    ]


def test_queries_and_their_prevalence() -> None:
    cells = results(CELLS)
    cells.loc[cells["category"] == "y", ["n_normal", "n_anomalous"]] = (4, 4)
    table = tables.data(cells)
    assert table.rows == [
        ["d", "2", "7", "5", "0.375 (0.250 to 0.500)"],
        ["e", "1", "3", "1", "0.250"],
    ]


def test_failures_in_a_line_each() -> None:
    failed = {"method": "m", "dataset": "d", "category": "c", "shots": 2, "seed": 1}
    failed |= {"task": "predict", "error": "ValueError: a\n  b"}
    table = tables.failures(pd.DataFrame([failed]))
    assert table.rows == [["m", "d/c", "2", "1", "predict: ValueError: a b"]]
    assert table.names == len(table.columns) == 5

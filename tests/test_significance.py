"""Which methods can be told apart, beside scipy's own and examples that are in print."""

from __future__ import annotations

import math
from itertools import combinations, product

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from harness.reporting import certainty, tables
from harness.results import intervals, significance
from harness.results.aggregate import CELL, results_frame
from tests.test_aggregate import by_hand, cell, toys


def pairs(rows: list[dict], *among: str):
    frame = results_frame(rows)
    runs = {"image_auroc": intervals.runs(frame, None, "image_auroc")}
    return significance.pairs_frame(frame, runs, among or None)


def spread_out(means: dict[str, float], datasets: int = 8, seeds: int = 4) -> list[dict]:
    """Rows whose methods lie around their means, each dataset a bit higher or lower for all."""
    rng = np.random.default_rng(3)
    return [
        cell(m, "x", s, mean + 0.1 * shift + 0.002 * rng.random(), dataset=f"d{d}")
        for d, shift in enumerate(rng.random(datasets))
        for (m, mean), s in product(means.items(), range(seeds))
    ]


def test_pairs_agree_with_scipy() -> None:
    rows = toys(seeds=5)
    row = pairs(rows, "a", "b").iloc[0]
    a, b = by_hand(rows, "a", list(range(5))), by_hand(rows, "b", list(range(5)))
    test = stats.ttest_rel(a, b)
    assert (row["low"], row["high"]) == pytest.approx(tuple(test.confidence_interval(0.95)))
    assert (row["p"], row["p_holm"]) == pytest.approx((test.pvalue, test.pvalue))
    differences = np.subtract(a, b)
    assert row["mean"] == pytest.approx(differences.mean())
    assert row["std"] == pytest.approx(differences.std(ddof=1))
    frame = results_frame(rows)
    table = frame.pivot_table(index="category", columns="method", values="image_auroc")
    assert (row["wins"], row["ties"], row["losses"]) == (
        (table["a"] > table["b"]).sum(),
        0,
        (table["a"] < table["b"]).sum(),
    )
    mirrored = pairs(rows, "b", "a").iloc[0]
    assert (mirrored["mean"], mirrored["wins"]) == (pytest.approx(-row["mean"]), row["losses"])


def test_pairs_use_only_seeds_that_both_have_in_full() -> None:
    gone = {("a", "y", 2), ("b", "x", 0)}
    rows = [row for row in toys() if (row["method"], row["category"], row["seed"]) not in gone]
    row = pairs(rows, "a", "b").iloc[0]
    a, b = by_hand(rows, "a", [1, 3]), by_hand(rows, "b", [1, 3])
    assert row["n_seeds"] == 2
    assert row["mean"] == pytest.approx(np.subtract(a, b).mean())


def test_a_pair_of_one_seed_or_no_spread_claims_nothing() -> None:
    rows = [cell(m, c, 0, v) for m, c, v in [("a", "x", 0.9), ("b", "x", 0.8)]]
    row = pairs(rows).iloc[0]
    assert row["mean"] == pytest.approx(0.1)
    assert row[["std", "low", "high", "p", "p_holm"]].isna().all()
    same = [cell(m, "x", seed, 0.5) for m, seed in product("ab", range(3))]
    row = pairs(same).iloc[0]
    assert (row["mean"], row["ties"]) == (0, 1)
    assert row[["low", "high", "p"]].isna().all()  # no interval rather than one of width zero
    assert significance.near_best(pairs(rows), "image_auroc") == set()
    with pytest.raises(ValueError, match="no results of method 'c'"):
        pairs(rows, "a", "c")


def test_holm_by_hand() -> None:
    """Three chances: the smallest times 3, the next times 2, never below the one before."""
    corrected = significance.holm(np.array([0.04, 0.01, np.nan, 0.015]))
    np.testing.assert_allclose(corrected, [0.04, 0.03, np.nan, 0.03])
    chances = np.random.default_rng(0).random(40).round(2) ** 3  # ties among them
    expected = multipletests(chances, method="holm")[1]
    np.testing.assert_array_equal(significance.holm(chances), expected)
    assert significance.holm(np.array([np.nan])).tolist() == pytest.approx([np.nan], nan_ok=True)


def test_two_methods_picked_of_many_have_the_chances_of_all_pairs() -> None:
    rows = spread_out({"a": 0.8, "b": 0.79, "c": 0.7, "d": 0.65}, datasets=2)
    every = pairs(rows)
    for picked in (("b", "a"), ("a", "d"), ("d", "b")):
        few = pairs(rows, *picked)
        assert set(few["a"]) == {picked[0]}
        assert set(few["b"]) == {picked[1]}
        theirs = every[every["a"].isin(picked) & every["b"].isin(picked)]
        assert few["p_holm"].tolist() == pytest.approx(theirs["p_holm"].tolist())
        assert few["mean"].abs().tolist() == pytest.approx(theirs["mean"].abs().tolist())
    frame = results_frame(rows)
    runs = {"image_auroc": intervals.runs(frame, None, "image_auroc")}
    with pytest.raises(ValueError, match="'a' twice"):
        significance.paired_frame(frame, "a", "a", runs)


def test_the_best_is_level_with_those_it_cannot_be_told_from() -> None:
    rng = np.random.default_rng(5)
    levels = {"first": 0.9, "second": 0.899, "last": 0.5}
    rows = [
        cell(m, "x", s, level + 0.01 * rng.random())
        for (m, level), s in product(levels.items(), range(5))
    ]
    frame = pairs(rows)
    corrected = frame["p_holm"].to_numpy()
    assert (corrected >= frame["p"].to_numpy()).all()
    near = significance.near_best(frame, "image_auroc")
    assert near == {("toys", 2, "first"), ("toys", 2, "second")}


@pytest.mark.parametrize("names", ["abcd", "dcba", "bdac"])
def test_the_best_is_that_of_the_highest_mean_whatever_its_name(names: str) -> None:
    rng = np.random.default_rng(6)
    levels = dict(zip(names, (0.9, 0.8995, 0.7, 0.6995), strict=True))
    rows = [
        cell(m, "x", s, level + 0.01 * rng.random())
        for (m, level), s in product(levels.items(), range(5))
    ]
    near = significance.near_best(pairs(rows), "image_auroc")
    assert near == {("toys", 2, names[0]), ("toys", 2, names[1])}


def test_methods_of_equal_means_are_level_with_the_best_and_with_each_other() -> None:
    rng = np.random.default_rng(7)
    noise = 0.01 * rng.random(5)
    rows = [
        cell(m, "x", s, level + noise[s] * factor)
        for (m, level, factor), s in product(
            [("a", 0.5, 1), ("b", 0.5, 1), ("c", 0.9, 1), ("d", 0.9, 1), ("e", 0.6, 2)], range(5)
        )
    ]
    near = significance.near_best(pairs(rows), "image_auroc")
    assert {"c", "d"} <= {method for _, _, method in near}
    assert "e" not in {method for _, _, method in near}


def test_a_category_that_one_method_was_not_to_run_counts_for_neither() -> None:
    rows = [row for row in toys(seeds=3) if (row["method"], row["category"]) != ("b", "z")]
    frame = results_frame(rows)
    runs = {"image_auroc": intervals.runs(frame, None, "image_auroc", frame[CELL])}
    for among in (["a", "b"], ["b", "a"]):
        row = significance.pairs_frame(frame, runs, among).iloc[0]
        means = frame.pivot_table(index="category", columns="method", values="image_auroc")
        gaps = (means[among[0]] - means[among[1]]).dropna()
        counts = [(gaps > 0).sum(), (gaps == 0).sum(), (gaps < 0).sum()]
        assert row[["wins", "ties", "losses"]].tolist() == counts
        assert sum(counts) == 2


def test_ranks_over_datasets() -> None:
    means = {"a": 0.8, "b": 0.75, "c": 0.7, "d": 0.65}
    ranks = significance.ranks(results_frame(spread_out(means)))
    assert ranks is not None
    assert dict(ranks.mean_ranks) == {"a": 1, "b": 2, "c": 3, "d": 4}
    # Demsar 2006, Table 5: q at 5 % for four methods is 2.569
    assert ranks.critical_difference == pytest.approx(2.569 * math.sqrt(4 * 5 / (6 * 8)), abs=1e-3)
    assert ranks.groups == (("a", "b"), ("b", "c"), ("c", "d"))
    values = [[m + shift for shift in range(8)] for m in means.values()]
    assert ranks.friedman == pytest.approx(stats.friedmanchisquare(*values).pvalue)
    wilcoxon = ranks.pairs.set_index(["a", "b"])
    assert wilcoxon.loc[("a", "b"), "p"] == pytest.approx(2 / 2**8)  # all eight of one sign
    assert wilcoxon.loc[("a", "b"), "p_holm"] == pytest.approx(6 * 2 / 2**8)
    assert ranks.least == pytest.approx(2 / 2**8)


def test_no_ranks_of_few_datasets_or_where_a_method_lacks_all() -> None:
    rows = spread_out({"a": 0.8, "b": 0.7}, datasets=2)
    assert significance.ranks(results_frame(rows)) is None
    rows = spread_out({"a": 0.8, "b": 0.7}, datasets=4)
    lacking = [r for r in rows if not (r["method"] == "b" and r["dataset"] in ("d0", "d1"))]
    assert significance.ranks(results_frame(lacking)) is None
    three = [r for r in rows if not (r["method"] == "b" and r["dataset"] == "d0")]
    ranks = significance.ranks(results_frame(three))
    assert ranks is not None
    assert ranks.datasets == ("d1", "d2", "d3")
    assert math.isnan(ranks.friedman)


def test_the_diagram_joins_what_is_not_apart() -> None:
    import xml.etree.ElementTree as ElementTree

    names = ["<a>", "b", "c", "d", "e"]
    ranks = significance.Ranks(
        "image_auroc",
        dict(zip(names, (1.2, 1.9, 3.0, 4.2, 4.7), strict=True)),
        ("x", "y", "z"),
        1.5,
        0.01,
        (("<a>", "b"), ("b", "c"), ("c", "d"), ("d", "e")),
        results_frame([]),
    )
    svg = certainty.diagram(ranks)
    root = ElementTree.fromstring(svg)
    bars = [e for e in root.iter() if e.get("stroke-width") == "4"]
    assert len(bars) == 4
    texts = " ".join(e.text or "" for e in root.iter())
    for name in names:
        assert f"{name} " in texts
    assert "CD 1.50" in texts


def test_every_pair_is_there_once() -> None:
    frame = pairs(toys(methods="abcd"))
    assert list(zip(frame["a"], frame["b"], strict=True)) == list(combinations("abcd", 2))


def test_wins_are_counted_within_each_number_of_shots() -> None:
    better = {(1, "x"): "a", (1, "y"): "a", (2, "x"): "b", (2, "y"): ""}  # "": a tie
    rows = [
        cell(m, category, seed, 0.9 if better[shots, category] == m else 0.7, shots=shots)
        for (shots, category), m, seed in product(better, "ab", range(3))
    ]
    counts = pairs(rows, "a", "b").set_index("shots")[["wins", "ties", "losses"]]
    assert counts.loc[1].tolist() == [2, 0, 0]
    assert counts.loc[2].tolist() == [0, 1, 1]


def test_the_best_of_each_category_is_set_off_by_itself() -> None:
    higher = {("x", 1): "a", ("y", 1): "b", ("x", 2): "b", ("y", 2): ""}
    rows = [
        cell(m, category, seed, 0.9 if higher[category, shots] == m else 0.7, shots=shots)
        for (category, shots), m, seed in product(higher, "ab", range(2))
    ]
    one, two = tables.categories(results_frame(rows), "image_auroc", ["a", "b"])
    assert [row[0] for row in one.rows] == ["x", "y"]
    assert one.best == {(0, 1), (1, 2)}
    assert two.best == {(0, 2)}, "none where all are the same"

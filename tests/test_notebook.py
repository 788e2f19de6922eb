"""The door for notebooks: frames against the files they are read from, and the example notebook."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from harness import results
from tests.folders import QUERIES, folder_of_a_sweep

HOME = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("storage") / "small"
    path.mkdir()
    return folder_of_a_sweep(
        path, {"good": 2.0, "plain": 0.8}, {"toys": ["x", "y"], "elpv": ["c"]}, shots=(2, 8)
    )


def test_frames_agree_with_each_other(folder: Path) -> None:
    sweep = results.load(folder)
    assert "small" in repr(sweep)
    cell = ["method", "dataset", "category", "shots", "seed"]
    assert len(sweep.cells) == 2 * 3 * 2 * 3
    assert len(sweep.queries) == len(sweep.cells) * QUERIES
    again = {
        key: roc_auc_score(group["label"], group["score"])
        for key, group in sweep.queries.groupby(cell)
    }
    for row in sweep.cells.to_dict("records"):
        assert row["image_auroc"] == pytest.approx(again[tuple(row[name] for name in cell)])
    assert sweep.cells["fit_s"].notna().all()
    assert sweep.tasks.empty


def test_summary_and_compare(folder: Path) -> None:
    sweep = results.load(folder)
    rows = sweep.summary().set_index(["method", "dataset", "shots"])
    one = sweep.cells[(sweep.cells["method"] == "good") & (sweep.cells["dataset"] == "toys")]
    means = one[one["shots"] == 2].groupby("seed")["image_auroc"].mean()
    row = rows.loc[("good", "toys", 2)]
    assert (row["mean"], row["std"]) == pytest.approx((means.mean(), means.std()))
    assert row["low"] < row["mean"] < row["high"]
    pair = sweep.compare("good", "plain").set_index(["dataset", "shots"]).loc[("toys", 2)]
    difference = row["mean"] - rows.loc[("plain", "toys", 2), "mean"]
    assert pair["mean"] == pytest.approx(difference)
    alone = stats.sem(means) * stats.t.ppf(0.975, 2)  # of seeds alone: another interval
    assert row["high"] - row["low"] != pytest.approx(2 * alone, rel=0.01)
    assert sweep.ranks() is None
    with pytest.raises(ValueError, match="metric must be one of image_auroc"):
        sweep.summary("accuracy")
    assert sweep.summary("pixel_auroc").empty


def test_figures_show_what_the_frames_say(folder: Path) -> None:
    sweep = results.load(folder)
    figure = sweep.plot_shots()
    assert [axes.get_title() for axes in figure.axes] == ["elpv", "toys"]
    drawn = np.asarray(figure.axes[1].containers[0][0].get_ydata(), float)
    frame = sweep.summary()
    rows = frame[(frame["method"] == "good") & (frame["dataset"] == "toys")]
    np.testing.assert_allclose(drawn, 100 * rows.sort_values("shots")["mean"])
    assert len(sweep.plot_scores("elpv", 8).axes) == 2
    with pytest.raises(ValueError, match="no predictions for dataset 'mvtec'"):
        sweep.plot_scores("mvtec", 8)


def test_sweeps_are_compared(folder: Path, tmp_path: Path) -> None:
    worse = folder_of_a_sweep(tmp_path / "worse", {"good": 1.0}, shots=(2,))
    compared = results.compare(folder, worse)
    assert compared.shared == 6
    frame = compared.frame
    assert isinstance(frame, pd.DataFrame)
    assert (frame["difference"] < 0).all()
    assert set(frame["metric"]) == {"image_auroc", "image_auprc"}


def test_the_package_loads_nothing_heavy() -> None:
    heavy = {"pandas", "matplotlib", "scipy", "torch", "yaml"}
    code = f"import sys; from harness import results; print({heavy} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=HOME, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"


def test_the_notebook_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(HOME / "docs" / "notebook.ipynb", as_version=4)
    monkeypatch.setenv("SWEEP", str(folder))
    client = NotebookClient(
        notebook, timeout=600, resources={"metadata": {"path": str(HOME / "docs")}}
    )
    client.execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    text = " ".join(str(output) for output in outputs)
    assert "Sweep('small': 36 cells finished" in text
    assert text.count("image/png") == 2
    assert "(36, 36, [])" in text

"""Caveats under tables of every format, the trivial line, and AUPRC that is not compared."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from harness.reporting.report import FORMATS, render
from harness.results.aggregate import csv_text, results_frame
from methods.generators.dreambooth import DreamBooth
from methods.generators.textual_inversion import TextualInversion

NOTES = [
    {"method": "patchcore", "note": "on a small network"},
    {"method": "o2n+dreambooth", "note": "a LoRA adapter in place of full tuning"},
    {"method": "elpv", "note": "2 of 2 supports leak"},
]


def folder(root: Path, normal: int = 377, anomalous: int = 715) -> Path:
    """A sweep on ELPV, by default on all its queries; what is trivial tells with AUROC 79 %."""
    rows = [
        {
            "method": method,
            "dataset": "elpv",
            "category": "elpv",
            "shots": 2,
            "seed": seed,
            "n_normal": normal,
            "n_anomalous": anomalous,
            "status": "ok",
            "image_auroc": auroc + seed / 100,
            "image_auprc": auroc,
            "support_leaks": 1,
            "trivial": "mean",
            "trivial_auroc": 0.79,
        }
        for method, auroc in (("patchcore", 0.7), ("o2n+dreambooth", 0.9))
        for seed in (0, 1)
    ]
    root.mkdir(exist_ok=True)
    (root / "results.csv").write_text(csv_text(results_frame(rows)))
    (root / "notes.json").write_text(json.dumps(NOTES))
    return root


@pytest.mark.parametrize("against", [None, "published"])
@pytest.mark.parametrize("format", FORMATS)
def test_every_format_has_the_caveats(tmp_path: Path, format: str, against: str | None) -> None:
    text = render(folder(tmp_path / "toy"), format, against)
    if format == "latex":  # what is printed, not what is commented out
        text = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    rows = NOTES if format != "csv" or against is None else NOTES[::2]
    for note in rows:
        assert note["note"] in text
    if format != "csv":
        words = " ".join(text.split())
        assert "a method below this line has shown nothing: patchcore (2 shots)" in words


@pytest.mark.parametrize(("normal", "withheld"), [(377, False), (100, True)])
@pytest.mark.parametrize("format", FORMATS)
def test_auprc_is_compared_at_the_papers_prevalence_only(
    tmp_path: Path, normal: int, withheld: bool, format: str
) -> None:
    text = render(folder(tmp_path / "toy", normal), format, "published")
    reason = "prevalence 0.877 here and 0.655 in the paper's test set"
    assert (reason in " ".join(text.replace("&#39;", "'").split())) == withheld
    if format == "csv":
        for row in csv.DictReader(io.StringIO(text)):
            assert (row["difference"] == "") == (withheld and row["metric"] == "image_auprc")
            assert (row["withheld"] == "") != (withheld and row["metric"] == "image_auprc")


def test_generators_say_what_they_are_made_of() -> None:
    assert DreamBooth().note == ""
    assert "micro" in DreamBooth(base="micro").note
    assert "LoRA" in DreamBooth(tune="lora").note
    assert "micro diffusion" in TextualInversion(base="micro").note

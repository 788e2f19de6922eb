"""Tables for papers: compiled by pdflatex where it is installed, and what their words become."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from harness.reporting import latex, report
from tests.fabricated import fabricate

PACKAGES = r"\usepackage{booktabs,graphicx}"
#: caveats with what LaTeX reads as commands, and letters that are not ASCII
NOTES = [
    {
        "method": "o2n",
        "note": r"a LoRA adapter (rank 8, 50 % of _all_ {layers} & $heads$) \\ ^~ #1",
    },
    {"method": "o2n", "note": "tiny models, not the paper's"},
    {"method": "elpv", "note": "2 of 2 supports leak – naïve, ± 1.6 · π ≥ 3 “as is”"},
]
CLASSES = {
    "article": rf"\documentclass{{article}}{PACKAGES}",
    # The text block of the NeurIPS style, 5.5 by 9 inches, at 10 points.
    "neurips": rf"\documentclass[10pt]{{article}}\usepackage[textwidth=5.5in,textheight=9in]"
    rf"{{geometry}}{PACKAGES}",
}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Eight methods with long names on two datasets, a failed cell, published numbers."""
    folder = tmp_path_factory.mktemp("sweep")
    methods = {"padim": 0.6, "patchcore": 1.4, "o2n": 2.0, "winclip": 1.5, "regad": 1.0}
    methods |= {"a_method+with-a=long_label": 1.2, "coop": 0.9, "inctrl": 1.1}
    datasets = {"elpv": ["cells"], "mvtec": ["bottle"]}
    fabricate(folder, datasets, methods, queries=24, failing=("o2n", "mvtec", "bottle", 4, 1))
    (folder / "notes.json").write_text(json.dumps(NOTES))
    return report.render(folder, "latex", "published")


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex on this machine")
@pytest.mark.parametrize("style", CLASSES)
def test_it_compiles_and_nothing_sticks_out(text: str, tmp_path: Path, style: str) -> None:
    document = f"{CLASSES[style]}\\begin{{document}}\n{text}\\end{{document}}\n"
    (tmp_path / "paper.tex").write_text(document)
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout
    assert "Float too large" not in done.stdout
    assert "multiply defined" not in (tmp_path / "paper.log").read_text()
    if shutil.which("pdftotext"):
        shown = subprocess.run(
            ["pdftotext", "-layout", "paper.pdf", "-"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert "−" in shown, "a true minus sign"
        assert "method+with-a=long" in shown
        assert "tiny models, not the paper" in shown
        plain = " ".join(shown.split())
        assert "a LoRA adapter (rank 8, 50 % of" in plain
        assert "2 of 2 supports leak – naive, ± 1.6" in plain


def test_methods_are_across_datasets_down_and_shots_in_groups(text: str) -> None:
    first = text.split(r"\begin{table}")[1]
    head = re.search(r"\\toprule\n(.*) \\\\", first)
    assert head
    assert head.group(1).split(" & ")[:4] == ["dataset", "padim", "patchcore", "o2n"]
    groups = re.findall(r"\\textit\{(.*?)\}", first)
    assert groups == ["2 shots", "4 shots"]
    assert [line.split(" & ")[0] for line in first.splitlines() if " & " in line] == [
        "dataset",
        *["elpv", "mvtec"] * 2,
    ]
    assert r"\label{tab:toys-image-auroc}" in first
    assert "over 1 to 2 seeds" in first
    assert r"$^\dagger$ over fewer seeds" in first
    assert r"\footnotesize" in first


def test_long_tables_are_parted_with_labels_of_their_own() -> None:
    rows = [[f"d{i}", "1"] for i in range(90)]
    pages = list(latex._grouped(["dataset", "m"], [("2 shots", rows)], "Means.", "tab:x", []))
    assert [page.count(r" \\") - 2 for page in pages] == [40, 40, 10]
    labels = [re.findall(r"\\label\{(.*?)\}", page)[0] for page in pages]
    assert labels == ["tab:x", "tab:x-2", "tab:x-3"]
    assert "2 shots, continued" in pages[1]


@pytest.mark.parametrize(
    ("shown", "written"),
    [
        ("-2.1 ± 3.0", r"$-$2.1 $\pm$ 3.0"),
        ("+0.5 to -1.0", r"$+$0.5 to $-$1.0"),
        ("3-0-1", "3-0-1"),
        ("<0.001", "$<$0.001"),
        ("1,204", "1,204"),
        ("a_b & 5 % #", r"a\_b \& 5 \% \#"),
        ("x\\y~^", r"x\textbackslash{}y\textasciitilde{}\textasciicircum{}"),
        ("naïve 界", "naive "),
    ],
)
def test_words_and_figures(shown: str, written: str) -> None:
    assert latex.number(shown) == written

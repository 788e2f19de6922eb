"""What is shown as not told from the best: right where the answer is known, in every format."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from scipy import stats

from harness.reporting import certainty, compare, report
from harness.results import comparison
from harness.results.folder import reader
from tests.folders import folder_of_a_sweep


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two methods that are alike and one 25 points below them, five seeds, five categories."""
    skills = {"first": 2.5, "alike": 2.45, "far": 0.8}
    path = tmp_path_factory.mktemp("storage") / "shaded"
    path.mkdir()
    return folder_of_a_sweep(path, skills, {"toys": list("abcde")}, seeds=5)


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_what_is_far_is_not_shaded_and_what_is_alike_is(folder: Path) -> None:
    sweep = reader.load(folder)
    near = certainty.near(sweep)["image_auroc"]
    assert {method for _, _, method in near} == {"first", "alike"}
    text = report.render(folder, "text")
    rows = [line for line in text.splitlines() if re.search(r"(first|alike|far) +\d", line)]
    marks = {row.split()[-7]: set(re.findall("[*~]", row)) for row in rows if row.count("±") == 2}
    assert marks["far"] == set()
    assert marks["first"] | marks["alike"] == {"*", "~"}
    words = " ".join(text.split())
    assert "~ not told from it, tested of image AUROC and AUPRC" in words
    page = report.render(folder, "html")
    assert page.count('class="near"') == 2
    assert "shaded: not told from it, tested of image AUROC and AUPRC" in page
    lines = [cells(row) for row in report.render(folder, "markdown").splitlines() if "±" in row]
    shown = {row[1]: row[2] for row in lines if len(row) > 2}
    assert shown["far"].count("~") == shown["far"].count("*") == 0
    assert {shown["first"][-2:], shown["alike"][-2:]} == {"**", r"\~"}


def test_one_seed_shades_nothing_and_does_not_speak_of_it(tmp_path: Path) -> None:
    folder = folder_of_a_sweep(tmp_path, {"first": 2.0, "far": 0.2}, {"toys": ["a"]}, seeds=1)
    for how in ("text", "markdown", "html", "latex"):
        rendered = report.render(folder, how)
        assert "not told from it" not in rendered
        assert 'class="near"' not in rendered


def test_words_say_what_correction_asks_for(folder: Path) -> None:
    (line,) = [line for line in certainty.remarks(reader.load(folder)) if "seeds show" in line]
    single, corrected = map(float, re.findall(r"\d+\.\d", line))
    for reach, chance in ((single, 0.05), (corrected, 0.05 / 3)):
        p = [2 * stats.t.sf((reach + step) * 5**0.5, 4) for step in (-0.05, 0.05)]
        assert p[0] > chance > p[1], "to the digit that is printed"
    assert "3 pairs" in line


def test_what_p_stands_for_is_said_where_it_is_shown(folder: Path) -> None:
    for how in ("text", "markdown", "latex"):
        assert " ".join(report.render(folder, how).split()).count("p is corrected for all") == 1
    (again,) = comparison.compare([folder, folder])
    for how in compare.FORMATS:
        words = " ".join(compare.render([again], how).split())
        assert words.count("p is corrected for all rows of its table") == 1


def test_auroc_is_beside_the_printed_one_before_auprc(tmp_path: Path) -> None:
    folder = folder_of_a_sweep(tmp_path, {"winclip": 2.0, "padim": 1.0}, {"elpv": ["elpv"]})
    printed = report.render(folder, "latex", "published")
    assert printed.index("AUROC (\\%): ours / printed") < printed.index(
        "AUPRC (\\%): ours / printed"
    )

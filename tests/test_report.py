"""Reports of a made-up sweep folder: its numbers, its gaps, its safety, its size."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from itertools import product
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd
import pytest

from harness.reporting import report
from harness.reporting.page import curves, queries
from harness.results import published
from harness.results.aggregate import csv_text, read_csv, results_frame, summary_frame
from harness.results.folder import reader
from tests.fabricated import SKILL, fabricate


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep")
    datasets = {"elpv": ["cells"], "mvtec": ["bottle", "pill"]}
    return fabricate(folder, datasets, failing=("o2n", "mvtec", "pill", 4, 1))


@pytest.fixture(scope="module")
def html(sweep: Path) -> str:
    return report.render(sweep, "html", "published")


class Page(HTMLParser):
    """Tags with their attributes, and the text between them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "img", "br"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def printed(folder: Path, method: str, dataset: str, shots: int) -> str:
    """Mean ± deviation of a cell of the headline table, from the results alone."""
    results = read_csv(folder / "results.csv")
    group = results[
        (results["method"] == method)
        & (results["dataset"] == dataset)
        & (results["shots"] == shots)
    ]
    seeds = group.groupby("seed")["image_auroc"].mean() * 100
    return f"{seeds.mean():.1f} ± {seeds.std():.1f}"


@pytest.mark.parametrize("format", ["text", "markdown", "latex", "html"])
def test_every_format_shows_the_means_with_their_deviation(sweep: Path, format: str) -> None:
    text = report.render(sweep, format)
    for method, dataset in product(SKILL, ["elpv", "mvtec"]):
        value = printed(sweep, method, dataset, 2)
        if format == "latex":
            mean, std = value.split(" ± ")
            assert re.search(rf"{mean}}}?{{\\scriptsize\\,\$\\pm\$\\,{std}}}", text)
        else:
            assert value in text
    assert "tiny models, not the paper" in text


def test_text_says_what_is_missing_first_and_fits_a_terminal(
    sweep: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    text = report.render(sweep, "text")
    lines = text.splitlines()
    assert lines[0] == "toys: 35 cells finished, 1 failed, 3 methods, 2 datasets, 2 seeds"
    words = " ".join(lines[4].split())
    assert words == "o2n mvtec/pill 4 1 predict: RuntimeError: a <b>matrix</b>, singular"
    assert "o2n, mvtec, 4 shots: seed 1: pill" in text
    assert max(map(len, lines)) <= 100
    complete, single = (re.findall(rf"^{name}.*", text, re.M) for name in ("elpv", "mvtec"))
    assert complete
    assert single
    assert "0.667" in text  # the prevalence


def test_the_highest_is_set_off(sweep: Path, html: str) -> None:
    best = printed(sweep, "o2n", "elpv", 2)
    low = printed(sweep, "padim", "elpv", 2)
    assert f"{best}*" in report.render(sweep, "text")
    assert f"{low}*" not in report.render(sweep, "text")
    assert f"**{best}**" in report.render(sweep, "markdown")
    assert rf"\textbf{{{best.split()[0]}}}" in report.render(sweep, "latex")
    assert re.search(rf'class="[^"]*best[^"]*">{best}<', html)


def test_a_mean_over_fewer_seeds_is_marked(sweep: Path, html: str) -> None:
    summary = summary_frame(read_csv(sweep / "results.csv")).set_index(
        ["method", "dataset", "shots"]
    )
    lone = f"{100 * summary.loc[('o2n', 'mvtec', 4), 'image_auroc_mean']:.1f}†"
    assert lone in report.render(sweep, "text")
    assert lone in html


def test_csv_is_the_summary(sweep: Path) -> None:
    expected = summary_frame(read_csv(sweep / "results.csv"))
    notes = ["o2n: tiny models, not the paper's" if m == "o2n" else "" for m in expected["method"]]
    assert report.render(sweep, "csv") == csv_text(expected.assign(notes=notes))


def test_the_sweeps_own_summary_counts(sweep: Path, tmp_path: Path) -> None:
    results = read_csv(sweep / "results.csv")
    (tmp_path / "results.csv").write_text(csv_text(results))
    summary = summary_frame(results)
    summary["missing"] = "seed 7: never run"
    (tmp_path / "summary.csv").write_text(csv_text(summary))
    assert "seed 7: never run" in report.render(tmp_path, "text")


def test_a_category_that_failed_for_everybody_is_missed(tmp_path: Path) -> None:
    failing = ("padim", "mvtec", "pill", 2, 0)
    fabricate(tmp_path, {"mvtec": ["bottle", "pill"]}, {"padim": 1.0}, (2,), 1, failing=failing)
    (tmp_path / "summary.csv").write_text(
        csv_text(summary_frame(read_csv(tmp_path / "results.csv")))  # blind to it
    )
    text = report.render(tmp_path, "text")
    assert "padim, mvtec, 2 shots: seed 0: pill" in text
    assert "AUROC" not in text.partition("Queries")[0]  # no mean over the one category that is left


def test_markdown_tables_are_whole(sweep: Path) -> None:
    text = report.render(sweep, "markdown", "published")
    tables = [block.splitlines()[2:] for block in text.split("\n\n## ") if "| :--" in block]
    assert len(re.findall(r"^\| :--", text, re.M)) >= 4
    for line in re.findall(r"^\|.*\|$", text, re.M):
        assert line.count(" | ") >= 3
    assert "matrix\\</b\\>" in text
    assert tables


def test_latex_is_balanced(sweep: Path) -> None:
    text = report.render(sweep, "latex", "published")
    for word in ("table", "tabular"):
        assert text.count(f"\\begin{{{word}}}") == text.count(f"\\end{{{word}}}") > 2
    for tabular in re.findall(r"\\begin\{tabular\}\{(\w+)\}(.*?)\\end\{tabular", text, re.S):
        rows = re.findall(r"^(?!.*multicolumn)(.*) \\\\$", tabular[1], re.M)
        assert {row.count("&") + 1 for row in rows} == {len(tabular[0])}
    body = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    assert not re.search(r"(?<!\\)[%#](?!$)", body, re.M)


def test_names_are_escaped_everywhere(tmp_path: Path) -> None:
    nasty = "<img src=x onerror=alert(1)>&\"'_|%"
    fabricate(tmp_path, {nasty: [nasty]}, {nasty: 1.0, "b|c": 2.0}, shots=(2,), queries=12)
    page = Page(report.render(tmp_path, "html"))
    assert nasty in page.text
    assert all(attributes.get("src", "data:").startswith("data:") for _, attributes in page.tags)
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert "b\\|c" in report.render(tmp_path, "markdown")
    assert "\\_|\\%" in report.render(tmp_path, "latex")


def test_html_is_one_file_with_everything(html: str) -> None:
    page = Page(html)
    assert page.open == []
    kinds = {tag for tag, _ in page.tags}
    assert not kinds & {"link", "iframe", "object"}
    assert [attributes for tag, attributes in page.tags if tag == "script"] == [{}], "inline, one"
    assert not re.search(r"url\(|@import|https?://", html)
    for words in (
        *("Precision and recall", "Mistaken", "Right", "one-to-normal", "pool"),
        *("Average precision", "abc123", "versions.numpy", "queries/s", "Table 1", "GPU total"),
        *("<script>alert(1)</script>", "seed 1: pill", "no masks", "bottle", "made up"),
    ):
        assert words in page.text, words
    targets = {a["href"] for tag, a in page.tags if tag == "a"}
    identifiers = {f"#{a['id']}" for _, a in page.tags if "id" in a}
    assert targets
    assert targets <= identifiers
    pictures = [a for tag, a in page.tags if tag == "img"]
    assert len(pictures) > 3 * 6 * 2
    assert all(len(str(a["alt"])) > 10 for a in pictures), "says what is seen"
    assert len(html) < 2_000_000


def test_rendering_twice_gives_the_same_bytes(sweep: Path, html: str) -> None:
    assert report.render(sweep, "html", "published") == html


def test_the_gallery_stops_at_its_size(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queries, "ROOM", 1)
    text = report.render(sweep, "html")
    assert "Not shown for want of room: 2 more categories" in text
    assert text.count("<summary>elpv / cells, 4 shots, seed 0") == 1
    assert "<summary>mvtec / bottle, 4 shots" not in text


def test_what_is_absent_or_damaged_does_not_stop_a_report(sweep: Path, tmp_path: Path) -> None:
    fabricate(tmp_path, {"mvtec": ["bottle"]}, {"padim": 1.0}, shots=(2,), seeds=1)
    archive = next(tmp_path.rglob("*.npz"))
    archive.write_bytes(archive.read_bytes()[:100])
    assert "pictures not readable" in report.render(tmp_path, "html")
    for name in ("timings.csv", "sweep.yaml", "environment.json", "notes.json"):
        (tmp_path / name).unlink()
    next(tmp_path.glob("predictions/*/*/*/*.csv")).write_text("")
    for format in report.FORMATS:
        assert "padim" in report.render(tmp_path, format)


def test_a_sweep_without_any_result(tmp_path: Path) -> None:
    (tmp_path / "results.csv").write_text(csv_text(results_frame([])))
    failed = {"method": "padim", "dataset": "elpv", "category": "cells", "shots": 2, "seed": 0}
    failed |= {"task": "predict", "error": "ValueError: no", "traceback": ""}
    (tmp_path / "failures.csv").write_text(csv_text(pd.DataFrame([failed])))
    for format in report.FORMATS:
        assert "padim" in report.render(tmp_path, format)
    assert "1 failed" in report.render(tmp_path, "text")


def test_bad_input_is_one_clear_line(tmp_path: Path, sweep: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"expected a sweep's folder, with results\.csv"):
        report.render(tmp_path, "text")
    with pytest.raises(ValueError, match="format must be one of text, markdown"):
        report.render(sweep, "pdf")
    with pytest.raises(ValueError, match="against must be 'published'"):
        report.render(sweep, "text", "theirs")
    (tmp_path / "results.csv").write_text("method,dataset\n")
    with pytest.raises(ValueError, match=r"results\.csv: expected the column category"):
        report.render(tmp_path, "text")
    fabricate(tmp_path, {"elpv": ["cells"]}, {"padim": 1.0}, shots=(2,), seeds=1)
    (tmp_path / "notes.json").write_text("{")
    with pytest.raises(ValueError, match=r"notes\.json: not readable"):
        report.render(tmp_path, "text")


def test_comparison_takes_the_difference_and_names_the_source(sweep: Path) -> None:
    summary = summary_frame(read_csv(sweep / "results.csv"))
    frame = published.compare(summary, {}).set_index(["method", "dataset", "shots", "metric"])
    row = frame.loc[("patchcore", "mvtec", 2, "image_auroc")]
    assert row["published"] == pytest.approx(0.858)
    assert row["difference"] == pytest.approx(row["ours"] - 0.858)
    assert "NeurIPS 2024" in row["source"]
    renamed = summary.assign(method=summary["method"].replace("padim", "padim-wide"))
    assert "padim-wide" not in set(published.compare(renamed, {})["method"])
    matched = published.compare(renamed, {"padim-wide": "padim"})
    rows = matched[matched["method"] == "padim-wide"]
    assert set(rows["printed_as"]) == {"padim"}
    assert f"{100 * row['difference']:+.1f}" in report.render(sweep, "text", "published")


def test_nothing_heavy_is_loaded_before_a_report_is_asked_for() -> None:
    heavy = {"pandas", "matplotlib", "jinja2", "yaml", "PIL", "scipy", "torch"}
    code = f"import sys, harness.reporting.report; print({heavy} & set(sys.modules))"
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"


def test_curves_stand_alone_beside_the_page(sweep: Path) -> None:
    """One of each kind for every dataset and number of shots, with a legend, in any viewer."""
    files = report.artifacts(reader.load(sweep))
    assert {"report.html", "tables/results.csv", "config/sweep.yaml"} <= set(files)
    names = {name for name in files if name.startswith("curves/")}
    places = product(("elpv", "mvtec"), (2, 4), ("roc", "pr"))
    assert names == {f"curves/{dataset}_{k}_shots_{kind}.svg" for dataset, k, kind in places}
    style = (Path(curves.__file__).parent / "report.css.j2").read_text()
    assert all(colour in style for colour in curves.COLOURS.split())
    for name in names:
        root = ElementTree.fromstring(files[name])
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        words = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
        assert set(SKILL) <= set(words)
        lines = [p for p in root.iter("{http://www.w3.org/2000/svg}path") if len(p)]
        assert len(lines) == len(SKILL), "a titled line for each method"

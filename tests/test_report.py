"""Reports of a made-up sweep folder: its numbers, its gaps, its safety, its size."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from harness.reporting import html as report_html
from harness.reporting import report
from harness.results import metrics, published
from harness.results.aggregate import CELL, csv_text, read_csv, results_frame, summary_frame

SIDE = 48
SKILL = {"padim": 0.6, "patchcore": 1.4, "o2n": 2.0}  # of the made-up methods


def texture(rng: np.random.Generator, anomalous: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A picture, the mask of its blotch, and a blurry map of where the blotch is."""
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    shade = 0.5 + 0.2 * np.sin(9 * x + rng.random()) + 0.15 * np.cos(7 * y + rng.random())
    away = np.hypot(x - rng.uniform(0.3, 0.7), y - rng.uniform(0.3, 0.7))
    mask = (away < 0.13) & anomalous
    picture = np.stack([shade, 0.9 * shade, 0.7 * shade], -1)
    picture[mask] *= 0.4
    noisy = picture + rng.normal(0, 0.03, picture.shape)
    heat = np.exp(-((away / 0.2) ** 2)) * anomalous + rng.random((SIDE, SIDE)) * 0.3
    return (np.clip(noisy, 0, 1) * 255).astype(np.uint8), mask, heat.astype(np.float32)


def shown_queries(
    rng: np.random.Generator, labels: np.ndarray, scores: np.ndarray
) -> dict[str, np.ndarray]:
    """A gallery: the four most and the four least anomalous queries."""
    index = np.argsort(-scores)[[0, 1, 2, 3, -4, -3, -2, -1]]
    art = [texture(rng, bool(labels[i])) for i in index]
    image, mask, heat = (np.stack(part) for part in zip(*art, strict=True))
    return {"index": index, "image": image, "mask": mask, "map": heat}


def fabricate(
    folder: Path,
    datasets: dict[str, list[str]],
    methods: dict[str, float] = SKILL,
    shots: tuple[int, ...] = (2, 4),
    seeds: int = 2,
    queries: int = 60,
    failing: tuple[str, str, str, int, int] | None = None,
) -> Path:
    """Write a sweep's folder as the engine does, with scores drawn at random."""
    rows, timings, failed = [], [], []
    grid = product(methods, datasets, shots, range(seeds))
    cells = [(m, d, category, k, s) for m, d, k, s in grid for category in datasets[d]]
    for cell in cells:
        method, dataset, category, count, seed = cell
        key = dict(zip(CELL, cell, strict=True))
        if cell == failing:
            trace = 'File "x.py", line 1\n<script>alert(1)</script>'
            why = {"task": "predict", "error": "RuntimeError: a <b>matrix</b>,\nsingular"}
            failed.append(key | why | {"traceback": trace})
            continue
        rng = np.random.default_rng([len(rows), count, seed])
        labels = np.arange(queries) % 3 != 0
        skill = methods[method] * (1 + 0.1 * count) / 2
        scores = (rng.normal(size=queries) + skill * labels).astype(np.float32)
        gallery = shown_queries(rng, labels, scores)
        masks = [None] * queries
        maps = np.zeros((queries, SIDE, SIDE), np.float32)
        for place, mask, heat in zip(*(gallery[n] for n in ("index", "mask", "map")), strict=True):
            masks[place], maps[place] = mask, heat
        values = metrics.evaluate(labels, scores, maps, None if dataset == "elpv" else masks)
        sizes = {"n_normal": int((~labels).sum()), "n_anomalous": int(labels.sum())}
        rows.append(key | sizes | values)
        figures = {"fit_s": 0.4 * count, "predict_s": 1.5, "encode_s": 2.25, "queries": queries}
        timings.append(key | figures | {"images_per_s": 16.0, "peak_mb": 812.5})
        where = f"{method}/{dataset}/{category}/k{count}_s{seed}"
        table = folder / f"predictions/{where}.csv"
        table.parent.mkdir(parents=True, exist_ok=True)
        kinds = np.where(labels, "scratch", "good")
        frame = {"query": [f"{kind}/{i:03d}.png" for i, kind in enumerate(kinds)]}
        frame |= {"label": labels.astype(int), "defect": kinds, "score": scores}
        table.write_text(csv_text(pd.DataFrame(frame)))
        if seed == 0:
            if dataset == "elpv":
                del gallery["mask"]
            if method == "o2n":
                gallery |= {"personalized": gallery["image"][:, ::-1], "part.pool": gallery["map"]}
            archive = folder / f"gallery/{where}.npz"
            archive.parent.mkdir(parents=True, exist_ok=True)
            np.savez(archive, **gallery)
    (folder / "results.csv").write_text(csv_text(results_frame(rows)))
    (folder / "timings.csv").write_text(csv_text(pd.DataFrame(timings)))
    if failed:
        (folder / "failures.csv").write_text(csv_text(pd.DataFrame(failed)))
    config = {"name": "toys", "description": "made up", "shots": list(shots)}
    config |= {"datasets": [{"use": d} for d in datasets], "methods": [{"use": m} for m in methods]}
    (folder / "sweep.yaml").write_text(yaml.safe_dump(config))
    environment = {"git": "abc123", "versions": {"numpy": np.__version__}}
    (folder / "environment.json").write_text(json.dumps(environment))
    notes = [{"method": "o2n", "note": "tiny models, not the paper's"}]
    (folder / "notes.json").write_text(json.dumps(notes))
    return folder


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
        assert (value.replace("±", "$\\pm$") if format == "latex" else value) in text
    assert "tiny models, not the paper" in text


def test_text_says_what_is_missing_first_and_fits_a_terminal(sweep: Path) -> None:
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
    bold = best.replace("±", r"$\pm$")
    assert rf"\textbf{{{bold}}}" in report.render(sweep, "latex")
    assert re.search(rf'class="[^"]*best[^"]*">{best}<', html)


def test_a_mean_over_fewer_seeds_is_marked(sweep: Path, html: str) -> None:
    summary = summary_frame(read_csv(sweep / "results.csv")).set_index(
        ["method", "dataset", "shots"]
    )
    lone = f"{100 * summary.loc[('o2n', 'mvtec', 4), 'image_auroc_mean']:.1f}†"
    assert lone in report.render(sweep, "text")
    assert lone in html


def test_csv_is_the_summary(sweep: Path) -> None:
    expected = csv_text(summary_frame(read_csv(sweep / "results.csv")))
    assert report.render(sweep, "csv") == expected


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
    for tabular in re.findall(r"\\begin\{tabular\}\{(\w+)\}(.*?)\\end", text, re.S):
        rows = re.findall(r"^(?!.*multicolumn)(.*) \\\\$", tabular[1], re.M)
        assert {row.count("&") + 1 for row in rows} == {len(tabular[0])}
    body = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    assert not re.search(r"(?<!\\)[%#]", body)


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
    assert not kinds & {"script", "link", "iframe", "object"}
    assert not re.search(r"url\(|@import|https?://", html)
    for words in (
        *("Precision and recall", "Most anomalous", "Least anomalous", "personalized", "pool"),
        *("Average precision", "abc123", "versions.numpy", "queries/s", "812", "Table 1"),
        *("<script>alert(1)</script>", "seed 1: pill", "no masks", "bottle", "made up"),
    ):
        assert words in page.text, words
    targets = {a["href"] for tag, a in page.tags if tag == "a"}
    identifiers = {f"#{a['id']}" for _, a in page.tags if "id" in a}
    assert targets
    assert targets <= identifiers
    pictures = [a["src"] for tag, a in page.tags if tag == "img"]
    # 3 categories, 8 queries: query and map for two methods, two more for the third
    assert len(pictures) == 3 * 8 * (2 + 2 + 4)
    assert len(html) < 2_000_000


def test_rendering_twice_gives_the_same_bytes(sweep: Path, html: str) -> None:
    assert report.render(sweep, "html", "published") == html


def test_the_gallery_stops_at_its_size(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_html, "GALLERY_BYTES", 1)
    text = report.render(sweep, "html")
    assert "Not shown for want of room: 8 more" in text
    assert text.count("<figure") == 8  # one cell's


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

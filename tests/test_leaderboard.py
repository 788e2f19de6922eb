"""All sweeps of a storage on one page, in a browser where there is one."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.__main__ import main
from harness.reporting import compare
from harness.reporting.page import leaderboard
from harness.results import comparison
from harness.storage.store import Store
from tests.folders import folder_of_a_sweep


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    folder_of_a_sweep(tmp_path / "one", {"a": 1.0, "b": 2.0}, {"toys": ["x", "y"], "elpv": ["c"]})
    folder_of_a_sweep(
        tmp_path / "two&more",
        {"a": 1.5},
        shots=(2, 8),
        methods=[{"use": "winclip", "label": "a", "params": {"encoder": {"model": "micro"}}}],
    )
    (tmp_path / ".artifacts" / "x").mkdir(parents=True)
    return tmp_path


def test_every_mean_is_there_once_and_links_to_its_report(storage: Path) -> None:
    assert main(["leaderboard", str(storage)]) == 0
    html = (storage / leaderboard.PAGE).read_text()
    rows, problems = leaderboard.rows(Store(str(storage)))
    assert problems == []
    keys = [(row.sweep, row.method, row.dataset, row.shots) for row in rows]
    assert len(keys) == len(set(keys)) == 6
    assert html.count("<tr data-dataset") == 6
    assert 'href="two%26more/report.html"' in html
    assert "two&amp;more" in html
    assert "src=" not in html
    for row in rows:
        assert f">{row.metrics['image_auroc'][1]}</a>" in html


def test_profiles_are_told_by_the_models(storage: Path) -> None:
    rows, _ = leaderboard.rows(Store(str(storage)))
    assert {row.sweep: row.profile for row in rows}["two&more"] == "micro"
    config = {"generators": {"g": {"use": "dreambooth", "params": {"base": "micro"}}}}
    for entry, profile in (
        ({"use": "patchcore"}, "micro"),  # its default is a small network
        ({"use": "winclip"}, "full"),
        ({"use": "o2n", "generator": "g"}, "micro"),
        (
            {"use": "winclip", "params": {"encoder": {"model": "ViT-B-16", "weights": "random:0"}}},
            "random",
        ),
        ({"use": "gone:Away"}, "full"),
    ):
        assert leaderboard.profile(config, entry) == profile


def test_a_damaged_sweep_is_named_and_the_others_stay(
    storage: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (storage / "one" / "results.csv").write_text("method\n1,2\n")
    newer = json.loads((storage / "two&more" / "environment.json").read_text()) | {"format": 99}
    folder_of_a_sweep(storage / "later", {"a": 1.0})
    (storage / "later" / "environment.json").write_text(json.dumps(newer))
    assert main(["leaderboard", str(storage)]) == 0
    err = capsys.readouterr().err
    assert "not read: one: " in err
    assert re.search(
        r"not read: later: .*format: written by a newer version.*at most 2, got 99", err
    )
    assert "two&amp;more" in (storage / leaderboard.PAGE).read_text()


def test_an_empty_storage_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["leaderboard", str(tmp_path)]) == 2
    assert "expected a storage with sweeps" in capsys.readouterr().err


def test_old_folders_stay_readable(storage: Path) -> None:
    """A folder from before some metrics, with a summary and timings of fewer columns."""
    from harness.reporting import report

    folder = storage / "one"
    (folder / "environment.json").unlink()
    for name, gone in (
        ("results.csv", ("image_f1_max", "pixel_aupro", "status")),
        ("summary.csv", ("image_f1_max_mean", "pixel_aupro_n", "missing")),
        ("timings.csv", ("fit_s",)),
    ):
        lines = [line.split(",") for line in (folder / name).read_text().splitlines()]
        keep = [i for i, head in enumerate(lines[0]) if head not in gone]
        text = "\n".join(",".join(line[i] for i in keep) for line in lines)
        (folder / name).write_text(text + "\n")
    for format in report.FORMATS:
        assert "elpv" in report.render(folder, format)


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    sync = pytest.importorskip("playwright.sync_api")
    with sync.sync_playwright() as play:
        started = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


def test_the_board_sorts_and_filters(browser: Any, storage: Path) -> None:
    assert main(["leaderboard", str(storage)]) == 0
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto((storage / leaderboard.PAGE).as_uri())
    page.get_by_role("button", name="AUROC").first.click()
    cells = page.locator("#board tbody td:nth-child(5)").all_inner_texts()
    values = [float(text.split()[0]) for text in cells]
    assert len(values) == 6
    assert values == sorted(values, reverse=True)
    page.get_by_label("dataset").select_option("elpv")
    page.get_by_label("method").select_option("b")
    shown = [row for row in page.locator("#board tbody tr").all() if row.is_visible()]
    assert [row.locator("td").nth(2).inner_text() for row in shown] == ["b"]
    assert page.locator("#count").inner_text() == "1 of 6 rows"
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_hinders_anybody(browser: Any, storage: Path, scheme: str, width: int) -> None:
    """axe-core finds no violation on either page, and nothing sticks out sideways."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    assert main(["leaderboard", str(storage)]) == 0
    compared = comparison.compare([storage / "one", storage / "two&more"], 0)
    (storage / "compare.html").write_text(compare.render(compared, "html"))
    for name in (leaderboard.PAGE, "compare.html"):
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        messages: list[str] = []
        page.on("console", lambda message, messages=messages: messages.append(message.text))
        page.on("pageerror", lambda error, messages=messages: messages.append(str(error)))
        page.goto((storage / name).as_uri())
        violations = axe.Axe().run(page).response["violations"]
        assert not [(v["id"], n["html"][:200]) for v in violations for n in v["nodes"]]
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert not messages
        page.close()

"""The report's page in a browser: accessible, narrow, printed, sorted; skipped without Chromium."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.reporting import report
from tests.fabricated import fabricate

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync = pytest.importorskip("playwright.sync_api")
    with sync.sync_playwright() as play:
        started = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("sweep")
    datasets = {"elpv": ["cells"], "mvtec": ["bottle", "pill"]}
    long = "o2n-with-a-label-that-somebody-made-very-long-to-tell-it-from-others"
    methods = {"padim": 0.6, "patchcore": 1.4, "o2n": 2.0, long: 1.0}
    fabricate(folder, datasets, methods, failing=("o2n", "mvtec", "pill", 4, 1), queries=30)
    page = folder / "report.html"
    page.write_text(report.render(folder, "html", "published"))
    return page.as_uri()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_hinders_anybody(browser: Any, url: str, scheme: str, width: int) -> None:
    """axe-core finds no violation, with all details open, and nothing sticks out sideways."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    messages: list[str] = []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.goto(url)
    page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    violations = axe.Axe().run(page).response["violations"]
    nodes = [
        (v["id"], n["html"][:200], n.get("failureSummary")) for v in violations for n in v["nodes"]
    ]
    assert not nodes
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert not messages
    page.close()


def test_it_prints_to_a4_with_nothing_cut(browser: Any, url: str) -> None:
    """At the width between the margins of A4 no element reaches over the edge."""
    width = int((210 - 24) / 25.4 * 96)
    page = browser.new_page(viewport={"width": width, "height": 1000})
    page.emulate_media(media="print")
    page.goto(url)
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    cut = page.evaluate(
        "(width) => [...document.querySelectorAll('main *')].filter((e) => "
        "e.getBoundingClientRect().right > width + 1 && !e.closest('.unseen, .again, svg'))"
        ".map((e) => e.outerHTML.slice(0, 100))",
        width,
    )
    assert not cut
    broken = page.evaluate(
        "[...document.querySelectorAll('main tbody td')].filter((e) => {"
        "  const text = document.createRange(); text.selectNodeContents(e);"
        "  return !/ /.test(e.innerText.trim()) && text.getClientRects().length > 1;"
        "}).map((e) => e.innerText)"
    )
    assert not broken, "figures on two lines"
    closed = page.evaluate("document.querySelectorAll('details:not([open])').length")
    assert closed == 0
    page.close()


@pytest.mark.parametrize("width", [1280, 390])
def test_the_diagram_of_ranks_can_be_read(browser: Any, tmp_path: Path, width: int) -> None:
    """Its letters are no smaller than those of other charts, and no page becomes wider by it."""
    fabricate(tmp_path, {"elpv": ["cells"], "mvtec": ["pill"], "visa": ["pcb1"]}, queries=12)
    (tmp_path / "report.html").write_text(report.render(tmp_path, "html"))
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.goto((tmp_path / "report.html").as_uri())
    sizes = page.evaluate(
        "[...document.querySelectorAll('svg.ranks text')].map((e) => "
        "e.getBoundingClientRect().height)"
    )
    assert len(sizes) > 3
    assert min(sizes) > 10
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.close()


def test_tables_sort_and_filter(browser: Any, url: str) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(url)
    table = page.locator("#results ~ .card table").first
    heading = table.locator("thead tr:last-child th").nth(2)
    heading.locator("button").click()
    values = [float(x.split()[0]) for x in table.locator("tbody td:nth-child(3)").all_inner_texts()]
    assert values == sorted(values, reverse=True)
    assert heading.get_attribute("aria-sort") == "descending"
    heading.locator("button").press("Enter")
    values = [float(x.split()[0]) for x in table.locator("tbody td:nth-child(3)").all_inner_texts()]
    assert values == sorted(values)
    page.locator("#results ~ .card .filter input").first.fill("elpv patch")
    shown = [r for r in table.locator("tbody tr").all() if r.is_visible()]
    assert len(shown) == 1
    assert "elpv" in shown[0].inner_text(), "also where the name was above"
    page.close()


def test_keyboard_reaches_what_scrolls(browser: Any, url: str) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 900})
    page.goto(url)
    page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    unreachable = page.evaluate(
        "[...document.querySelectorAll('main div, main pre')].filter((e) => "
        "e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).overflowX === 'auto' && "
        "e.tabIndex < 0).length"
    )
    assert unreachable == 0
    page.close()


def test_lines_differ_without_colour(browser: Any, url: str) -> None:
    """Grey print: each method's line has a pattern or a mark of its own."""
    page = browser.new_page()
    page.goto(url)
    looks = page.evaluate(
        "[...document.querySelectorAll('.legend')][0] && "
        "[...document.querySelector('.legend').querySelectorAll('svg')].map((s) => "
        "getComputedStyle(s.querySelector('.line')).strokeDasharray + "
        "s.querySelector('.dot').getAttribute('d'))"
    )
    assert len(looks) == 4
    assert len(set(looks)) == 4
    page.close()


def test_the_file_is_whole_without_a_network(browser: Any, url: str) -> None:
    page = browser.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(url)
    assert [u for u in asked if not u.startswith("data:")] == [url]
    assert Path(url.removeprefix("file://")).stat().st_size < 3_000_000
    page.close()


def test_the_picture_of_the_readme_is_of_a_page_in_full_colour(browser: Any, url: str) -> None:
    from tools.readme_picture import HEAD, QUERIES, WIDTH, photograph

    page = Path(url.removeprefix("file://")).read_text()
    picture = photograph(page, browser)
    assert picture.mode == "RGB"
    assert picture.size == (WIDTH, HEAD + QUERIES)
    assert len(picture.getcolors(1 << 24) or []) > 1000

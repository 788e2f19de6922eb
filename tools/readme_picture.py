"""The README's picture: the demo's report in a browser. ``python -m tools.readme_picture``.

Renders the report of a finished demo (``make demo``) anew and photographs its head with the table
of results, and the first category's mistakes, in full colour. Needs Chromium.
"""

from __future__ import annotations

import argparse
import io
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

from harness.reporting import report

HOME = Path(__file__).resolve().parents[1]
TARGET = HOME / "docs" / "report.png"
WIDTH, HEAD, QUERIES = 1100, 620, 760  # pixels


def main() -> int:
    """Write ``docs/report.png``; 2 where there is nothing to photograph, or nobody who could."""
    parser = argparse.ArgumentParser(description="Photograph the demo's report for the README.")
    parser.add_argument("folder", nargs="?", type=Path, default=HOME / "runs" / "demo")
    parser.add_argument("--target", type=Path, default=TARGET)
    arguments = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("chrome")
    if chromium is None:
        print("Chromium is not installed: expected chromium or chrome in PATH", file=sys.stderr)
        return 2
    try:
        page = report.render(arguments.folder, "html")
    except (ValueError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        return 2
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        photograph(page, browser).save(arguments.target, optimize=True)
        browser.close()
    return 0


def photograph(page: str, browser: Any) -> Image.Image:
    """The two parts of a page under one another, RGB, as a browser of Playwright shows them."""
    view = browser.new_page(viewport={"width": WIDTH, "height": HEAD}, color_scheme="light")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.html"
        path.write_text(page, encoding="utf-8")
        view.goto(path.as_uri())
    parts = [_shot(view)]
    if view.locator("#queries").count():
        view.set_viewport_size({"width": WIDTH, "height": QUERIES})
        view.evaluate("document.querySelector('nav').style.display = 'none'")
        view.evaluate("document.querySelector('#queries').scrollIntoView()")
        parts.append(_shot(view))
    view.close()
    whole = Image.new("RGB", (WIDTH, sum(part.height for part in parts)), "white")
    top = 0
    for part in parts:
        whole.paste(part, (0, top))
        top += part.height
    return whole


def _shot(view: Any) -> Image.Image:
    return Image.open(io.BytesIO(view.screenshot())).convert("RGB")


if __name__ == "__main__":
    sys.exit(main())

"""The command that runs the demo, shows its report, and says what to do next."""

from __future__ import annotations

import re
import webbrowser
from pathlib import Path

import pytest

from harness import run as runs
from harness.__main__ import main, parser
from harness.reporting.live import closing
from harness.running.options import Options
from tests.sweeps import HOME

DISPLAYS = ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Pages that a browser was asked to show."""
    pages: list[str] = []
    for name in DISPLAYS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(webbrowser, "open", lambda page: pages.append(page) or True)
    return pages


def test_the_demo_ends_with_three_things_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    asked: list[Options] = []
    monkeypatch.setattr(runs, "run", lambda options: asked.append(options) or 0)
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--runner", "local"]) == 0
    (options,) = asked
    assert options.conf.resolve() == HOME / "conf" / "demo.yaml"
    assert (options.runner, options.workers, options.storage) == ("local", 2, "runs")
    steps = re.findall(r"^  \d\. (.*?)  ", capsys.readouterr().out, re.M)
    assert len(steps) == 3
    for step in steps:
        if step.startswith("python -m harness "):
            parser().parse_args(step.split()[3:])
        else:
            assert (HOME / step).is_file()


def test_nothing_is_said_to_be_next_where_it_failed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(runs, "run", lambda _: 1)
    assert main(["demo", "--open", "--storage", str(tmp_path)]) == 1
    assert capsys.readouterr().out == ""


def test_the_report_is_opened_or_its_path_printed(
    opened: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    page = tmp_path / "demo" / "report.html"
    page.parent.mkdir()
    page.write_text("<p>")
    assert main(["demo", "--open", "--storage", str(tmp_path)]) == 0
    assert capsys.readouterr().out.strip() == str(page)
    assert not opened
    monkeypatch.setenv("BROWSER", "firefox")
    monkeypatch.chdir(tmp_path.parent)
    assert main(["demo", "--open", "--storage", tmp_path.name]) == 0
    assert opened == [page.as_uri()]


def test_a_run_says_its_peak_memory() -> None:
    array = bytearray(300 << 20)
    array[::4096] = b"x" * len(array[::4096])
    (memory, *_) = closing.lines("r", "u", [{"peak_mb": 1500.0}, {"peak_mb": 2260.5}])
    text = re.fullmatch(r"peak memory: ([\d.]+) GB of this process, 2.3 GB of a worker", memory)
    assert text is not None
    assert 0.3 <= float(text.group(1)) < 20
    assert closing.lines("r", "u", [])[0].endswith("of this process")

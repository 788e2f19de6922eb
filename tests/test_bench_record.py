"""What benchmarks store, and how a loss is told."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks import readme, record
from benchmarks.figures import figure, interleaved, parsed, ratio, read, write
from benchmarks.process import watched


def test_only_a_loss_beyond_both_spreads_is_told(tmp_path: Path) -> None:
    before = record.conditions()
    first = {
        "seconds": figure([1.0, 1.1, 1.2], "s"),
        "rate": figure([100.0], "/s", "higher"),
        "noisy": figure([1.0, 2.0, 9.0], "s"),
        "count": figure(5.0, "", "neither"),
        "steady": figure(1.0, "s"),
    }
    assert record.keep({"one": first}, "make bench", before, tmp_path) == {}
    second = {
        "seconds": figure([1.4, 1.5, 1.6], "s"),
        "rate": figure([80.0], "/s", "higher"),
        "noisy": figure([4.0, 5.0, 6.0], "s"),  # inside what was measured before
        "count": figure(50.0, "", "neither"),
        "steady": figure(1.1, "s"),
    }
    lost = record.keep({"one": second}, "make bench", before, tmp_path)
    assert lost == {"seconds": pytest.approx(0.4 / 1.1), "rate": pytest.approx(0.25)}
    stream = io.StringIO()
    record.tell({"one": second}, lost, Console(file=stream, force_terminal=True, width=200))
    line = next(one for one in stream.getvalue().splitlines() if "seconds" in one)
    assert "\x1b[31m" in line
    assert "WORSE by 36 % than what is stored of this machine" in line
    # what is stored is the later one, of this machine, under its script
    kept = json.loads((tmp_path / "results.json").read_text())
    assert list(kept) == [record.machine()["name"]]
    group = kept[record.machine()["name"]]["groups"]["one"]
    assert parsed(group["figures"]) == second
    page = (tmp_path / "results.md").read_text()
    assert "| rate | 80 /s |" in page
    assert "`make bench`" in page


def test_another_script_and_another_machine_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = record.conditions()
    slow, fast = {"seconds": figure(9.0, "s")}, {"seconds": figure(1.0, "s")}
    record.keep({"one": fast}, "make bench", before, tmp_path)
    record.keep({"two": slow}, "make bench", before, tmp_path)
    monkeypatch.setattr(record, "machine", lambda: {"name": "other", **_UNKNOWN})
    assert record.keep({"one": slow}, "make bench", before, tmp_path) == {}
    kept = json.loads((tmp_path / "results.json").read_text())
    assert [sorted(one["groups"]) for one in kept.values()] == [["one", "two"], ["one"]]


_UNKNOWN = {"system": "Linux", "vector units": ""}


def test_figures_are_read_as_written(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    figures = {"a": figure([3, 1, 2], "s", note="n"), "b": ratio([4, 6], [2, 2])}
    write(path, figures)
    assert read(path) == figures
    assert figures["a"].value == 2
    assert figures["a"].spread == (1, 3)
    assert figures["b"].value == 2.5
    plain = parsed({"rate": {"value": 2, "unit": "tasks/s", "spread": [3, 1]}})["rate"]
    assert (plain.better, plain.spread) == ("higher", (1, 3))


def test_runs_take_turns() -> None:
    order: list[str] = []
    seconds = interleaved({n: lambda n=n: order.append(n) for n in "ab"}, 2)
    assert order == list("ababab")
    assert [len(one) for one in seconds.values()] == [2, 2]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_processes_are_watched() -> None:
    hungry = "import time; x = bytearray(80 << 20); time.sleep(0.5)"
    text = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {hungry!r}])"
    run = watched([sys.executable, "-c", text])
    assert run.worker_mb > 80 > run.host_mb > 1
    assert run.wall > 0.5
    with pytest.raises(RuntimeError, match="ended with status 3:\nwhy"):
        watched([sys.executable, "-c", "print('why'); raise SystemExit(3)"])


def test_the_readme_quotes_what_is_stored(tmp_path: Path) -> None:
    before = record.conditions()
    figures = {"12 cells, local": figure(9.87, "s"), "12 cells, Ray": figure(15.2, "s")}
    record.keep({"sweep": figures}, "make bench", before, tmp_path)
    own = record.stored(tmp_path)[record.machine()["name"]]
    text = f"above\n{readme.BEGIN}\nwhat was\n{readme.END}\nbelow\n"
    filled = readme.filled(text, own)
    assert "what was" not in filled
    assert filled.startswith("above\n")
    assert filled.endswith(f"{readme.END}\nbelow\n")
    line = next(one for one in filled.splitlines() if one.startswith("- "))
    assert "9.87 s with local workers, 15.2 s on Ray (`make bench`)" in line
    assert readme.filled(filled, own) == filled
    with pytest.raises(ValueError, match="measured: begin"):
        readme.filled("nothing", own)
    measured = {name for one in record.stored().values() for name in one["groups"]}
    assert measured  # each figure that is quoted has the name it is stored under, where it is
    for _, names in readme.LINES:
        for group, name in names:
            for one in record.stored().values():
                assert group not in one["groups"] or name in one["groups"][group]["figures"]

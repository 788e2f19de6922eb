"""What people see in a terminal: help with examples, and nothing wider than the terminal."""

from __future__ import annotations

import argparse
import io
import json
import re
import shlex
from pathlib import Path

import pytest
from rich.console import Console

from harness.__main__ import main, parser
from harness.commands.examples import EXAMPLES
from harness.keys import Cell
from harness.planning.origins import origins
from harness.reporting import compare, report, terminal, text
from harness.reporting.live.progress import Display
from harness.reporting.live.time_left import TimeLeft
from harness.reporting.tables import Table
from harness.results import comparison
from harness.run import Options, prepare
from tests.folders import folder_of_a_sweep
from tests.sweeps import sweep, written

WIDTHS = (80, 100, 132, 200)


def commands() -> dict[str, argparse.ArgumentParser]:
    (group,) = (a for a in parser()._actions if isinstance(a, argparse._SubParsersAction))
    return dict(group.choices)


@pytest.mark.parametrize("width", WIDTHS)
def test_help_of_every_command_fits_and_ends_with_examples_that_work(
    width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    every = commands()
    assert every.keys() == EXAMPLES.keys()
    for name, command in [("", parser()), *every.items()]:
        lines = command.format_help().splitlines()
        assert max(map(len, lines)) <= width, (name, lines)
        assert not any("\x1b" in line for line in lines)
        examples = lines[lines.index("examples:") + 1 :]
        assert examples, name
        for example in examples:
            words = shlex.split(example.partition(">")[0])
            assert words[:3] == ["python", "-m", "harness"]
            parser().parse_args(words[3:])
            assert name in ("", words[3])


LONG = "a-folder/" * 12 + "x" * 90 + "/weights-of-a-network.safetensors"


@pytest.mark.parametrize("width", WIDTHS[:2])
def test_what_plan_and_its_neighbours_say_fits_and_loses_nothing(
    width: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Paths of weights that are longer than any terminal, remarks on data, reasons."""
    monkeypatch.setenv("COLUMNS", str(width))
    weights = tmp_path / LONG
    weights.parent.mkdir(parents=True)
    weights.touch()
    encoder = {"model": "wide_resnet50_2", "weights": str(weights)}
    config = sweep(
        datasets=[{"use": "surfaces", "queries": {"normal": 2, "anomalous": 2}}],
        methods=[{"use": "padim", "params": {"encoder": encoder}}, {"use": "patchcore"}],
        shots=[2],
    )
    before = f"s{'-and-so-on' * 9}"
    words = ["plan", str(written(tmp_path / "c.yaml", config)), "--storage", str(tmp_path), "--why"]
    ready = prepare(Options(Path(words[1]), overrides=("methods=[{use: mean_color}]",)))
    (tmp_path / before).mkdir()
    record = json.dumps(origins(ready.sweep, ready.inputs.plan_inputs))
    (tmp_path / before / "keys.json").write_text(record)
    assert main(words) == 0
    plan = capsys.readouterr().out
    assert str(weights) in re.sub(r"\n *", "", plan)
    assert re.search(r"predict +10  not planned before: method", plan)
    words = ["models", "list", "list patchcore", *["data elpv"] * (width == WIDTHS[0])]
    for each in map(str.split, words):
        assert main(each) == 0
    lines = [*plan.splitlines(), *capsys.readouterr().out.splitlines()]
    assert max(map(len, lines)) <= width, [line for line in lines if len(line) > width]


def test_without_a_terminal_lines_stay_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    line = f"  padim: encoder x (found: /{LONG})"
    monkeypatch.setenv("COLUMNS", "0")
    monkeypatch.setattr("sys.__stdout__", io.StringIO())
    assert terminal.fitted([line]) == line
    monkeypatch.setenv("COLUMNS", "80")
    assert terminal.fitted([line]).count("\n") > 2
    assert terminal.fitted(["short  as it is"]) == "short  as it is"
    assert terminal.wrapped("kind 3  one two", 12, 8) == "kind 3  one\n        two"
    assert terminal.wrapped("a/bc/def", 5) == "a/bc/\n  def"
    assert terminal.wrapped("  abcdefgh", 6) == "  abcd\n    ef\n    gh"


@pytest.fixture(scope="module")
def sweeps(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two of many shots, methods with long names, and failures with long messages."""
    folder = tmp_path_factory.mktemp("sweeps")
    skills = {f"a-method-with-a-rather-long-name-{i}": 0.5 + i for i in range(3)}
    failing = [(next(iter(skills)), "toys", "x", 1, 0)]
    shots = (1, 2, 4, 8, 16, 32)
    return [
        folder_of_a_sweep(folder / name, skills, shots=shots, failing=failing)
        for name in ("before", "after")
    ]


@pytest.mark.parametrize("width", WIDTHS)
def test_reports_are_no_wider_than_the_terminal(
    width: int, sweeps: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    shown = report.render(sweeps[0], "text")
    assert max(map(len, shown.splitlines())) <= width, shown
    titles = [line for line in shown.splitlines() if re.match(r"Images\b", line)]
    assert titles == ["Images"] or {t.removesuffix(", continued") for t in titles} == {
        "Images: AUROC %",
        "Images: AUPRC %",
    }
    both = compare.render(comparison.compare(sweeps, None), "text")
    assert max(map(len, both.splitlines())) <= width, both


def test_a_table_in_parts_shows_every_figure_once() -> None:
    rows = [[f"row {i}", *(f"{i}.{j:02}" for j in range(40))] for i in range(3)]
    heads = ["name", *(f"h{j}" for j in range(40))]
    groups = [("first", 15), ("second", 25)]
    table = Table("title", heads, rows, groups=groups, best={(1, 3), (2, 40)}, near={(0, 25)})
    for width in WIDTHS:
        lines = text.text_lines(table, width)
        assert max(map(len, lines)) <= width
        figures = re.findall(r"\d\.\d\d[*~]?", "\n".join(lines))
        assert sorted(f.rstrip("*~") for f in figures) == sorted(c for r in rows for c in r[1:])
        marked = {f for f in figures if f[-1] in "*~"}
        assert marked == {"1.02*", "2.39*", "0.24~"}
        assert sum("row 1" in line for line in lines) == sum(
            line.startswith("title") for line in lines
        )


def test_a_table_is_parted_between_groups() -> None:
    heads = ["dataset", "method", *["ours", "theirs", "diff."] * 4]
    row = ["mvtec", "a-method-with-a-long-name", *["96.1 ± 0.8", "96.6 ± 0.9", "-0.5"] * 4]
    groups = [(f"metric {i} %", 3) for i in range(4)]
    lines = text.text_lines(Table("Beside", heads, [row], names=2, groups=groups), 80)
    assert max(map(len, lines)) <= 80
    heads = [line.split()[2:] for line in lines if line.startswith("dataset")]
    assert heads == [["ours", "theirs", "diff."]] * 4
    assert [re.findall(r"metric \d", line) for line in lines if "---" in line] == [
        [f"metric {i}"] for i in range(4)
    ]


@pytest.mark.parametrize(
    "words", [("list",), ("list", "patchcore"), ("plan", "conf/demo.yaml"), ("models",)]
)
def test_other_commands_fit_into_eighty_columns_or_wrap_at_words(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(list(words)) == 0
    shown = capsys.readouterr().out
    tabular = [line for line in shown.splitlines() if re.search(r"\S {2,}\d", line)]
    assert all(len(line) <= 80 for line in tabular), tabular
    assert "\x1b" not in shown


@pytest.mark.parametrize(
    ("variables", "drawn"), [({"TERM": "dumb"}, False), ({"NO_COLOR": "1"}, True)]
)
def test_terminals_that_want_no_colour_or_cannot_draw(
    variables: dict[str, str],
    drawn: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=80)
    cells = [Cell("near", "toys", "ant", 2, seed) for seed in range(2)]
    with Display("demo", cells, {}, 2, 1, TimeLeft([], 1), False, console) as display:
        display.started("k", "predict toys/ant", "worker-0")
        display.finished(cells[0], {"image_auroc": 0.9})
    assert ("\x1b" in screen.getvalue()) == drawn
    colours = re.findall(r"\x1b\[[\d;]*m", screen.getvalue())
    assert not [c for c in colours if re.search(r"[34]\d|38;|48;", c)]
    screen_text = capsys.readouterr().err + re.sub(r"\x1b\[[\d;]*m", "", screen.getvalue())
    assert "image AUROC 90.0" in screen_text

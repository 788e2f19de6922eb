"""A sweep's folder that was damaged: only rows that were written count, and a line says so."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from harness import config, results
from harness.__main__ import main
from harness.errors import InputError
from harness.keys import Cell
from harness.reporting.mlflow.lineage import is_note
from harness.results.folder import integrity
from harness.results.folder.writer import ResultsWriter
from harness.storage.store import Store
from tests.sweeps import NEAR, Runner, sweep, written

pytestmark = pytest.mark.usefixtures("toys")
CELLS = [Cell("Near", "Squares", c, 2, s) for c in ("ant", "bee") for s in range(6)]
KEYS = {cell: f"k{i}" for i, cell in enumerate(CELLS)}
FAILED = CELLS[-1]
FILES = ("results.csv", "timings.csv", "failures.csv", "tasks.csv", "sweep.sha256")


Reopened = Callable[[Callable[[Path], None]], ResultsWriter]


def reopener(folder: Path) -> Reopened:
    """Damages a fresh copy of a finished sweep's folder, and reads it as a resumed sweep does."""
    loaded = config.load(written(folder / "c.yaml", sweep(seeds=[*range(6)])))
    store = Store(str(folder / "runs"))
    writer = ResultsWriter(store, loaded, KEYS)
    writer.begin({}, {}, [])
    for cell in CELLS[:-1]:
        row = {"n_normal": 5, "n_anomalous": 5, "image_auroc": 0.1 + cell.seed / 7, "status": "ok"}
        writer.finish(cell, KEYS[cell], row, {"fit_s": 0.5, "started": "2024-01-01T00:00:00"})
    failure = {"task": "t", "bad_data": False, "error": 'e, "f"', "traceback": "g\nh"}
    writer.fail(FAILED, KEYS[FAILED], failure)
    writer.flush(final=True)
    shutil.copytree(folder / "runs", folder / "whole")

    def go(damage: Callable[[Path], None]) -> ResultsWriter:
        shutil.rmtree(folder / "runs")
        shutil.copytree(folder / "whole", folder / "runs")
        damage(folder / "runs" / "toy")
        return ResultsWriter(store, loaded, KEYS)

    return go


@pytest.fixture
def reopened(tmp_path: Path) -> Reopened:
    """A folder to damage."""
    return reopener(tmp_path)


def wrong(writer: ResultsWriter) -> str:
    """What the writer took for a row and was not written."""
    for cell, row in writer.rows.items():
        values = (row["n_normal"], row["n_anomalous"], row["image_auroc"], row["status"])
        if cell not in CELLS[:-1] or values != (5, 5, 0.1 + cell.seed / 7, "ok"):
            return f"{cell}: {values}"
    for cell, row in writer.failures.items():
        if cell != FAILED or row["error"] != 'e, "f"' or row["traceback"] != "g\nh":
            return f"{cell}: {row}"
    return ""


def replaced(name: str, old: bytes, new: bytes) -> Callable[[Path], None]:
    def go(folder: Path) -> None:
        contents = (folder / name).read_bytes()
        assert old in contents
        (folder / name).write_bytes(contents.replace(old, new, 1))

    return go


def holding(name: str, contents: bytes) -> Callable[[Path], None]:
    def go(folder: Path) -> None:
        (folder / name).write_bytes(contents)

    return go


def column(name: str, value: str) -> Callable[[Path], None]:
    """Another value in a column of the first row."""

    def go(folder: Path) -> None:
        lines = (folder / "results.csv").read_text().splitlines()
        cells = lines[1].split(",")
        cells[lines[0].split(",").index(name)] = value
        (folder / "results.csv").write_text("\n".join([lines[0], ",".join(cells), *lines[2:], ""]))

    return go


def cut(name: str, share: float) -> Callable[[Path], None]:
    def go(folder: Path) -> None:
        contents = (folder / name).read_bytes()
        (folder / name).write_bytes(contents[: int(len(contents) * share)])

    return go


DAMAGE: dict[str, Callable[[Path], None]] = {
    "an altered figure": column("image_auroc", "0.123"),
    "nan": column("image_auroc", "nan"),
    "1e999": column("image_auroc", "1e999"),
    "a word for a number": column("n_normal", "many"),
    "an altered status": column("status", "fine"),
    "another seed": column("seed", "7"),
    "an extra column": replaced("results.csv", b"\n", b",x\n"),
    "an extra value": replaced("results.csv", b"ok", b"ok,9"),
    "a missing column": replaced("results.csv", b"image_auroc,", b""),
    "no UTF-8": replaced("results.csv", b"ant", b"\xff\xfe"),
    "a NUL": replaced("results.csv", b"ant", b"a\x00t"),
    "a huge field": replaced("results.csv", b"ant", b"a" * 200_000),
    "an open quote": replaced("results.csv", b"ant", b'"ant'),
    "half of the results": cut("results.csv", 0.6),
    "half of the timings": cut("timings.csv", 0.6),
    "results that are binary": holding("results.csv", bytes(range(256))),
    "timings that are binary": holding("timings.csv", bytes(range(256))),
    "timings without digests": replaced("timings.csv", b",digest\n", b"\n"),
    "empty results": holding("results.csv", b""),
    "tasks that are binary": holding("tasks.csv", bytes(range(256))),
    "tasks that are cut": cut("tasks.csv", 0.5),
    "a garbage digest": holding("sweep.sha256", b"\xff\x00garbage"),
    "an empty digest": holding("sweep.sha256", b""),
    "an altered digest": holding("sweep.sha256", b"0" * 64),
    "a garbage config": holding("sweep.yaml", b"{{{: \xff"),
    "failures that are binary": holding("failures.csv", bytes(range(256))),
    "garbage failures": holding("failures.csv", b"a,b\n1,2\n"),
}


def test_a_whole_folder_is_read_without_a_word(reopened: Reopened) -> None:
    writer = reopened(lambda _: None)
    assert (len(writer.rows), len(writer.failures), writer.damage) == (len(CELLS) - 1, 1, [])


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_told_and_no_other_row_taken(reopened: Reopened, what: str) -> None:
    writer = reopened(DAMAGE[what])
    assert not wrong(writer)
    assert len(writer.damage) <= 2
    if what not in ("an empty digest", "tasks that are cut", "a garbage config"):
        assert any("damaged" in line for line in writer.damage)
    writer.flush(final=True)


@pytest.mark.parametrize("name", FILES)
def test_a_folder_in_the_place_of_a_file_is_one_line(reopened: Reopened, name: str) -> None:
    def damage(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).mkdir()

    with pytest.raises(InputError, match=f"{name}: expected a file, there is a folder") as caught:
        reopened(damage)
    assert len(caught.value.problems) == 1


def damaged_at_random(folder: Path, chance: random.Random) -> None:
    path = folder / chance.choice(FILES)
    if not path.exists():
        return
    contents = bytearray(path.read_bytes())
    at = chance.randrange(len(contents))
    how = chance.randrange(4)
    if how == 0:
        contents[at] = chance.randrange(256)
    elif how == 1:
        del contents[at : at + chance.randrange(1, 60)]
    elif how == 2:
        contents[at:at] = contents[max(0, at - chance.randrange(1, 60)) : at]
    else:
        contents[at:at] = chance.choice([b"\n", b",", b'"', b"\x00", b"\xff", b"0"])
    path.write_bytes(bytes(contents))


def wrong_damages(reopened: Reopened, seeds: range) -> list[str]:
    """What went wrong after seeded damages: neither the right rows nor one clear line."""
    bad = []
    for seed in seeds:
        try:
            writer = reopened(partial(damaged_at_random, chance=random.Random(seed)))
        except InputError as error:  # another configuration, as far as anybody can tell
            if len(error.problems) != 1:
                bad.append(f"seed {seed}: {error}")
            continue
        except Exception as error:
            bad.append(f"seed {seed}: {type(error).__name__}: {error}")
            continue
        if differing := wrong(writer):
            bad.append(f"seed {seed}: {differing}")
    return bad


def test_random_damages_change_no_result(reopened: Reopened) -> None:
    cases = 250
    bad = wrong_damages(reopened, range(cases))
    print(f"{cases - len(bad)} right of {cases}")
    assert not bad, f"{cases - len(bad)} right of {cases}; " + "\n".join(bad[:20])


@pytest.mark.parametrize(
    ("note", "whole"),
    [
        ({"parent": "p", "cells": {"a": ["r", "k"]}, "groups": {}}, True),
        ({}, True),
        ([], False),
        (None, False),
        ({"uri": 3}, False),
        ({"uri": "y"}, False),
        ({"cells": [1]}, False),
        ({"cells": {"a": "rk"}}, False),
        ({"cells": {"a": ["r"]}}, False),
        ({"groups": {"a": ["r", 3]}}, False),
    ],
)
def test_a_note_of_what_is_logged_is_whole_or_not(note: object, whole: bool) -> None:
    if isinstance(note, dict):
        note = {"uri": "x"} | note
    assert is_note(json.loads(json.dumps(note)), "x") is whole


#: Files of a finished folder whose damage every command tells that reads them.
TOLD: tuple[str, ...] = (
    "results.csv",
    "timings.csv",
    "failures.csv",
    "summary.csv",
    "costs.csv",
    "tasks.csv",
)
TOLD += ("sweep.yaml", "environment.json", "notes.json", "support.json", "audit.json")
CELL = "Near/Squares/ant/k2_s0"
TOLD += (f"predictions/{CELL}.csv", f"gallery/{CELL}.npz")
#: ... that no command reads but the next run, or that none does.
UNREAD = ("keys.json", "sharing.csv", "sweep.sha256", "report.html", "mlflow.json")
BOARD = {"results.csv", "timings.csv", "failures.csv", "summary.csv", "sweep.yaml"}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def changed(old: bytes) -> bytes:
    """One character is another one, such as nobody would see: the last digit."""
    place = max(old.rfind(b"%d" % digit) for digit in range(10))
    return old[:place] + (b"3" if old[place : place + 1] != b"3" else b"4") + old[place + 1 :]


def halved(old: bytes) -> bytes:
    return b"\xff\x00" + old[: len(old) // 2]


def test_each_kind_of_file_is_told_by_each_command_and_healed_by_a_run(
    run_sweep: Runner,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(integrity, "PAUSE", 0.0)
    trouble = {
        "use": "toys.trouble:Trouble",
        "label": "fails",
        "params": {"how": "nothing", "when": "predict"},
    }
    config = sweep(methods=[{"use": NEAR}, trouble])
    assert run_sweep(config, audit=0.1) == 1
    folder, whole = tmp_path / "runs" / "toy", tmp_path / "whole"
    shutil.copytree(folder, whole)
    before = contents(whole)
    assert set(before) >= {*TOLD, *UNREAD, "manifest.sha256"}
    names = {name for name in before if "/" not in name}
    assert names == {*TOLD[:-2], *UNREAD, "manifest.sha256"}, "a new kind of file: is it told?"
    capfd.readouterr()

    for i, name in enumerate(TOLD):
        (folder / name).write_bytes((changed, halved)[i % 2](before[name]))
        for words in (["report", folder], ["compare", whole, folder]):
            assert main([*map(str, words)]) == 2, (name, words)
            (line,) = capfd.readouterr().err.splitlines()
            assert name in line
            assert "run the sweep again" in line
        with pytest.raises(ValueError, match="damaged, not what was written"):
            results.load(folder)
        if name in BOARD:
            assert main(["leaderboard", str(tmp_path / "runs")]) == 0
            (line,) = capfd.readouterr().err.splitlines()
            assert f"{folder}/" in line
            assert name in line
        (folder / name).write_bytes(before[name])

    # with its digest sweep.yaml says which sweep this is; rows tell which files belong to them
    rows = {"results.csv", "timings.csv", "sweep.yaml"}
    spared = {"sweep.yaml", *TOLD[-2:]}
    for damage, left in ((changed, rows), (halved, spared)):
        present = [n for n in (*TOLD, *UNREAD) if (folder / n).exists() and n not in left]
        for name in present:
            (folder / name).write_bytes(damage(before[name]))
        assert run_sweep(config) == 1
        stderr = capfd.readouterr().err
        assert "Traceback" not in stderr
        unsaid = {name for name in present if name not in stderr}
        assert unsaid == {"mlflow.json"}
        after = contents(folder)
        for name in ("results.csv", "summary.csv", "sweep.yaml", "sweep.sha256", "support.json"):
            assert after[name] == before[name], name
        for name in before:
            if name.startswith(("predictions/", "gallery/")):
                assert after[name] == before[name], name
        assert not (folder / "audit.json").exists(), "what an audit saw cannot be made anew"
        assert main(["report", str(folder)]) == 0
        assert capfd.readouterr().err == ""


def test_galleries_that_were_removed_for_their_room_are_no_damage(
    run_sweep: Runner, tmp_path: Path
) -> None:
    assert run_sweep(sweep()) == 0
    shutil.rmtree(tmp_path / "runs/toy/gallery")
    assert main(["report", str(tmp_path / "runs/toy")]) == 0
    shutil.rmtree(tmp_path / "runs/.artifacts")
    assert run_sweep(sweep()) == 0
    assert not (tmp_path / "runs/.artifacts").exists()

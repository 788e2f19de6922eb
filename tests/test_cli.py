"""The command line as people use it: words, exit statuses, one line per mistake."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from harness.__main__ import main
from tests.sweeps import FAKES, HOME, NEAR, SQUARES, Tally, command, rows, sweep, written

pytestmark = [pytest.mark.timeout(900), pytest.mark.usefixtures("toys")]


def said(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    status = main([str(word) for word in words])
    out, err = capsys.readouterr()
    return status, out, err


def test_plan_says_what_it_would_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    conf = written(tmp_path / "c.yaml", sweep(shots=[1, 2], seeds=[0, 1], shard=4))
    status, out, err = said(capsys, "plan", conf, "--storage", tmp_path / "runs")
    assert (status, err) == (0, "")
    assert "toy: 8 cells, 2 categories with 20 queries" in out
    assert re.search(r"predict +24 +24 +0", out)
    assert re.search(r"evaluate +8 +8 +0", out)
    assert not (tmp_path / "runs").exists(), "planning leaves nothing behind"
    assert re.search(r"to do +done or not needed +minutes", out)
    status, out, _ = said(capsys, "plan", conf, "--only", "shots=1", "--set", "seeds=[0]")
    assert "toy: 2 cells" in out
    one = ("--only", "shots=1,category=ant", "--set", "seeds=[0]")
    assert "toy: 1 cell, " in said(capsys, "plan", conf, *one)[1]


@pytest.mark.parametrize(
    ("changes", "words", "says"),
    [
        ({"methods": [{"use": "patchcor"}]}, (), "Did you mean 'patchcore'?"),
        ({"datasets": [{"use": "elp"}]}, (), "Did you mean 'elpv'?"),
        (
            {"datasets": [{"use": "toys.data:Squares", "categories": ["an"]}]},
            (),
            "Did you mean 'ant'",
        ),
        ({"methods": [{"use": NEAR, "params": {"pwer": 1}}]}, (), "Did you mean 'power'?"),
        ({"shots": ["x"]}, (), "shots[0]"),
        (
            {"datasets": [{"use": SQUARES, "categories": ["ant"]}], "shots": [99]},
            (),
            "99 shots asked for, but 10",
        ),
        ({"datasets": [{"use": "mvtec"}]}, ("--data-root", "/nowhere"), "/nowhere: no such folder"),
        ({"name": "../up"}, (), "plain name"),
        ({}, ("--only", "method=Nera"), "Did you mean 'Near'?"),
        ({}, ("--only", "shots=3"), "no shots '3'"),
        ({}, ("--only", "nothing=3"), "--only"),
        ({}, ("--set", "shots"), "--set"),
        ({}, ("--storage", "nope://x"), "nope://x"),
    ],
)
@pytest.mark.parametrize("verb", ["plan", "run"])
def test_bad_input_is_one_line_and_exit_status_2(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    verb: str,
    changes: dict[str, Any],
    words: tuple[str, ...],
    says: str,
) -> None:
    conf = written(tmp_path / "c.yaml", sweep(**changes))
    monkeypatch.chdir(tmp_path)
    runner = ("--runner", "serial") if verb == "run" else ()
    status, out, err = said(capsys, verb, conf, *runner, *words)
    assert status == 2
    assert len(err.splitlines()) == 1, err
    assert says in err
    assert out == ""
    assert "Traceback" not in err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "text", ["name: [", "", "a: b: c", "name: x\nname: y"], ids=["open", "empty", "colons", "twice"]
)
def test_yaml_that_does_not_parse(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    (tmp_path / "c.yaml").write_text(text)
    status, _, err = said(capsys, "run", tmp_path / "c.yaml")
    assert status == 2
    assert len(err.splitlines()) == 1
    assert str(tmp_path / "c.yaml") in err


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("walk",),
        ("run",),
        ("run", "c.yaml", "--workers", "0"),
        ("run", "c.yaml", "--workers", "many"),
        ("run", "c.yaml", "--runner", "other"),
        ("report",),
    ],
)
def test_wrong_words(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(list(words))
    assert caught.value.code == 2
    assert "usage: python -m harness" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("run", "c.yaml", "--workers", "1e9"), "--workers: expected a whole number, got '1e9'"),
        (("run", "c.yaml", "--audit", "some"), "--audit: expected a share up to 100%"),
        (("run", "c.yaml", "--audit-seed", "x"), "--audit-seed: expected a whole number, got 'x'"),
        (
            ("compare", "a", "b", "--fail-below", "nan"),
            "--fail-below: expected a number, got 'nan'",
        ),
        (("ui", "--port", "65536"), "--port: expected a port from 1 to 65535, got 65536"),
        (("run", "c.yaml", "--worker", "2", "--stroage", "x"), "Did you mean '--storage'?"),
        (("report", "runs/x", "runs/y"), "python -m harness report: error: unrecognized arguments"),
    ],
)
def test_wrong_words_are_answered_by_their_command(
    words: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(list(words))
    assert caught.value.code == 2
    answer = capsys.readouterr().err
    assert says in answer
    assert answer.startswith(f"usage: python -m harness {words[0]}")


def test_list_names_every_plugin(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = said(capsys, "list", "methods")
    assert status == 0
    assert {"mean_color", "padim", "patchcore"} <= {line.split()[0] for line in out.splitlines()}


def test_list_tells_the_parameters_of_a_plugin(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = said(capsys, "list", "patchcore")
    assert status == 0
    assert 'scoring (default "reweighted"): one of reweighted, mean' in out
    assert "size (default 256): an integer >= 8 and <= 4096" in out
    assert "Side in pixels that pictures are stretched to" in out
    status, out, err = said(capsys, "list", "things")
    assert (status, out) == (2, "")
    assert "no plug-in 'things'" in err
    assert "generators" in err


def test_editors_get_a_schema_that_all_configs_follow(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = said(capsys, "schema")
    assert status == 0
    follows = jsonschema.Draft202012Validator(json.loads(out))
    follows.check_schema(follows.schema)
    configs = {p.name: p.read_text() for p in (HOME / "conf").glob("*.yaml")}
    sweeps = {n: yaml.safe_load(text) for n, text in configs.items() if "\ndatasets:" in text}
    assert len(sweeps) > 9
    for name, whole in sweeps.items():
        assert not list(follows.iter_errors(whole)), name
    params: dict[str, object]
    for params in ({"size": 0}, {"siez": 64}, {"scoring": "max"}):
        bad = sweep(methods=[{"use": "patchcore", "params": params}])
        assert list(follows.iter_errors(bad)), params
    own = sweep(methods=[{"use": "mine.py:Mine", "params": {"anything": 1}}])
    assert not list(follows.iter_errors(own))


def test_a_report_of_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = said(capsys, "report", tmp_path / "gone")
    assert status == 2
    assert len(err.splitlines()) == 1
    assert "gone" in err


def test_a_sweep_from_a_terminal(tally: Tally, tmp_path: Path, mlflow_uri: str) -> None:
    """In a process of its own: table on stdout, progress on stderr, all files, exit status 0."""
    config = sweep(name="whole", methods=[{"use": f"{FAKES}/toys/methods.py:Near"}], seeds=[0, 1])
    conf = written(tmp_path / "whole.yaml", config)
    storage = tmp_path / "runs"
    words = ("run", conf, "--runner", "serial", "--storage", storage, "--mlflow", mlflow_uri)
    done = command(*words)
    assert done.returncode == 0, done.stderr
    assert "Near" in done.stdout
    assert "±" in done.stdout
    assert "\x1b" not in done.stderr, "control codes where there is no terminal"
    assert len(re.findall(r"^\[\d/4\] Near on Squares/", done.stderr, re.MULTILINE)) == 4
    folder = storage / "whole"
    expected = {"results.csv", "summary.csv", "timings.csv", "support.json", "report.html"}
    expected |= {"environment.json", "sweep.yaml", "predictions"}
    assert expected <= {p.name for p in folder.iterdir()}
    first = rows(folder)[0]
    columns = "method,dataset,category,shots,seed,n_normal,n_anomalous,image_auroc,image_auprc"
    assert set(columns.split(",")) | {"pixel_auroc", "pixel_aupro", "status"} <= set(first)
    predicted = rows(folder / "predictions/Near/Squares/ant", "k2_s0.csv")
    assert len(predicted) == 10
    assert {"query", "label", "score", "part.brightest"} <= set(predicted[0])
    # Another config of that name: refused, and not a byte changes.
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    written(conf, config | {"seeds": [5]})
    refused = command(*words, "--quiet")
    assert refused.returncode == 2
    assert len(refused.stderr.splitlines()) == 1
    assert "seeds lacks 0, 1" in refused.stderr
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before


def test_failed_cells_are_named_and_the_exit_status_is_1(tmp_path: Path, mlflow_uri: str) -> None:
    trouble = {"use": "toys.trouble:Trouble", "params": {"how": "raise"}}
    conf = written(tmp_path / "c.yaml", sweep(methods=[trouble]))
    words = ("--runner", "serial", "--storage", tmp_path / "runs", "--mlflow", mlflow_uri)
    done = command("run", conf, *words, "--quiet")
    assert done.returncode == 1
    assert done.stdout == ""
    assert "1 cell failed" in done.stderr
    assert "Trouble on Squares/bee, 2 shots, seed 0" in done.stderr
    assert "RuntimeError: this is" in done.stderr


def test_from_another_folder_with_the_checkout_on_the_path(tmp_path: Path) -> None:
    done = command("list", "methods", cwd=tmp_path, PYTHONPATH=str(HOME))
    assert done.returncode == 0, done.stderr

"""Finished tasks done again in fresh workers, and what a faulty plug-in touched removed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from harness.__main__ import main
from harness.execution.audit import draw
from harness.reporting import report
from harness.results.folder import purge, repetition
from harness.results.folder.accounting import now
from harness.results.folder.purge import Suspect
from harness.storage.store import Store
from tests.sweeps import NEAR, SQUARES, Runner, Tally, rows, sweep

pytestmark = pytest.mark.timeout(900)

BLEND = "toys.generators:Blend"
COMPARED = "toys.methods:Compared"


def files(storage: Path) -> dict[str, bytes]:
    """Artifacts of a storage: all of them, by their path."""
    below = storage / ".artifacts"
    return {str(p.relative_to(below)): p.read_bytes() for p in below.rglob("*.safetensors")}


def test_an_audit_names_what_did_not_do_the_same_again(
    run_sweep: Runner, tmp_path: Path, tally: Tally, capfd: pytest.CaptureFixture[str]
) -> None:
    methods = [{"use": NEAR}, {"use": "toys.moods:Drifts"}, {"use": "toys.moods:Moody"}]
    config = sweep(methods=methods, datasets=[{"use": SQUARES, "params": {"names": ["ant"]}}])
    config |= {"shard": 4}
    assert run_sweep(config, audit=1.0) == 1
    text = (tmp_path / "runs/toy/audit.json").read_text()
    saw = repetition.read(text)
    assert saw is not None
    tasks = {p.split("/")[0]: 0 for p in files(tmp_path / "runs")}
    assert set(tasks) == {"predict", "evaluate", "statistics"}
    answers = [line for line in tally.lines() if line.startswith("predict Drifts")]
    shards = len(answers) // 2
    assert len(answers) == 2 * shards > 2, "each was done twice"
    assert saw.repeated == saw.finished == 3 * (shards + 1)
    # the first in a process, and no other, is what it is in a fresh one
    assert len(saw.different) == shards - 1
    assert {doubt.task.split(", shard")[0] for doubt in saw.different} == {
        "predict of Drifts, Squares/ant, shots 2, seed 0"
    }
    assert all("scores: " in doubt.what for doubt in saw.different)
    assert {doubt.task.split(",")[0] for doubt in saw.excused} == {"predict of Moody"}
    assert len(saw.excused) == shards
    assert saw.failed == []
    stderr = capfd.readouterr().err
    assert "predict of Drifts, Squares/ant" in stderr
    assert "harness purge" in stderr
    for format in ("text", "markdown", "html", "latex"):
        assert "figures that rest on them are in doubt" in report.render(
            tmp_path / "runs/toy", format
        ), format

    before = files(tmp_path / "runs")
    assert run_sweep(config | {"methods": [*methods, {"use": NEAR, "label": "b"}]}, audit=1e-9) == 0
    again = repetition.read((tmp_path / "runs/toy/audit.json").read_text())
    assert again is not None
    assert again.repeated == 1
    assert files(tmp_path / "runs") == before, "an audit writes no artifacts"

    store, keys = Store(str(tmp_path / "runs")), [doubt.key for doubt in saw.different]
    for written, plan, kept in (
        (text, keys, True),
        (text, keys[1:], False),  # of tasks that the plan has no longer
        ("[", keys, False),
    ):
        store.write_text("toy/audit.json", written)
        repetition.drop_outdated(store, "toy", plan)
        assert store.exists("toy/audit.json") is kept


def test_a_draw_is_a_share_and_the_same_for_one_seed() -> None:
    keys = [f"{i:04x}" for i in range(200)]
    assert len(draw(keys, 0.01, 0)) == 2
    assert len(draw(keys, 0.011, 0)) == 3
    assert draw(keys, 0.1, 0) == draw(keys[::-1], 0.1, 0)
    assert draw(keys, 0.1, 0) != draw(keys, 0.1, 1)
    assert sorted(draw(keys, 1.0, 3)) == keys
    for wrong in ("0%", "101%", "-1", "x"):
        with pytest.raises(SystemExit):
            main(["run", "x.yaml", "--audit", wrong])


def test_a_purge_takes_what_was_touched_and_nothing_else(
    run_sweep: Runner,
    tmp_path: Path,
    mlflow_uri: str,
    tally: Tally,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In one process: what came before the generator's first task is clean, the rest is not."""
    config = sweep(
        name="purged",
        methods=[{"use": NEAR}, {"use": COMPARED, "generator": "g"}],
        generators={"g": {"use": BLEND, "pool": 3}},
        seeds=[0, 1],
    )
    assert run_sweep(config) == 0
    storage, folder = tmp_path / "runs", tmp_path / "runs" / "purged"
    everything = files(storage)
    results = (folder / "results.csv").read_bytes()
    at = {name: (storage / ".artifacts" / name).stat().st_mtime_ns for name in everything}
    first = min(at[name] for name in everything if name.startswith(("prepare", "customize")))
    clean = {name for name in everything if at[name] < first}
    assert 0 < len(clean) < len(everything)
    words = ["purge", "--storage", str(storage), "--generator", BLEND]
    assert main([*words, "--dry-run"]) == 0
    assert files(storage) == everything
    assert main([*words, "--after", "2999-01-01"]) == 0
    assert "nothing was touched" in capsys.readouterr().out
    assert main(words) == 0
    assert set(files(storage)) == clean
    left = rows(folder)
    assert len(left) == len([name for name in clean if name.startswith("evaluate")]) > 0
    assert len(list(folder.glob("predictions/**/*.csv"))) == len(left)
    assert not (folder / "summary.csv").exists()
    shown = report.render(folder, "text")
    assert "Compared" not in shown.replace("Compared+g minus", "")
    tally.new()
    assert run_sweep(config) == 0
    assert (folder / "results.csv").read_bytes() == results
    again = files(storage)
    assert set(again) == set(everything)
    assert {name for name in clean if again[name] != everything[name]} == set()
    store = Store(str(storage))
    for name in everything:  # but for who made them, they are what they were
        kind, _, key = name.removesuffix(".safetensors").split("/")
        (storage / ".artifacts" / name).write_bytes(everything[name])
        before = store.get(kind, key)
        (storage / ".artifacts" / name).write_bytes(again[name])
        after = store.get(kind, key)
        assert not purge_differences(before, after)
    client = MlflowClient(mlflow_uri)
    experiment = client.get_experiment_by_name("few-shot anomaly detection")
    kind = "tags.`harness.kind` = 'cell' and tags.`harness.sweep` = 'purged'"
    runs = client.search_runs([experiment.experiment_id], kind)
    assert len(runs) == 8, "one run for each cell, those of before are gone"
    assert main(words) == 0, "what was made anew was made by it as well"
    assert main(["purge", "--storage", str(storage), "--method", "Nobody"]) == 2
    assert "no method 'Nobody' has run" in capsys.readouterr().err


def purge_differences(before: Any, after: Any) -> list[str]:
    from harness.storage.repeats import differences

    return differences(before[0], after[0]) + [str(before[1])] * (before[1] != after[1])


def test_a_purge_from_a_date_on(run_sweep: Runner, tmp_path: Path) -> None:
    config = sweep(name="dated")
    assert run_sweep(config) == 0
    old = set(files(tmp_path / "runs"))
    between = now()
    assert run_sweep(config | {"seeds": [0, 1]}) == 0
    store = Store(str(tmp_path / "runs"))
    assert len(purge.find(store, [Suspect("method", NEAR)]).rows["dated"]) == 4
    touched = purge.find(store, [Suspect("method", NEAR)], between)
    assert len(touched.rows["dated"]) == 2
    purge.remove(store, touched)
    assert set(files(tmp_path / "runs")) == old


def test_what_is_made_of_what_was_touched_is_touched() -> None:
    def maker(use: str, date: str, *needs: str, **earlier: str) -> dict[str, Any]:
        role, _, name = use.partition(" ")
        facts = {"plugin": {"role": role, "use": name} if use else {}, "date": date}
        return facts | {"needs": needs, "earlier": {f"method {k}": v for k, v in earlier.items()}}

    makers = {
        ("customize", "c"): maker("generator g", "2026-03"),
        ("predict", "clean"): maker("method a", "2026-03"),
        ("predict", "made"): maker("method b", "2026-03"),
        ("predict", "older"): maker("method b", "2026-01"),
        ("predict", "beside"): maker("method a", "2026-03", b="2026-02"),
        ("predict", "early"): maker("method a", "2026-03", b="2026-01"),
        ("evaluate", "of made"): maker("", "2026-03", "clean", "made"),
        ("evaluate", "of clean"): maker("", "2026-03", "clean"),
        ("predict", "deep"): maker("method z", "2026-03", "of made"),
        ("predict", "unknown"): {},
    }
    b = [Suspect("method", "b")]
    assert purge.spread(makers, b, "2026-02") == [
        [("predict", "made"), ("predict", "beside")],
        [("evaluate", "of made")],
        [("predict", "deep")],
    ]
    everything = purge.spread(makers, b, "", unknown=True)
    keys = {key for step in everything for _, key in step}
    assert keys == {"made", "older", "beside", "early", "of made", "deep", "unknown"}
    assert purge.spread(makers, [Suspect("generator", "b")], "") == []


def test_a_purge_that_is_stopped_can_be_done_again(tmp_path: Path) -> None:
    class Stops(Store):
        left = 0

        def delete(self, name: str) -> None:
            if name.startswith(".artifacts"):
                if not self.left:
                    raise KeyboardInterrupt
                self.left -= 1
            super().delete(name)

    store = Stops(str(tmp_path))
    chain = [("customize", "aa", []), ("predict", "bb", ["aa"]), ("evaluate", "cc", ["bb"])]
    for kind, key, needs in chain:
        use = {"role": "generator", "use": "g"} if kind == "customize" else {}
        store.author = lambda use=use, needs=needs: {  # type: ignore[misc]
            "plugin": use, "needs": needs, "date": "2026", "earlier": {},
        }  # fmt: skip
        store.put(kind, key, {}, {})
    for left in (2, 1, 1):
        store.left = left
        touched = purge.find(store, [Suspect("generator", "g")])
        try:
            purge.remove(store, touched)
        except KeyboardInterrupt:
            continue
    assert not list(tmp_path.rglob("*.safetensors"))
    assert json.dumps(store.kinds()) == '["customize", "evaluate", "predict"]'

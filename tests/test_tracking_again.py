"""A sweep that is logged again: on a server that has its run, and on one that does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.reporting.mlflow import tracking
from harness.reporting.mlflow.lineage import Lineage
from harness.reporting.mlflow.mlflow_runs import _artifacts
from harness.reporting.mlflow.tracking import Tracker
from harness.storage.store import Store
from tests.sweeps import waited
from tests.test_tracking import COSTS, SUMMARY, log, logged


def test_a_server_that_does_not_answer_at_once_has_the_run_still(
    tmp_path: Path, mlflow_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    log(Store(str(tmp_path)), "asked twice", mlflow_uri, 1)
    whole, calls = MlflowClient.get_run, []

    def flaky(self: Any, *arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            raise ConnectionError("not yet")
        return whole(self, *arguments)

    monkeypatch.setattr(MlflowClient, "get_run", flaky)
    assert log(Store(str(tmp_path)), "asked twice", mlflow_uri, 2).problem == ""
    assert [len(runs) for runs in logged(mlflow_uri, "asked twice")] == [1, 2]


def test_the_end_asks_a_server_that_was_away_once_more_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def nobody(runs: tracking.SweepRuns) -> None:
        asked.append(1)
        raise ConnectionError("nobody is there")

    monkeypatch.setattr(tracking.SweepRuns, "connect", nobody)
    monkeypatch.setattr(tracking, "PATIENCE", 0.1)
    monkeypatch.setattr(tracking, "SILENCE", 0.0)
    tracker = Tracker(Store(str(tmp_path)), "away", Lineage(), "http://bob:hidden@nobody/")
    waited(lambda: tracker.problem, "it was tried in vain")
    before, lines = len(asked), []
    tracker.close(SUMMARY, COSTS, True, {}, lines.append)
    assert len(asked) == before + 1
    (line,) = lines
    assert line.startswith("waiting for MLflow at http://***@nobody/: it does not answer; results")


def test_a_database_that_was_removed_is_begun_anew(tmp_path: Path) -> None:
    for name in ("one", "other"):
        uri = f"sqlite:///{tmp_path}/{name}.db"
        store = Store(str(tmp_path))
        if name == "other":
            note = store.path("moved/mlflow.json")
            Path(note).write_text(Path(note).read_text().replace("one.db", "other.db"))
        assert log(store, "moved", uri, 1).problem == ""
        assert len(logged(uri, "moved")[0]) == 1


@pytest.mark.parametrize("storage", ["folder", "memory://bucket/runs"])
def test_files_lie_beside_the_database_wherever_the_results_are(
    storage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not in the working folder, where MLflow has those of a database unless it is asked."""
    # a name of its own: MLflow keeps what it opened by its URI
    work, database = tmp_path / "work", tmp_path / "base" / f"{tmp_path.name}.db"
    work.mkdir()
    database.parent.mkdir()
    monkeypatch.chdir(work)
    store = Store(storage if "://" in storage else str(tmp_path / storage))
    assert log(store, "filed", f"sqlite:///../base/{database.name}", 1).problem == ""
    assert list(work.iterdir()) == []
    (table,) = database.parent.rglob("results.csv")
    assert table.relative_to(database.parent).parts[0] == "mlartifacts"
    assert not list(tmp_path.glob("folder/mlartifacts"))


@pytest.mark.parametrize(
    ("uri", "storage", "expected"),
    [
        ("sqlite:////data/m.db", "memory://b/runs", "/data/mlartifacts"),
        ("sqlite://", "/data/runs", "/data/runs/mlartifacts"),
        ("postgresql://me:secret@host/m", "/data/runs", "/data/runs/mlartifacts"),
        ("mysql+pymysql://me@host/m", "memory://b/runs", "memory://b/runs/mlartifacts"),
        ("http://server:5000", "/data/runs", None),
        ("databricks", "/data/runs", None),
        ("databricks://profile", "/data/runs", None),
        ("file:///data/mlruns", "/data/runs", None),
        ("mlruns", "memory://b/runs", None),
    ],
)
def test_where_the_files_of_a_tracking_store_lie(
    uri: str, storage: str, expected: str | None
) -> None:
    assert _artifacts(uri, Store(storage)) == expected

"""A sweep that is logged again: on a server that has its run, and on one that does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.storage.store import Store
from tests.test_tracking import log, logged


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


def test_a_database_that_was_removed_is_begun_anew(tmp_path: Path) -> None:
    for name in ("one", "other"):
        uri = f"sqlite:///{tmp_path}/{name}.db"
        store = Store(str(tmp_path))
        if name == "other":
            note = store.path("moved/mlflow.json")
            Path(note).write_text(Path(note).read_text().replace("one.db", "other.db"))
        assert log(store, "moved", uri, 1).problem == ""
        assert len(logged(uri, "moved")[0]) == 1

"""Fixtures that tests share, most of them the engine's."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from tests.sweeps import FAKES, HOME, Runner, Tally, written

# One thread each, here too: sums in several come out in any order. Before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# On a busy machine drawing examples takes long, which says nothing of what is tested.
hypothesis.settings.register_profile(
    "suite", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("suite")

#: Files whose tests start a cluster, a server or a browser, kill processes, or train: one after
#: another, after all others. ``make quick`` leaves them out.
SLOW = {
    "accounting", "adp", "adp_micro", "audit_run", "chaos", "clip_micro", "cluster", "contract",
    "dreambooth",
    "dreambooth_customize", "executors", "faults", "faults_address", "faults_host", "hostile",
    "inctrl", "interrupts", "kills", "latex", "leaderboard", "lock", "micro", "micro_refine",
    "mlflow_docs", "node_cache", "notebook", "o2n_micro", "page", "regad", "regad_public", "resume",
    "s3", "seals", "textual_inversion", "tracking", "traps", "tutorial", "workbench",
}  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is slow by its file."""
    for item in items:
        if item.path.stem.removeprefix("test_") in SLOW:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session", autouse=True)
def _quiet_processes() -> None:
    """No look for another MLflow server, only while testing."""
    os.environ.pop("MLFLOW_TRACKING_URI", None)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is remembered of files stays apart from the user's, also in processes started here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HARNESS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def toys() -> Iterator[None]:
    """The package of fakes importable, here and in the processes started from here."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(FAKES), str(HOME), *filter(None, [before])])
    sys.path.append(str(FAKES))
    yield
    sys.path.remove(str(FAKES))
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before


@pytest.fixture(scope="session")
def mlflow_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One database for all sweeps: to make one takes seconds."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


@pytest.fixture
def every_warning() -> Iterator[None]:
    """Torch's warnings each time: what it says once a process, an earlier test may have heard."""
    import torch

    before = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    yield
    torch.set_warn_always(before)


@pytest.fixture
def tally(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tally:
    monkeypatch.setenv("TOYS_LOG", str(tmp_path / "tally.txt"))
    return Tally(tmp_path / "tally.txt")


@pytest.fixture
def run_sweep(tmp_path: Path, toys: None, mlflow_uri: str) -> Iterator[Runner]:
    """Run a config in this process, on the serial runner unless told otherwise."""
    from harness.run import Options, run

    before = signal.getsignal(signal.SIGTERM)

    def go(config: dict[str, Any], storage: str = "runs", **options: Any) -> int:
        conf = written(tmp_path / "conf" / f"{config['name']}.yaml", config)
        chosen = {"runner": "serial", "quiet": True, "mlflow": mlflow_uri, **options}
        return run(Options(conf, storage=str(tmp_path / storage), **chosen))

    yield go
    signal.signal(signal.SIGTERM, before)

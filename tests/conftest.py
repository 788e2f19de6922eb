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

#: Files whose tests take nodes, processes, memory, disks and servers away while sweeps run, the
#: longest first.
STORMS = ("faults_host", "cluster", "faults", "chaos", "hostile", "interrupts")
#: Files whose tests start a cluster, a server or a browser, or kill processes, the longest first:
#: they wait most of their time, so that other files are tested beside them. Each has ports, folders
#: and servers of its own, as those above have.
SLOW = (
    "tutorial", "s3", "resume", "executors", "reuse", "tracking", "tracking_again", "micro",
    "seals", "traps", "page", "leaderboard", "updated", "faults_address", "lock", "audit_run",
    "notebook", "accounting", "workbench", "latex", "node_cache",
)  # fmt: skip
#: Files whose tests run sweeps in this process, train, load torch, or try hundreds of cases: a
#: second and more for a test. ``make quick`` leaves out all of these.
HEAVY = {
    "adp", "adp_micro", "augment", "bench_record", "caveats", "cli", "clip", "clip_micro",
    "cnn", "config_fuzz", "conformance", "confs", "continuation", "contract", "coop", "copies",
    "damaged_copies", "datasets_docs", "demo",
    "diffusion", "draws", "dreambooth", "dreambooth_customize", "environment", "failures",
    "groups", "inctrl",
    "isolation", "keeping", "leaks", "maps", "memory", "metric_records", "micro_refine", "o2n",
    "o2n_ablation", "o2n_full_size",
    "o2n_promises", "o2n_switches", "o2n_text", "offload",
    "origins", "padim", "patchcore", "pretended_gpu", "process_state", "prompts", "readme",
    "readme_commands",
    "regad", "regad_public", "report", "run", "scaffold", "secrets", "setup", "shading",
    "ssim", "stale", "surfaces", "textual_inversion", "trivial", "weights", "winclip",
}  # fmt: skip


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Do not even import files none of which the marks that are asked for leave: torch, Ray."""
    if collection_path.suffix != ".py":
        return None
    mark = _mark(collection_path)
    kept = {
        "storm": mark == "storm",
        "slow": mark == "slow",
        "not slow and not storm": mark in ("heavy", ""),
        "not slow and not storm and not heavy": mark == "",
    }
    return None if kept.get(config.option.markexpr, True) else True


def _mark(path: Path) -> str:
    name = path.stem.removeprefix("test_")
    marks = {"storm": STORMS, "slow": SLOW, "heavy": HEAVY}
    return next((mark for mark, names in marks.items() if name in names), "")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is slow or heavy by its file; the slowest files first, so that none is left over
    when all others are done.
    """
    ranks = {name: rank for rank, name in enumerate([*STORMS, *SLOW, *sorted(HEAVY)])}
    items.sort(key=lambda item: ranks.get(item.path.stem.removeprefix("test_"), len(ranks)))
    for item in items:
        if mark := _mark(item.path):
            item.add_marker(getattr(pytest.mark, mark))


@pytest.fixture(scope="session", autouse=True)
def _quiet_processes() -> None:
    """No look for another MLflow server; and no terminal, whose width xdist hands its workers."""
    for name in ("MLFLOW_TRACKING_URI", "COLUMNS"):
        os.environ.pop(name, None)


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

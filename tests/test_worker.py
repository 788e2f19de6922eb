"""A worker: how it opens data and checks what plug-ins return; a process that holds one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.data.opening import open_dataset
from harness.execution.executors.forkserver import ForkServer, WorkerProcess
from harness.execution.process import seeding
from harness.execution.process.promises import checked
from harness.execution.process.worker import Worker
from harness.execution.process.workshop import Workshop
from harness.interface import Prediction
from harness.tasks.kinds import Prepare, PreparePayload
from harness.tasks.references import DatasetUse, PluginUse, SupportUse
from tests.sweeps import started

F = np.float32


@pytest.mark.parametrize(
    ("prediction", "words"),
    [
        (Prediction(np.zeros(2, F)), "scores of shape (2,), expected (3,)"),
        (Prediction(np.zeros((3, 1), F)), "scores of shape (3, 1)"),
        (Prediction(np.zeros(3, F), np.zeros((3, 4), F)), "maps of shape (3, 4)"),
        (Prediction(np.zeros(3, F), np.zeros((2, 4, 4), F)), "maps of shape (2, 4, 4)"),
        (Prediction(np.zeros(3, F), parts={"p": np.zeros(2, F)}), "part 'p' of shape (2,)"),
        (
            Prediction(np.zeros(3, F), part_maps={"p": np.zeros((1, 2, 2), F)}),
            "p of shape (1, 2, 2)",
        ),
    ],
)
def test_shapes_that_were_not_promised(prediction: Prediction, words: str) -> None:
    with pytest.raises(ValueError, match="predict returned") as caught:
        checked(prediction, 3)
    assert words in str(caught.value)


def test_other_types_of_numbers_become_float32() -> None:
    prediction = checked(Prediction([1, 2], parts={"p": np.arange(2)}), 2)  # type: ignore[arg-type]
    assert prediction.scores.dtype == prediction.parts["p"].dtype == np.float32


def test_the_root_of_a_dataset(tmp_path: Path) -> None:
    for name in ("cup/train/good", "cup/test/good", "cup/test/hole"):
        (tmp_path / "mine" / name).mkdir(parents=True)
    assert open_dataset("folder", {"root": "mine"}, str(tmp_path)).categories() == ["cup"]
    absolute = {"root": str(tmp_path / "mine")}
    assert open_dataset("folder", absolute, None).categories() == ["cup"]
    assert open_dataset("folder", {}, str(tmp_path / "mine")).categories() == ["cup"]
    for params, root, words in (
        ({}, None, "needs --data-root"),
        ({}, str(tmp_path / "gone"), "no such folder"),
        ({"root": "gone"}, str(tmp_path), "no such folder"),
    ):
        with pytest.raises(FileNotFoundError, match=words):
            open_dataset("folder", params, root)


@pytest.mark.parametrize("upright", [True, False])
def test_what_a_dataset_says_of_orientation_reaches_the_support(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, upright: bool
) -> None:
    workshop = Workshop(str(tmp_path))
    dataset = type("Upright", (), {"orientation": upright})()
    monkeypatch.setattr(workshop, "dataset", lambda use: dataset)
    use = DatasetUse("toy", {})
    assert workshop.support(SupportUse(use, (), "head", 0)).orientation is upright


def test_seeds_reach_every_source_of_chance() -> None:
    import random

    def draw(key: str) -> tuple[float, float]:
        seeding.seed(key)
        return random.random(), float(np.random.random())  # noqa: NPY002 - what is seeded

    a, b = "0f" * 16, "1f" * 16
    assert draw(a) == draw(a)
    assert draw(a) != draw(b)


def test_torch_is_seeded_where_a_plugin_imports_it() -> None:
    torch = pytest.importorskip("torch")
    seeding.seed("0f" * 16, ["torch"])
    first = torch.rand(3)
    seeding.seed("0f" * 16, ["torch"])
    assert torch.equal(first, torch.rand(3))


def payload() -> PreparePayload:
    """A task that fails, as there is no such generator."""
    task = Prepare(key="ab" * 16, affinity="prior/x", generator="g", object_name="x")
    generator = PluginUse("generator", "no_such", {}, "cd" * 16)
    return PreparePayload(task=task, threads=1, generator=generator)


def test_a_worker_never_raises(tmp_path: Path) -> None:
    outcome = Worker(str(tmp_path)).run(payload())
    assert outcome.error.startswith("InputError: unknown generator 'no_such'")
    assert "Traceback" in outcome.traceback


@pytest.fixture
def fork_server(tmp_path: Path) -> Any:
    server = ForkServer({}, ("no_such_library",), {"storage": str(tmp_path)})
    yield server
    server.close()


def forked(fork_server: ForkServer) -> WorkerProcess:
    child = fork_server.fork()
    while not child.ready(1):
        pass
    return child


def answer(child: WorkerProcess) -> str:
    child.start(payload())
    while (outcome := child.wait(1)) is None:
        pass
    return outcome.error


def test_a_process_answers_and_ends(fork_server: ForkServer) -> None:
    child = forked(fork_server)
    for _ in range(2):
        assert answer(child).startswith("InputError")
    assert child.end(patience=60.0) == "exited with status 0"  # its pipe was closed


def test_a_busy_process_is_ended(fork_server: ForkServer) -> None:
    child = forked(fork_server)
    os.kill(child._pid, signal.SIGSTOP)
    assert child.end() == "was ended"


def test_a_process_that_was_killed_is_noticed_and_another_forked(fork_server: ForkServer) -> None:
    child, other = forked(fork_server), forked(fork_server)
    os.kill(child._pid, signal.SIGKILL)
    with pytest.raises((EOFError, ConnectionError)):
        child.wait(600)
    assert "SIGKILL" in child.end(patience=2.0)
    for alive in (other, forked(fork_server)):
        assert answer(alive).startswith("InputError")


def test_a_template_that_was_killed_is_started_again(fork_server: ForkServer) -> None:
    child = forked(fork_server)
    fork_server._process.kill()
    fork_server._process.wait()
    with pytest.raises((EOFError, ConnectionError)):  # its workers go with it
        child.wait(600)
    assert "SIGKILL" in child.end()
    assert answer(forked(fork_server)).startswith("InputError")


def test_a_worker_dies_with_its_driver(tmp_path: Path) -> None:
    code = (
        "import sys, time; from harness.execution.executors.forkserver import ForkServer\n"
        "child = ForkServer({}, (), {'storage': sys.argv[1]}).fork()\n"
        "while not child.ready(1): pass\n"
        "print(child._pid, flush=True); time.sleep(900)"
    )
    with started([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE) as driver:
        assert driver.stdout is not None
        pid = int(driver.stdout.readline())
        driver.kill()
    end = time.monotonic() + 120
    while Path(f"/proc/{pid}/stat").exists():
        if Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z":
            break
        assert time.monotonic() < end, "the worker outlives its driver"
        time.sleep(0.05)

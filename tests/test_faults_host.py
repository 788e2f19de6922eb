"""What a machine does to a sweep on Ray: memory and disk run out, MLflow's server goes away."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.clusters import cluster, published
from tests.sweeps import HOME, NEAR, SQUARES, Runner, rows, started, sweep, waited, written

pytestmark = [pytest.mark.timeout(900), pytest.mark.usefixtures("toys")]


def test_a_task_that_eats_memory_is_ended_before_the_machine_is(
    run_sweep: Runner, tmp_path: Path, mlflow_uri: str
) -> None:
    """Ray's own monitor ends it; its limit is set above what is taken now, with room for what other
    processes take meanwhile, and for more of the task's own, so that it is the one to blame.
    """
    memory = psutil.virtual_memory()
    taken = memory.total - memory.available
    room = taken + (6 << 30)  # Ray and the tests beside this one may take three meanwhile
    if memory.available < room + (4 << 30):
        pytest.skip("needs more free memory than is taken, and 10 GB")
    once = {"megabytes": (room >> 20) + 2000, "once": str(tmp_path / "once")}
    glutton = {"use": "toys.mortal:Glutton", "params": once}
    config = sweep(methods=[{"use": NEAR}, glutton], attempts=1)
    conf = written(tmp_path / "toy.yaml", config)
    words = ["run", conf, "--storage", tmp_path / "runs", "--mlflow", mlflow_uri, "--workers", "1"]
    variables = {
        "RAY_memory_usage_threshold": f"{(taken + room) / memory.total:.3f}",
        "RAY_memory_monitor_refresh_ms": "100",
    }
    ended = subprocess.run(
        [sys.executable, "-m", "harness", *map(str, words)],
        cwd=HOME,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert ended.returncode == 1, ended.stderr
    folder = tmp_path / "runs" / "toy"
    (failed,) = rows(folder, "failures.csv")
    assert (failed["method"], failed["category"]) == ("Glutton", "bee")
    assert "nobody minded" not in failed["error"]
    assert "memory" in failed["error"].lower()
    assert "Glutton on Squares/bee, 2 shots, seed 0" in ended.stderr
    assert run_sweep(config, retry_failed=True) == 0, "it takes no memory a second time"
    assert run_sweep(config, "calm") == 0
    assert rows(folder) == rows(tmp_path / "calm" / "toy")


def test_a_node_that_others_fill_is_waited_for(
    run_sweep: Runner, tmp_path: Path, mlflow_uri: str
) -> None:
    """Somebody else's memory is no fault of a task's, though it has one attempt only."""
    memory = psutil.virtual_memory()
    if memory.available < 12 << 30:
        pytest.skip("needs 12 GB of free memory")
    room = 4 << 30  # for Ray and what other processes take meanwhile
    limit = memory.total - memory.available + room
    conf = written(tmp_path / "toy.yaml", sweep(attempts=1))
    words = ["run", conf, "--storage", tmp_path / "runs", "--mlflow", mlflow_uri, "--workers", "1"]
    variables = {
        "RAY_memory_usage_threshold": f"{limit / memory.total:.3f}",
        "RAY_memory_monitor_refresh_ms": "100",
    }
    log = tmp_path / "log.txt"
    ballast = (
        "import sys, time; kept = b'1' * int(sys.argv[1]); print(1, flush=True); time.sleep(3000)"
    )
    with (
        started([sys.executable, "-c", ballast, str(room)], stdout=subprocess.PIPE) as other,
        log.open("w") as file,
    ):
        assert other.stdout is not None
        other.stdout.readline()
        harness = [sys.executable, "-m", "harness", *map(str, words)]
        with started(
            harness, cwd=HOME, env=os.environ | variables, stdout=file, stderr=file
        ) as driver:
            waited(lambda: "ran short of memory" in log.read_text(), "want of memory", driver)
            other.kill()
            status = driver.wait(600)
    assert status == 0, log.read_text()
    assert "waits 5 s; trying again" in log.read_text() or "starts in 5 s" in log.read_text()
    assert run_sweep(sweep(attempts=1), "calm") == 0
    assert rows(tmp_path / "runs" / "toy") == rows(tmp_path / "calm" / "toy")


#: In a mount namespace of its own: a small disk, a cluster, and the same sweep as room is made.
FULL = """
import subprocess, sys
from pathlib import Path

conf, disk, uri, out = sys.argv[1:]
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], check=True)

import ray
from harness.__main__ import main

def fill(leave):
    ballast = Path(disk) / "ballast"
    ballast.unlink(missing_ok=True)
    with ballast.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            pass
        file.truncate(max(0, file.tell() - leave))

def run(name, *more):
    words = ["run", conf, "--storage", f"{disk}/runs", "--mlflow", uri, "--workers", "2", *more]
    print(name, main([*words, "--quiet"]), flush=True)
    subprocess.run(["cp", "-r", f"{disk}/runs/toy", f"{out}/{name}"], stderr=subprocess.DEVNULL)

ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
for name, leave in (("full", 0), ("little", 150_000)):
    fill(leave)
    print(name, file=sys.stderr, flush=True)
    run(name)
Path(disk, "ballast").unlink()
run("enough")
ray.shutdown()
"""


def test_a_full_disk_ends_a_sweep_at_once_and_with_room_it_goes_on(
    run_sweep: Runner, tmp_path: Path, mlflow_uri: str
) -> None:
    alone = ["unshare", "--map-root-user", "--mount"]
    tried = [*alone, "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    if subprocess.run(tried, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a small disk")
    config = sweep(
        datasets=[{"use": SQUARES, "params": {"masks": True}}],
        methods=[{"use": "toys.mortal:Bulky", "params": {"side": 40}}],
        seeds=[0, 1, 2],
    )
    assert run_sweep(config, "calm") == 0
    conf = written(tmp_path / "toy.yaml", config)
    disk, out = tmp_path / "disk", tmp_path / "out"
    disk.mkdir()
    out.mkdir()
    words = [str(conf), str(disk), mlflow_uri, str(out)]
    ended = subprocess.run(
        [*alone, sys.executable, "-c", FULL, *words],
        cwd=HOME,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines() == ["full 1", "little 1", "enough 0"], ended.stderr
    # One line each: what, where, how much there is and how much is needed, what to do.
    full, little = ended.stderr.partition("full\n")[2].split("little\n")
    for (line,) in (full.splitlines(), little.splitlines()):
        assert line.startswith(f"{disk}/runs: No space left on device: "), line
        assert re.search(r": \S+ takes [\d.]+ MB, 0\.\d MB are free; ", line), line
        assert line.endswith("; make room and run the same command again: what is finished is kept")
    assert re.search(r"; the rest of the sweep takes about \d+ MB; ", little), little
    assert not (out / "little" / "failures.csv").exists(), "a full disk is no fault of a cell's"
    done = rows(out / "little") if (out / "little" / "results.csv").exists() else []
    assert len(done) < 6, "the disk was not full"
    calm = published(tmp_path / "calm" / "toy")
    assert published(out / "enough") == calm


def healthy(port: int) -> bool:
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
    except OSError:
        return False
    return True


@contextmanager
def server(uri: str, port: int, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A real MLflow server on a database; what it is sent it keeps in a folder."""
    words = ["-m", "mlflow", "server", "--backend-store-uri", uri, "--port", port, "--workers", "1"]
    words += ["--artifacts-destination", folder]
    process = subprocess.Popen(
        [sys.executable, *map(str, words)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        waited(lambda: healthy(port), "answer of the server", process)
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def logged(uri: str, name: str) -> tuple[list[Any], list[Any]]:
    """Parent and child runs of a sweep, read from the database."""
    from mlflow import MlflowClient

    from harness.reporting.mlflow.mlflow_runs import EXPERIMENT

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        return [], []
    runs = client.search_runs([experiment.experiment_id], f"tags.`harness.sweep` = '{name}'")
    parents = [r for r in runs if r.data.tags["harness.kind"] == "sweep"]
    return parents, [r for r in runs if r.data.tags["harness.kind"] == "cell"]


class Weather(threading.Thread):
    """Lets a server go in the middle of a sweep, and come back when its results are there."""

    def __init__(self, uri: str, port: int, folder: Path, go: Path) -> None:
        super().__init__()
        self.uri, self.port, self.folder, self.go = uri, port, folder, go
        self.kept = go.with_name("kept")
        self.over = threading.Event()
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            with server(self.uri, self.port, self.kept) as process:
                self.over.set()
                waited(lambda: len(logged(self.uri, "weather")[1]) >= 2, "logging")
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            self.go.touch()
            table = self.folder / "results.csv"
            waited(lambda: table.exists() and len(rows(self.folder)) == 12, "all results")
            self.over.clear()
            with server(self.uri, self.port, self.kept):
                self.over.wait(600)
        except BaseException as error:  # for the test to raise
            self.error = error
        finally:
            self.over.set()


def test_mlflow_goes_away_for_a_while(
    run_sweep: Runner, tmp_path: Path, mlflow_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its server is killed in the middle of a sweep on Ray, and comes back before the end."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    go, folder = tmp_path / "go", tmp_path / "runs" / "weather"
    waits = {"use": "toys.waits:Waits", "label": "waits", "params": {"word": str(go)}}
    config = sweep(name="weather", methods=[{"use": NEAR}, waits], seeds=[0, 1, 2])
    options = {"runner": "ray", "workers": 2, "mlflow": f"http://127.0.0.1:{port}"}
    weather = Weather(mlflow_uri, port, folder, go)
    weather.start()
    try:
        with cluster(tmp_path, 2):
            assert weather.over.wait(600)
            assert run_sweep(config, **options) == 0
            assert not weather.over.is_set(), weather.error
            assert run_sweep(config, **options) == 0  # nothing to do but to log what lacks
    finally:
        go.touch()
        weather.over.set()
        weather.join(120)
    if weather.error is not None:
        raise weather.error
    parents, children = logged(mlflow_uri, "weather")
    assert len(parents) == 1
    cells = [tuple(r.data.params[n] for n in ("method", "category", "seed")) for r in children]
    assert len(cells) == len(set(cells)) == 12, "logged twice, or not at all"
    assert all(r.info.status == "FINISHED" for r in children)
    assert run_sweep(config, "calm") == 0
    assert published(folder) == published(tmp_path / "calm" / "weather")

"""On a real Ray cluster of several nodes with logical GPUs, token authentication switched on."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from harness.execution.executors.ray_executor import CPU_WORKERS, layout
from tests.sweeps import HOME, Tally, rows, sweep, waited, written

pytestmark = pytest.mark.timeout(900)

COMPARED = "toys.methods:Compared"
NODE = {"CPU": 8.0, "GPU": 2.0}


def test_workers_without_gpus_fill_the_cores() -> None:
    assert layout([{"CPU": 8.0}, {"CPU": 3.0}], None, 2, 0.0) == (False, [0.0] * 5)
    assert layout([{"CPU": 8.0}], 3, 1, 0.0) == (False, [0.0] * 3)
    assert layout([{}], None, 4, 0.0) == (False, [0.0])
    # a plan that asks for GPUs on a cluster without: all workers do everything
    assert layout([{"CPU": 2.0}], None, 1, 1.0) == (False, [0.0] * 2)
    # and the other way round
    assert layout([NODE], None, 1, 0.0) == (False, [0.0] * 8)


@pytest.mark.parametrize(
    ("share", "each"), [(1.0, 1), (0.5, 2), (0.25, 4), (0.3, 3), (1 / 3, 3), (2.0, 1)]
)
def test_shares_of_gpus_never_straddle_two(share: float, each: int) -> None:
    mixed, shares = layout([NODE, NODE], None, 1, share)
    held = [s for s in shares if s]
    assert mixed
    assert len(held) == 4 * each
    assert set(held) == {min(share, 1.0)}
    assert 1 <= shares.count(0.0) <= CPU_WORKERS * len(held)


def test_the_number_of_workers_is_of_those_with_a_gpu() -> None:
    assert layout([NODE], 1, 1, 1.0) == (True, [1.0] + [0.0] * 4)
    assert layout([{"CPU": 1.0, "GPU": 1.0}], None, 1, 1.0) == (True, [1.0, 0.0])


TOKEN = "0123456789abcdef" * 4

#: A process of its own holds the cluster: Ray reads whether to ask for tokens when it is imported.
HOST = """
import sys
from ray.cluster_utils import Cluster

cluster, nodes = Cluster(), {}
try:
    port = int(sys.argv[1])
    free = {"dashboard_agent_listen_port": 0}  # by default one port, and one cluster a machine
    cluster.add_node(num_cpus=1, num_gpus=2, include_dashboard=True, dashboard_port=port, **free)
    print(cluster.address, flush=True)
    for line in sys.stdin:
        if line == "add\\n":
            node = cluster.add_node(num_cpus=1, num_gpus=1, **free)
            nodes[node.node_id] = node
            print(node.node_id, flush=True)
        else:
            cluster.remove_node(nodes.pop(line.strip()), allow_graceful=False)
            print("gone", flush=True)
finally:
    cluster.shutdown()
"""


@dataclass
class Head:
    """A cluster that is asked through pipes; its processes are those that ``ray start`` starts."""

    process: subprocess.Popen[str]
    address: str
    dashboard: str
    environment: dict[str, str]

    def ask(self, what: str) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{what}\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def job(self, name: str, method: str = "GET", what: str = "") -> Any:
        """What the dashboard says of a job."""
        url = f"{self.dashboard}/api/jobs/{name}{what}"
        headers = {"Authorization": f"Bearer {TOKEN}"}
        with urllib.request.urlopen(urllib.request.Request(url, None, headers, method=method)) as f:
            return json.load(f)


@pytest.fixture(scope="module")
def head(toys: None, mlflow_uri: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    folder = tmp_path_factory.mktemp("cluster")
    environment = os.environ | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": TOKEN,
        "RAY_USAGE_STATS_ENABLED": "0",
        "TOYS_LOG": str(folder / "tally.txt"),
        "MLFLOW_TRACKING_URI": mlflow_uri,
    }
    with (folder / "host.txt").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", HOST, str(port)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        address = ""
        while not re.fullmatch(r"[\d.]+:\d+", address):
            line = process.stdout.readline()
            assert line, f"no cluster: {(folder / 'host.txt').read_text()[-3000:]}"
            address = line.strip()
        yield Head(process, address, f"http://127.0.0.1:{port}", environment)
    finally:
        process.stdin.close()
        process.wait(300)
        process.stdout.close()


def harness(*words: object) -> list[str]:
    return [sys.executable, "-m", "harness", *map(str, words)]


PLUGIN = '''
import os, sys, time
from toys._tally import tally
from toys.generators import Blend
from toys.methods import Compared, Near


class Half(Blend):
    """Takes half a GPU, and its time."""

    gpus = 0.5

    def customize(self, support, prior):
        self.where("customize")
        return super().customize(support, prior)

    def personalize(self, images, seed):
        self.where("personalize")
        return super().personalize(images, seed)

    def where(self, what):
        card = os.environ.get("CUDA_VISIBLE_DEVICES", "none")
        tally("gpu", what, os.getpid(), card, ray_node())
        time.sleep(0.3)


class Slow(Near):
    """Needs no GPU."""

    def predict(self, queries):
        tally("cpu", "predict", os.getpid())
        return super().predict(queries)


def ray_node():
    ray = sys.modules.get("ray")
    joined = ray is not None and ray.is_initialized()
    return ray.get_runtime_context().get_node_id() if joined else "none"
'''


def plugged(folder: Path, **changes: Any) -> dict[str, Any]:
    file = folder / "halves.py"
    file.write_text(PLUGIN)
    methods = [{"use": f"{file}:Slow", "label": "slow"}]
    methods.append({"use": COMPARED, "generator": "half"})
    generators = {"half": {"use": f"{file}:Half", "pool": 3}}
    defaults = {"methods": methods, "generators": generators, "seeds": [0, 1, 2, 3], "shard": 3}
    return sweep(**defaults | changes)


def test_a_node_goes_and_results_are_the_same(
    head: Head, tally: Tally, run_sweep: Any, tmp_path: Path
) -> None:
    config = plugged(tmp_path)
    assert run_sweep(config, "calm") == 0
    conf = written(tmp_path / "toy.yaml", config)
    shared = Tally(Path(head.environment["TOYS_LOG"]))
    shared.new()
    node = head.ask("add")
    words = ("run", conf, "--address", head.address, "--storage", tmp_path / "runs")
    run = subprocess.Popen(
        harness(*words),
        cwd=HOME,
        env=head.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    lines: list[str] = []

    def there() -> bool:
        lines.extend(shared.new())
        return any(node in line for line in lines)

    waited(there, "work on the node that will go", run)
    assert head.ask(node) == "gone"
    stderr, _ = run.communicate(timeout=600)
    lines += shared.new()
    assert run.returncode == 0, stderr
    for name in ("results.csv", "summary.csv"):
        calm, stormy = (tmp_path / f / "toy" / name for f in ("calm", "runs"))
        assert calm.read_bytes() == stormy.read_bytes(), name
    # What asks for a GPU got one, by halves, and nothing else sat there.
    gpu = [line.split() for line in lines if line.startswith("gpu ")]
    cpu = {line.split()[2] for line in lines if line.startswith("cpu ")}
    assert {words[3] for words in gpu} <= {"0", "1", "2"}
    assert not cpu & {words[2] for words in gpu}
    held: dict[tuple[str, str], set[str]] = {}
    for _, _, pid, card, where in gpu:
        held.setdefault((where, card), set()).add(pid)
    assert len(held) >= 2, "one GPU did everything"
    assert all(len(pids) <= 2 for pids in held.values()), held


def ray(head: Head, *words: object, **changes: str) -> subprocess.CompletedProcess[str]:
    """The ``ray`` command beside this Python."""
    return subprocess.run(
        [str(Path(sys.executable).parent / "ray"), *map(str, words)],
        cwd=HOME,
        env=head.environment | changes,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )


def submitted(head: Head, name: str, *words: object, wait: bool) -> tuple[int, str]:
    """Submit as the README says; status of the command and what it printed."""
    options = ["--address", head.dashboard, "--submission-id", name, "--working-dir", "."]
    end = time.monotonic() + 200
    while True:
        ended = ray(head, "job", "submit", *options, *([] if wait else ["--no-wait"]), "--", *words)
        output = ended.stdout + ended.stderr
        if "No available agent" not in output or time.monotonic() > end:  # the head has just begun
            return ended.returncode, output


def test_a_submitted_job_is_stopped_and_gone_on_with(
    head: Head, run_sweep: Any, tmp_path: Path
) -> None:
    hangs = {"use": "toys.trouble:Trouble", "label": "hangs"}
    hangs["params"] = {"how": "hang", "once": str(tmp_path / "hung")}  # type: ignore[assignment]
    config = sweep(methods=[{"use": "toys.methods:Near"}, hangs])
    conf, storage = written(tmp_path / "toy.yaml", config), tmp_path / "runs"
    words = harness("run", conf, "--storage", storage, "--runner", "ray")
    shared = Tally(Path(head.environment["TOYS_LOG"]))

    status, output = submitted(head, "first", *words, wait=False)
    assert status == 0, output
    table = storage / "toy" / "results.csv"
    waited(
        lambda: table.exists() and len(rows(table.parent)) == 3 and (tmp_path / "hung").exists(),
        "results beside the task that hangs",
    )
    assert head.job("first", "POST", "/stop") == {"stopped": True}
    waited(lambda: head.job("first")["status"] == "STOPPED", "end of the job")
    shared.new()
    status, output = submitted(head, "second", *words, wait=True)
    assert status == 0, output
    assert head.job("second")["status"] == "SUCCEEDED"
    predicted = [line for line in shared.new() if line.startswith("predict ")]
    assert len(predicted) == 1, "more was computed than what hung"
    shutil.rmtree(tmp_path / "hung", ignore_errors=True)
    assert run_sweep(config, "calm") == 0
    assert table.read_bytes() == (tmp_path / "calm" / "toy" / "results.csv").read_bytes()
    logs = head.job("first", what="/logs")["logs"]
    assert re.search(r"^\[\d/4\] .*image AUROC", logs, re.M), logs
    assert "\x1b" not in logs + head.job("second", what="/logs")["logs"]

    # A mistake is the job's status too.
    conf = written(tmp_path / "wrong.yaml", sweep(methods=[{"use": "patchcor"}]))
    status, output = submitted(head, "wrong", *harness("run", conf), wait=True)
    assert status == 1
    assert "patchcore" in output
    assert "exit code 2" in output
    assert head.job("wrong")["status"] == "FAILED"


def test_without_the_token_nothing_is_submitted(head: Head) -> None:
    ended = ray(
        head,
        *("job", "submit", "--address", head.dashboard, "--", "true"),
        RAY_AUTH_MODE="token",
        RAY_AUTH_TOKEN="another" * 8,
    )
    assert ended.returncode != 0
    assert "oken" in ended.stdout + ended.stderr

"""A cluster that is not there is said in one line, soon; an interrupt ends the wait for one."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.errors import InputError
from harness.execution.executors import ray_executor
from harness.execution.executors.executor import Settings
from harness.storage.store import relative
from tests.sweeps import HOME, command, sweep, waited, written

pytestmark = [pytest.mark.timeout(900), pytest.mark.usefixtures("toys")]


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    """A port that takes connections and says nothing."""
    with socket.create_server(("", 0)) as server:  # Ray asks for a local one by its outer address
        yield server


def address(server: socket.socket) -> str:
    return f"127.0.0.1:{server.getsockname()[1]}"


def test_a_port_that_nobody_listens_at(listening: socket.socket, tmp_path: Path) -> None:
    where = address(listening)
    listening.close()
    conf = written(tmp_path / "c.yaml", sweep())
    ended = command("run", conf, "--address", where, "--storage", tmp_path / "runs")
    assert ended.returncode == 2
    # The first says what is to do: the cluster is looked for while the sweep is planned.
    (error,) = [x for x in ended.stderr.splitlines() if not x.startswith("toy: 2 cells")]
    assert where in error
    assert "refused" in error


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
def test_a_port_where_something_else_listens(
    listening: socket.socket, monkeypatch: pytest.MonkeyPatch, answer: bytes
) -> None:
    monkeypatch.setattr(ray_executor, "REACH", 0.3)

    def serve() -> None:
        connection, _ = listening.accept()
        with connection, contextlib.suppress(ConnectionError):
            connection.recv(100)
            connection.sendall(answer)
            connection.recv(100)

    thread = threading.Thread(target=serve)
    thread.start()
    with pytest.raises(InputError) as caught:
        ray_executor._reach(f"ray://{address(listening)}")
    thread.join()
    assert "\n" not in str(caught.value)
    assert address(listening) in str(caught.value)


@pytest.mark.parametrize("where", ["no-such-host.invalid:6379", "127.0.0.1:99999"])
def test_an_address_that_cannot_be(where: str) -> None:
    with pytest.raises(InputError, match=where):
        ray_executor._reach(where)


def test_the_address_of_a_dashboard_is_told_from_a_heads() -> None:
    with pytest.raises(InputError, match=r"http://head:8265: the address of a dashboard"):
        ray_executor._reach("http://head:8265")


def test_a_submitted_job_must_not_write_into_its_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it writes below its working folder is lost with the job."""
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    settings = Settings(
        *("/tmp/runs", None, 1, 1, 1.0, 1, 0.0), address="auto", relative=relative("runs")
    )
    with pytest.raises(InputError, match=r"--storage runs: .*absolute path"):
        ray_executor.connect(settings)
    assert relative("s3://bucket/runs") == relative("/data/runs") == ""


def test_an_interrupt_ends_the_wait_for_a_cluster(listening: socket.socket, tmp_path: Path) -> None:
    """Also while Ray itself waits, somewhere in its own code: here for a head that never speaks."""
    conf = written(tmp_path / "c.yaml", sweep())
    words = ["run", conf, "--address", address(listening), "--storage", tmp_path / "runs"]
    words += ["--mlflow", f"sqlite:///{tmp_path}/mlflow.db"]
    code = (
        "import sys; from harness.execution.executors import ray_executor\n"
        "from harness.__main__ import main\n"
        "ray_executor._reach = lambda address: None\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words)],
        cwd=HOME,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            ready = ([listening], [], [], 0)
            waited(lambda: select.select(*ready)[0], "Ray asks", process)
            connection, _ = listening.accept()
            time.sleep(1)
            process.send_signal(signal.SIGINT)
            _, stderr = process.communicate(timeout=600)
            connection.close()
        finally:
            process.kill()
    assert process.returncode == 130, stderr
    assert "interrupted" in stderr


#: Starts Ray as a run does, on a machine whose own address is not the loopback one, and tells where
#: its processes listen and what a run with another token says.
CLOSED = """
import json, os, subprocess, sys
import psutil
from harness.execution.executors import ray_token
ray_token.require(None)
import ray._private.services as services
services.node_ip_address_from_perspective = lambda *_: "192.0.2.2"
import ray
from harness.execution.executors.ray_executor import connect
from harness.execution.executors.executor import Settings
connect(Settings("x", None, 1, 1, 60, 1, 0.0))

@ray.remote
class Actor:
    def answer(self):
        return 1

actor = Actor.remote()
ray.get(actor.answer.remote())
here = psutil.Process()
everyone = [here, *here.children(recursive=True)]
sockets = [(p.name(), c.laddr.ip) for p in everyone for c in p.net_connections("inet")
           if c.status == "LISTEN"]
said = []
for changes in ({"RAY_AUTH_TOKEN": "f" * 64}, {"RAY_AUTH_MODE": "disabled"}):
    words = [sys.executable, "-m", "harness", "run", sys.argv[1], "--runner", "ray", "--address",
             ray.get_runtime_context().gcs_address, "--storage", sys.argv[2], "--quiet"]
    run = subprocess.run(words, env=os.environ | changes, capture_output=True, text=True)
    said.append((run.returncode, run.stderr))
print(json.dumps([sockets, said]))
ray.shutdown()
"""


def test_ray_on_this_machine_is_closed_to_the_network_and_to_others(tmp_path: Path) -> None:
    conf = written(tmp_path / "c.yaml", sweep())
    words = [sys.executable, "-c", CLOSED, str(conf), str(tmp_path / "runs")]
    free = {n: v for n, v in os.environ.items() if not n.startswith("RAY_")}
    done = subprocess.run(words, cwd=HOME, env=free, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr[-3000:]
    sockets, answers = json.loads(done.stdout.splitlines()[-1])
    names = {name.partition("::")[2] or name for name, _ in sockets}
    assert {"gcs_server", "raylet", "Actor"} <= names
    outside = [each for each in sockets if each[1] not in ("127.0.0.1", "::ffff:127.0.0.1", "::1")]
    assert outside == []
    for status, stderr in answers:
        assert status == 2
        (line,) = stderr.splitlines()
        assert "its token is another" in line

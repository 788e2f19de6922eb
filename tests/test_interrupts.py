"""SIGINT and SIGTERM end any phase of a command within seconds."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.sweeps import HOME, SQUARES, rows, started, sweep, waited, written

pytestmark = [pytest.mark.timeout(900), pytest.mark.usefixtures("toys")]

#: what the main thread does when the signal comes -> python
STUCK = {
    "sleeps": "import time; time.sleep(900)",
    "swallows it": """
import time
end = time.monotonic() + 900
while time.monotonic() < end:
    try:
        time.sleep(1)
    except BaseException:
        pass
""",
    "waits in C": "import ctypes; ctypes.CDLL(None).sleep(900); ctypes.CDLL(None).sleep(900)",
    "stands still with the lock": "import ctypes; [ctypes.PyDLL(None).sleep(99) for _ in range(9)]",
    "waits for a thread": """
import threading, time
thread = threading.Thread(target=time.sleep, args=(900,))
thread.start()
thread.join()
""",
}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("how", STUCK)
def test_whatever_a_command_waits_for(how: str, number: signal.Signals) -> None:
    lines = STUCK[how].strip().replace("\n", "\n    ")
    code = (
        "from harness.commands.interrupts import ended_soon, leave\n"
        f"with ended_soon():\n    print('ready', flush=True)\n    {lines}\n"
    )
    with started(
        [sys.executable, "-c", code],
        cwd=HOME,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.2)
        process.send_signal(number)
        process.wait(
            300
        )  # two seconds, on a machine that does nothing else; left alone, 15 minutes
    assert process.returncode not in (0, None)


def test_it_is_said_where_a_thread_keeps_the_terminal_quiet_meanwhile() -> None:
    code = (
        "import os, sys, time\n"
        "from harness.commands.interrupts import ended_soon\n"
        "with ended_soon():\n"
        "    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)\n"
        "    try:\n"
        "        print('ready', flush=True)\n"
        "        time.sleep(900)\n"
        "    except KeyboardInterrupt:\n"
        "        print('interrupted', file=sys.stderr, flush=True)\n"
        "        os._exit(130)\n"
    )
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with started([sys.executable, "-c", code], cwd=HOME, **pipes) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=300)
    assert (process.returncode, stderr) == (130, "interrupted\n")


@pytest.mark.parametrize("wait", [2.0])
def test_a_run_that_is_interrupted_is_gone_on_with(
    tmp_path: Path, mlflow_uri: str, wait: float
) -> None:
    """At some moment: while it starts, plans, or runs; left alone, it would not end."""
    waits = {"use": "toys.waits:Waits", "params": {"word": str(tmp_path / "word")}}
    config = sweep(datasets=[{"use": SQUARES}], methods=[waits], shots=[1, 2], shard=5)
    conf = written(tmp_path / "c.yaml", config)
    words = ["run", conf, "--storage", tmp_path / "runs", "--mlflow", mlflow_uri]
    words += ["--runner", "local", "--workers", "2"]
    command = [sys.executable, "-m", "harness", *map(str, words)]
    with started(command, cwd=HOME, stderr=subprocess.PIPE) as process:
        time.sleep(wait)
        process.send_signal(signal.SIGINT)
        stderr = process.communicate(timeout=300)[1]
    assert process.returncode in (130, -signal.SIGINT), stderr
    (tmp_path / "word").touch()
    again = subprocess.run(command, cwd=HOME, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert len(rows(tmp_path / "runs" / "toy")) == 4


def test_handlers_are_put_back() -> None:
    from harness.commands.interrupts import ended_soon

    before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    open_files = set(os.listdir("/proc/self/fd"))
    with ended_soon():
        assert signal.getsignal(signal.SIGTERM) not in before
    time.sleep(0.1)
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == before
    assert set(os.listdir("/proc/self/fd")) == open_files


#: In MLflow's place: a server with a process of its own, as the real one has several.
SERVER = """
import os, pathlib, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3000)"])
pathlib.Path(os.environ["PIDS"]).write_text(f"{os.getpid()} {child.pid}")
time.sleep(3000)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_pages_of_mlflow_end_with_the_command(number: int, tmp_path: Path) -> None:
    """All processes of its server, also where nobody but the command is sent a signal."""
    stand_in = tmp_path / "packages" / "mlflow"
    stand_in.mkdir(parents=True)
    (stand_in / "__init__.py").touch()
    (stand_in / "__main__.py").write_text(SERVER)
    storage, pids = tmp_path / "runs", tmp_path / "pids"
    storage.mkdir()
    (storage / "mlflow.db").touch()
    variables = {"PYTHONPATH": str(stand_in.parent), "PIDS": str(pids)}
    words = [sys.executable, "-m", "harness", "ui", "--storage", str(storage)]
    with started(words, cwd=HOME, env=os.environ | variables, start_new_session=True) as process:
        waited(lambda: pids.exists() and len(pids.read_text().split()) == 2, "server", process)
        process.send_signal(number)
        assert process.wait(300) == 130
    server = [int(pid) for pid in pids.read_text().split()]
    waited(lambda: not any(psutil.pid_exists(pid) and alive(pid) for pid in server), "its end")


def alive(pid: int) -> bool:
    """Whether a process is more than an entry that nobody has asked for."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False

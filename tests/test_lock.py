"""One driver at a time in a sweep's folder, locked by the kernel or by a note; what kills leave."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.errors import InputError
from harness.storage import lock
from harness.storage.lock import Lock
from harness.storage.store import STALE, Store
from tests.sweeps import NEAR, Runner, Tally, command, rows, started, sweep, waited, written

HOLDER = """
import sys, time
from harness.storage import lock
from harness.storage.store import Store
lock.BEAT = 0.1
if sys.argv[2] == "note":
    lock.Lock._lock = lambda self: False
with lock.Lock(Store(sys.argv[1]), "toy"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(params=["kernel", "note"])
def how(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Locked by the kernel, or by a note as where it cannot."""
    monkeypatch.setattr(lock, "SILENCE", 1.0)
    monkeypatch.setattr(lock, "MOMENT", 0.1)
    if request.param == "note":
        monkeypatch.setattr(Lock, "_lock", lambda self: False)
    return str(request.param)


def holder(folder: Path, how: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", HOLDER, str(folder), how]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def enter(folder: Path) -> None:
    with Lock(Store(str(folder)), "toy"):
        pass


def test_the_second_is_told_who_was_first(tmp_path: Path, how: str) -> None:
    with holder(tmp_path, how) as first:
        with pytest.raises(InputError) as caught:
            enter(tmp_path)
        message = str(caught.value)
        assert f"process {first.pid}" in message
        assert str(tmp_path / "toy") in message
        assert "\n" not in message
        with Lock(Store(str(tmp_path)), "another"):
            pass
        assert first.stdin is not None
        first.stdin.close()
        first.wait(600)
    enter(tmp_path)
    enter(tmp_path)


def test_a_killed_driver_holds_nothing(
    tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with holder(tmp_path, how) as first:
        first.send_signal(signal.SIGKILL)
        first.wait(600)
    monkeypatch.setattr(lock, "SILENCE", 1e6)  # its process is looked for, and is not there
    enter(tmp_path)


def test_on_another_machine_a_note_that_stands_still_is_of_a_dead_driver(
    tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if how == "kernel":
        pytest.skip("the kernel knows")
    monkeypatch.setattr(lock, "_machine", lambda: "elsewhere")
    with holder(tmp_path, how) as first:
        monkeypatch.setattr(lock, "SILENCE", 1e6)
        with pytest.raises(InputError, match=f"process {first.pid}"):
            enter(tmp_path)  # it beats ten times a second
        monkeypatch.setattr(lock, "SILENCE", 1.0)
        first.send_signal(signal.SIGKILL)
        first.wait(600)
        began = time.monotonic()
        enter(tmp_path)
        assert time.monotonic() - began >= lock.SILENCE
    assert "sign of life" in capsys.readouterr().err


def test_a_number_that_is_now_anothers_process_is_no_sign_of_life(tmp_path: Path, how: str) -> None:
    if how == "kernel":
        pytest.skip("the kernel knows")
    store = Store(str(tmp_path))
    note = {"id": "x", "host": "here", "machine": lock._machine(), "pid": os.getpid(), "beat": 3}
    store.write(".locks/toy", json.dumps(note | {"born": "1"}).encode())
    enter(tmp_path)
    store.write(".locks/toy", json.dumps(note | {"born": lock._born(os.getpid())}).encode())
    with pytest.raises(InputError, match="process"):
        enter(tmp_path)
    for damaged in (b"", b"{", b"[]", b"{}"):
        store.write(".locks/toy", damaged)
        enter(tmp_path)


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(InputError) as caught:
        enter(tmp_path / "runs")
    assert "\n" not in str(caught.value)


def test_two_drivers_of_one_sweep(
    toys: None, run_sweep: Runner, tally: Tally, tmp_path: Path, mlflow_uri: str
) -> None:
    """The second is refused while the first runs; killed, the first is gone on with."""
    go = tmp_path / "go"
    waits = {"use": "toys.waits:Waits", "params": {"word": str(go)}}
    config = sweep(methods=[{"use": NEAR}, waits])
    conf = written(tmp_path / "toy.yaml", config)
    words = ["run", conf, "--storage", tmp_path / "runs", "--runner", "serial", "--mlflow"]
    words += [mlflow_uri, "--quiet"]
    folder = tmp_path / "runs" / "toy"

    def contents() -> dict[Path, bytes]:
        """All but what the first driver's thread writes when the server has answered."""
        files = (p for p in folder.rglob("*") if p.is_file() and p.name != "mlflow.json")
        return {path: path.read_bytes() for path in files}

    with started([sys.executable, "-m", "harness", *map(str, words)]) as first:
        waited(Path(f"{go}.awaited").exists, "results", first)
        waited(lambda: (folder / "results.csv").exists() and rows(folder), "results", first)
        before = contents()
        second = command(*words)
        assert second.returncode == 2
        assert len(second.stderr.splitlines()) == 1, second.stderr
        assert f"process {first.pid}" in second.stderr
        assert contents() == before
        first.send_signal(signal.SIGKILL)
    go.touch()
    assert run_sweep(config) == 0
    assert len(rows(folder)) == 4


def test_what_kills_left_half_written_is_removed_when_it_is_old(
    run_sweep: Runner, tmp_path: Path
) -> None:
    config = sweep()
    assert run_sweep(config) == 0
    storage = tmp_path / "runs"
    (artifact,) = list((storage / ".artifacts" / "predict").rglob("*.safetensors"))[:1]
    table = storage / "toy" / "predictions" / "Near" / "Squares" / "ant" / "k2_s0.csv"
    left = []
    for path in (artifact, table, storage / "toy" / "results.csv"):
        for age in (0.0, 2 * STALE):
            new = path.with_name(f".{path.name}.{'0' * 31}{int(age > 0)}.tmp")
            new.write_bytes(b"half of")
            os.utime(new, (time.time() - age,) * 2)
            left.append((new, age))
    (storage / "toy" / "results.csv").unlink()  # so that there is something to do
    assert run_sweep(config) == 0
    for path, age in left:
        assert path.exists() == (age == 0), path
    assert len(rows(storage / "toy")) == 2

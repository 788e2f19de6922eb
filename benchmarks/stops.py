"""Stops a sweep at random moments, on both runners: who is interrupted ends soon, who is killed
loses nothing.

A sweep of fakes (24 cells, a slow method, a generator, MLflow in sqlite) is started again and
again and sent a signal at a moment drawn evenly from its whole life: imports, planning, the start
of Ray, tasks, report, MLflow, exit. After SIGINT and SIGTERM the process must be gone within 5 s,
and all it started a few seconds later; after SIGKILL all it started must be gone too. In the end
the sweep is run to its end in each storage so treated: tables and predictions must be those of
calm runs to the byte.

    python -m benchmarks.stops [--signals INT TERM KILL] [--runners local ray] [--repeats 25]
                               [--load 2] [--seed 0]

``--load`` processes that do nothing but compute keep the machine busy meanwhile.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.clusters import published
from tests.sweeps import FAKES, HOME, lasting, written

SOON = 5.0  # seconds within which an interrupted command is gone
AFTERMATH = 120.0  # seconds within which everything it started is
ROUND = 5  # stops in one storage before the sweep is begun anew
#: Exit statuses of a command that was done, was interrupted, or died of the signal; 1 where Python
#: stood still in a library until the process was ended from outside of it.
ENDS = {"INT": (0, 130, 1, -2), "TERM": (0, 130, 1, -15), "KILL": (0, -9)}


@dataclass
class Score:
    """Of one runner and signal."""

    right: int = 0
    tried: int = 0
    slowest: float = 0.0  # seconds from the signal to the end
    last: float = 0.0  # ... to the end of the last process that it started
    wrong: list[str] = field(default_factory=list)


@dataclass
class Place:
    """Where a sweep is run: its config, storage, and what its processes print."""

    folder: Path
    runner: str

    @property
    def storage(self) -> Path:
        """Where its artifacts and results go."""
        return self.folder / "runs"

    def start(self, mark: str) -> subprocess.Popen[bytes]:
        """The command, whose processes are known by a variable in their environment."""
        conf = written(self.folder / "conf.yaml", lasting("stopped"))
        words = [sys.executable, "-m", "harness", "run", conf, "--storage", self.storage]
        words += ["--runner", self.runner, "--workers", "2"]
        path = os.pathsep.join([str(FAKES), str(HOME)])
        variables = {"PYTHONPATH": path, "STOPS_MARK": mark, "OMP_NUM_THREADS": "1"}
        with (self.folder / "output.txt").open("ab") as output:
            return subprocess.Popen(
                list(map(str, words)),
                cwd=HOME,
                env=os.environ | variables,
                stdout=output,
                stderr=output,
                start_new_session=True,  # a group of its own, as a terminal gives it
            )

    def whole(self) -> dict[str, bytes]:
        """What is published, once the sweep is run to its end."""
        status = self.start(uuid.uuid4().hex).wait(300)
        if status:
            raise RuntimeError(f"status {status}: {self.said()}")
        return published(self.storage / "stopped")

    def said(self) -> str:
        """The last of what its processes printed."""
        return (self.folder / "output.txt").read_text(errors="replace")[-2000:]


def marked(mark: str) -> list[str]:
    """Processes that were started with this mark and still run: number and command."""
    needle, ours = f"STOPS_MARK={mark}".encode(), []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if needle in (process / "environ").read_bytes().split(b"\0"):
                words = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()[:100]
                state = (process / "stat").read_text().rpartition(")")[2].split()[0]
                if state != "Z":
                    ours.append(f"{process.name} {words}")
        except OSError:
            continue
    return ours


@contextmanager
def busy(count: int) -> Iterator[None]:
    """So many processes that compute."""
    burners = [subprocess.Popen([sys.executable, "-c", "while True: 7**77"]) for _ in range(count)]
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()


def stop(place: Place, name: str, moment: float, keyboard: bool, score: Score) -> None:
    """Start the sweep, send the signal after so many seconds, and see how it ends.

    ``keyboard``: to the whole group of processes, as a terminal does on Ctrl-C.
    """
    mark = uuid.uuid4().hex
    process = place.start(mark)
    try:
        process.wait(moment)
    except subprocess.TimeoutExpired:
        number = getattr(signal, f"SIG{name}")
        if keyboard:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
    sent = time.monotonic()
    faults = []
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        faults.append("did not end in 30 s")
        process.kill()
        process.wait()
    took = time.monotonic() - sent
    score.slowest = max(score.slowest, took)
    if took > SOON:
        faults.append(f"took {took:.1f} s to end")
    if process.returncode not in ENDS[name]:
        faults.append(f"ended with status {process.returncode}")
    while (left := marked(mark)) and time.monotonic() - sent < SOON + AFTERMATH:
        time.sleep(0.05)
    score.last = max(score.last, time.monotonic() - sent)
    if left:
        faults.append(f"left behind {'; '.join(left)}")
    score.tried += 1
    score.right += not faults
    if faults:
        words = f"{place.runner}, SIG{name} after {moment:.2f} s: {', '.join(faults)}"
        score.wrong.append(words)
        print(f"{words}\n{place.said()}", flush=True)


def stopped(
    folder: Path, runner: str, name: str, repeats: int, chance: random.Random, life: float
) -> Score:
    """Stop a sweep so often, a few times in each storage, and compare what it publishes at last."""
    score = Score()
    calm = published(folder / "calm" / "runs" / "stopped")
    while score.tried < repeats:
        place = Place(folder / f"{runner}{name}{score.tried}", runner)
        place.folder.mkdir()
        for _ in range(min(ROUND, repeats - score.tried)):
            keyboard = name == "INT" and chance.random() < 0.5
            stop(place, name, chance.uniform(0, life), keyboard, score)
        try:
            if place.whole() != calm:
                raise RuntimeError("tables or predictions differ from those of a calm run")
        except (RuntimeError, OSError, subprocess.TimeoutExpired) as error:
            score.wrong.append(f"{runner}, SIG{name}: {error}")
            print(score.wrong[-1], flush=True)
        shutil.rmtree(place.folder)
    return score


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--signals", nargs="+", choices=list(ENDS), default=list(ENDS))
    parser.add_argument("--runners", nargs="+", default=["local", "ray"])
    parser.add_argument("--repeats", type=int, default=25, help="of each signal on each runner")
    parser.add_argument("--load", type=int, default=2, help="processes that keep the machine busy")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    good = True
    with tempfile.TemporaryDirectory() as temporary, busy(arguments.load):
        folder = Path(temporary)
        calm = Place(folder / "calm", "local")
        calm.folder.mkdir()
        calm.whole()
        for runner in arguments.runners:
            place = Place(folder / runner, runner)
            place.folder.mkdir()
            began = time.monotonic()
            place.whole()
            life = time.monotonic() - began
            print(f"{runner}: an undisturbed run takes {life:.1f} s", flush=True)
            for name in arguments.signals:
                chance = random.Random(f"{arguments.seed} {runner} {name}")
                score = stopped(folder, runner, name, arguments.repeats, chance, life)
                text = "{} {}: {} right of {}, gone after at most {:.1f} s, "
                text += "the last of its processes after {:.1f} s, load {:.1f}"
                load = os.getloadavg()[0]
                numbers = score.right, score.tried, score.slowest, score.last, load
                print(text.format(runner, f"SIG{name}", *numbers), flush=True)
                good &= not score.wrong
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())

"""Small sweeps for tests of the engine: how to write one, start it, and count what was done."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

HOME = Path(__file__).resolve().parents[1]
FAKES = HOME / "tests" / "fakes"
SQUARES = "toys.data:Squares"
NEAR = "toys.methods:Near"

Runner = Callable[..., int]


class Tally:
    """Lines that the fakes wrote, one for each call."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen = 0

    def lines(self) -> list[str]:
        return self.path.read_text().splitlines() if self.path.exists() else []

    def new(self) -> list[str]:
        """Lines since this was last asked."""
        fresh = self.lines()[self._seen :]
        self._seen += len(fresh)
        return fresh

    def counts(self) -> Counter[str]:
        """Number of new lines by their first word."""
        return Counter(line.split()[0] for line in self.new())


def sweep(**changes: Any) -> dict[str, Any]:
    """A small sweep as its YAML would say it; None takes a key away."""
    config: dict[str, Any] = {
        "name": "toy",
        "datasets": [{"use": SQUARES}],
        "methods": [{"use": NEAR}],
        "shots": [2],
        "seeds": [0],
    }
    config |= changes
    return {k: v for k, v in config.items() if v is not None}


def written(path: Path, config: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return path


def waited(
    until: Callable[[], Any], what: str, process: subprocess.Popen[Any] | None = None
) -> None:
    """Wait until something is so, however busy the machine is; not for a process that has ended."""
    end = time.monotonic() + 600
    while not until():
        assert process is None or process.poll() is None, f"ended before {what}"
        assert time.monotonic() < end, f"no {what}"
        time.sleep(0.02)


@contextmanager
def started(words: list[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A process that does not outlive the test: what fails meanwhile is told at once."""
    with subprocess.Popen(words, text=True, **options) as process:
        try:
            yield process
        finally:
            process.kill()


def command(*words: object, cwd: Path = HOME, **variables: str) -> subprocess.CompletedProcess[str]:
    """``python -m harness`` with these words, as a user would."""
    return subprocess.run(
        [sys.executable, "-m", "harness", *map(str, words)],
        cwd=cwd,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


def rows(folder: Path, name: str = "results.csv") -> list[dict[str, str]]:
    with (folder / name).open(newline="") as file:
        return list(csv.DictReader(file))


def lasting(name: str) -> dict[str, Any]:
    """A sweep with a slow method and a generator: long enough to be killed in the middle."""
    return sweep(
        name=name,
        datasets=[{"use": SQUARES, "params": {"names": ["ant", "bee", "cat"]}}],
        methods=[{"use": "toys.slow:Slow"}, {"use": "toys.methods:Compared", "generator": "g"}],
        generators={"g": {"use": "toys.generators:Blend", "pool": 3}},
        shots=[1, 2],
        seeds=[0, 1],
        shard=5,
    )

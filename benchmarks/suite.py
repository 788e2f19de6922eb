"""All quick benchmarks, one after the other, into ``results.md`` and ``results.json``.

    make bench                       every script that needs no peer, in under ten minutes
    make bench-peer                  installs the newest anomalib into .cache/anomalib, and compares
    python -m benchmarks.suite --only sweep metrics --quick

Each script runs in a process of its own, whose peak memory is a figure too. Its figures are stored
as soon as it is done. A script that fails is told and left out; what is stored of it stays.
"""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console

from benchmarks import record
from benchmarks.figures import Figures, figure, parsed, read, write
from benchmarks.process import watched

#: in the order they run
SCRIPTS = ("sweep", "scoring", "metrics", "clip", "generator", "engine", "tracking", "peaks")
#: scripts with options of their own, and what ``--quick`` is among these
OWN = {"peer": "--quick", "gpu": "--tiny"}
ROOT = Path(__file__).parents[1]
PEER = ROOT / ".cache" / "anomalib"


def install(environment: Path, console: Console) -> None:
    """The newest anomalib in an environment of its own that sees this one's packages.

    It so runs on the very torch that the harness runs on, where it can; what it needs in other
    versions goes into its own environment and changes nothing here.
    """
    python = environment / "bin" / "python"
    if not python.exists():
        console.print(f"anomalib into {environment}: a minute", highlight=False)
        subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        inside = f"lib/{version}/site-packages"
        beside = Path(sys.prefix) / inside
        (environment / inside / "beside.pth").write_text(f"{beside}\n")
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*command, "--upgrade", "anomalib[clip]"], check=True)


def one(
    name: str,
    quick: bool,
    extra: list[str],
    environment: dict[str, str],
    python: str = sys.executable,
) -> Figures:
    """Figures of a script in a process of its own, with its peak memory."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "figures.json"
        command = [python, "-m", "benchmarks.suite", "--child", name, "--into", str(path)]
        if importlib.util.find_spec(f"benchmarks.{name}") is None:
            raise FileNotFoundError(f"no benchmark is named {name}")
        if name in OWN:
            command = [sys.executable, "-m", f"benchmarks.{name}", "--json", str(path), *extra]
        run = watched([*command, *([OWN.get(name, "--quick")] if quick else [])], environment)
        figures = read(path)
    figures["peak of the script's process"] = figure(run.host_mb, "MB")
    if run.worker_mb:
        figures["peak of the largest of its processes"] = figure(run.worker_mb, "MB")
    return figures


def child(name: str, quick: bool, into: Path) -> None:
    """Measure one script here."""
    measure = importlib.import_module(f"benchmarks.{name}").measure
    write(into, parsed(measure(quick)))


def _command(peer: bool, only: str, quick: bool) -> str:
    """What measures these figures again."""
    options = " ".join([f"--only {only}"] * bool(only) + ["--quick"] * quick)
    return ("make bench-peer" if peer else "make bench") + (
        f' BENCH="{options}"' if options else ""
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--only", nargs="+", default=list(SCRIPTS), metavar="SCRIPT")
    parser.add_argument("--quick", action="store_true", help="fewer repeats")
    parser.add_argument("--peer", action="store_true", help="against anomalib instead")
    parser.add_argument("--environment", type=Path, default=PEER, help="where anomalib is, or goes")
    parser.add_argument("--results", type=Path, default=record.HERE, help="folder of the results")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child, arguments.quick, arguments.into)
        return 0
    console = Console(soft_wrap=True)
    before = record.conditions()
    if before["load"] > 1:
        text = f"load {before['load']}: the machine has something else to do, times will be long"
        console.print(text, style="yellow", highlight=False)
    scripts, extra = list(arguments.only), []
    if arguments.peer:
        install(arguments.environment, console)
        scripts, extra = ["peer"], ["--environment", str(arguments.environment)]
    groups: dict[str, Figures] = {}
    lost: dict[str, float] = {}
    failed = []
    single = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    runs = {name: (name, extra, sys.executable) for name in scripts}
    if arguments.peer:
        # the same scripts where anomalib and torchmetrics are installed, and so take part
        python = str(arguments.environment / "bin" / "python")
        runs |= {f"{name} beside anomalib": (name, [], python) for name in ("metrics", "scoring")}
    for name, (script, options, python) in runs.items():
        began = time.perf_counter()
        try:
            groups[name] = one(script, arguments.quick, options, single, python)
        except (RuntimeError, FileNotFoundError) as error:
            failed.append(name)
            console.print(f"{name} failed: {error}", style="red", highlight=False, markup=False)
            continue
        console.print(f"{name}: {time.perf_counter() - began:.0f} s", highlight=False)
        every = arguments.peer or arguments.only == list(SCRIPTS)
        command = _command(arguments.peer, "" if every else script, arguments.quick)
        lost |= record.keep({name: groups[name]}, command, before, arguments.results)
    record.tell(groups, lost, console)
    console.print(f"\nwritten: {arguments.results / 'results.md'}", highlight=False)
    if failed:
        console.print(f"not measured: {', '.join(failed)}", style="red", highlight=False)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())

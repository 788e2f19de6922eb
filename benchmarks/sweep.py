"""Wall time of a small sweep, cold: `python -m benchmarks.sweep [--runner ray]`.

12 cells: shots 2, 4, 8, two seeds, PaDiM (100 channels) and PatchCore (coreset 10 %, 9 neighbours)
on EfficientNet-Lite0 at 256 px, 200 ELPV queries, image scores only. The same cells through a
library that treats each on its own took 182-198 s on 2 cores (its kindest settings), and 30-32 s
with the same maths and features computed once per image.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

SWEEP = {
    "name": "benchmark",
    "datasets": [{"use": "elpv", "queries": {"normal": 100, "anomalous": 100}}],
    "methods": [
        {"use": "padim", "params": {"channels": 100}},
        {"use": "patchcore", "params": {"coreset": 0.1, "neighbours": 9}},
    ],
    "shots": [2, 4, 8],
    "seeds": [0, 1],
    "maps": False,
    "gallery": 0,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--runner", choices=["ray", "local", "serial"], default="local")
    parser.add_argument("--repeats", type=int, default=1)
    arguments = parser.parse_args()
    for _ in range(arguments.repeats):
        with tempfile.TemporaryDirectory() as folder:
            conf = Path(folder) / "benchmark.yaml"
            conf.write_text(yaml.safe_dump(SWEEP))
            command = [sys.executable, "-m", "harness", "run", str(conf), "--storage", folder]
            command += ["--runner", arguments.runner, "--quiet"]
            command += ["--workers", str(arguments.workers)]
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            began = time.perf_counter()
            subprocess.run(command, check=True)
            wall = time.perf_counter() - began
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            processor = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
            print(f"wall {wall:.1f} s, processor time of the driver {processor:.1f} s")
            report(Path(folder) / "benchmark" / "timings.csv")
    print(f"load average {os.getloadavg()[0]:.1f}: below 1 before the run, or times mean little")


def report(path: Path) -> None:
    """Where the time goes: sums over cells of the stages, which ran on several workers at once."""
    import pandas as pd

    timings = pd.read_csv(path)
    stages = ["fit_s", "predict_s", "encode_s", "decode_s", "evaluate_s"]
    shown = timings.groupby("method")[[*stages, "encoded", "decoded"]].sum()
    print(shown.round(2).to_string())
    cells = timings.sort_values(["method", "shots", "seed"])
    print(cells[["method", "shots", "seed", *stages]].round(2).to_string(index=False))


if __name__ == "__main__":
    main()

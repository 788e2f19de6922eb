"""Peak memory of the demo, driver and worker, and of RegAD's training.

    python -m benchmarks.peaks [--quick]

The demo runs from an empty storage with two local workers. RegAD trains at 224 px with ResNet18
on ten categories of random pictures that its caches keep as it goes, batches of 32, for one
step (quick: 64 px, to see that it works). Peaks are the high-water
marks of processes, libraries included.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.figures import Figures, figure, main
from benchmarks.process import watched

ROOT = Path(__file__).parents[1]
CATEGORIES, PICTURES = 10, 60


def measure(quick: bool) -> Figures:
    """Both, each in processes of its own."""
    table: Figures = {}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "harness", "run", str(ROOT / "conf" / "demo.yaml")]
        command += ["--runner", "local", "--workers", "2", "--quiet", "--storage", folder]
        demo = watched(command, os.environ | {"OMP_NUM_THREADS": "1"})
    table["demo: peak of the driver"] = figure(demo.host_mb, "MB")
    table["demo: peak of a worker"] = figure(demo.worker_mb, "MB")
    table["demo"] = figure(demo.wall, "s")
    for few in (2,) if quick else (8,):
        size = 64 if quick else 224
        command = [sys.executable, "-m", "benchmarks.peaks", "--train", str(few), str(size)]
        trained = watched(command, os.environ | {"OMP_NUM_THREADS": "1"})
        note = f"{CATEGORIES} categories, batches of 32, {size} px, ResNet18"
        table[f"RegAD's training, {few} shots: peak"] = figure(trained.host_mb, "MB", note=note)
    return table


def train(shots: int, size: int) -> None:
    """RegAD's training on random pictures, in this process."""
    import torch

    from harness.execution.memory.allowance import caches_mb
    from harness.execution.memory.cache import FeatureMemory
    from harness.interface import Auxiliary, AuxiliaryCategory, Image
    from methods.regad import Regad

    torch.set_num_threads(1)
    rng = np.random.default_rng(0)

    def pictures(name: str) -> tuple[Image, ...]:
        shape = (size, size, 3)
        return tuple(
            Image(f"{name}/{i}", lambda: rng.integers(0, 256, shape, np.uint8))
            for i in range(PICTURES)
        )

    categories = tuple(
        AuxiliaryCategory(
            f"c{i}", f"c{i}", pictures(f"c{i}"), (), np.zeros(0, np.int64), lambda index: None
        )
        for i in range(CATEGORIES)
    )
    spec = {"model": "resnet18", "weights": "random:0"}
    steps = CATEGORIES if size < 224 else 1
    method = Regad(encoder=spec, size=size, epochs=1, steps=steps)
    method.setup("cpu", FeatureMemory(caches_mb(None, 2, 1) << 20))
    method.train(Auxiliary(categories, shots, 0))


if __name__ == "__main__":
    if "--train" in sys.argv:
        parser = argparse.ArgumentParser()
        parser.add_argument("--train", type=int, nargs=2, metavar=("SHOTS", "SIZE"))
        train(*parser.parse_args().train)
    else:
        main(__doc__, measure)

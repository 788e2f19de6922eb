"""Seconds that methods take to fit and score, apart from encoding, and what they keep in memory.

Run from the checkout, on a quiet machine, with one thread as a worker has:

    OMP_NUM_THREADS=1 python -m benchmarks.methods
    OMP_NUM_THREADS=1 python -m benchmarks.methods --method padim --shots 2 8 --images 20 --noise

Images are cells of the elpv-dataset package, or noise. Every cell is a shot and a seed; encoding
happens before its clock starts, as it is shared by all cells of a worker. The last lines add up the
sweep that the README reports: 3 shots x 2 seeds of PaDiM and PatchCore, half of 200 queries each.
"""

from __future__ import annotations

import argparse
import importlib
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from harness.execution.memory.cache import FeatureMemory
from harness.interface import Image, Method, Queries, Support

# name -> class, parameters: the settings of the sweep, and what few-shot runs use by default
SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "padim": ("methods.padim:Padim", {"channels": 100}),
    "patchcore": ("methods.patchcore:Patchcore", {"coreset": 0.1, "neighbours": 9}),
    "patchcore-full": ("methods.patchcore:Patchcore", {}),
    "mean_color": ("methods.mean_color:MeanColor", {}),
}
SWEEP = ("padim", "patchcore")


def pictures(count: int, noise: bool) -> list[Image]:
    """Distinct pictures of 300 x 300 pixels."""
    if noise:
        rng = np.random.default_rng(0)
        arrays = (rng.integers(0, 256, (300, 300, 3), np.uint8) for _ in range(count))
        return [Image(f"noise/{i}", array) for i, array in enumerate(arrays)]
    from elpv_dataset.utils import load_dataset

    cells = load_dataset()[0]
    chosen = np.random.default_rng(0).permutation(len(cells))[:count]
    return [Image(f"elpv/{i}", np.repeat(cells[i][..., None], 3, axis=2)) for i in chosen]


def load(name: str) -> Method:
    where, parameters = SETTINGS[name]
    module, _, attribute = where.partition(":")
    method: Method = getattr(importlib.import_module(module), attribute)(**parameters)
    return method


def timed(
    method: Method, supports: Sequence[Sequence[Image]], queries: Queries, repeats: int
) -> tuple[float, float]:
    """Seconds to fit, and to score, one cell for each support: of each the fastest repeat."""
    fitting = scoring = 0.0
    for seed, support in enumerate(supports):
        fits, scores = [], []
        for _ in range(repeats):
            start = time.perf_counter()
            method.fit(Support(tuple(support), seed=seed))
            fits.append(time.perf_counter() - start)
            start = time.perf_counter()
            method.predict(queries)
            scores.append(time.perf_counter() - start)
        fitting, scoring = fitting + min(fits), scoring + min(scores)
    return fitting, scoring


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--method", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--shots", nargs="+", type=int, default=[2, 4, 8])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--images", type=int, default=100, help="queries of one worker")
    parser.add_argument("--repeats", type=int, default=5, help="the fastest of these counts")
    parser.add_argument("--maps", action="store_true", help="ask for maps too")
    parser.add_argument("--noise", action="store_true", help="noise instead of solar cells")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()

    # The draws of a seed share no image with those of another.
    images = pictures(options.images + options.seeds * max(options.shots), options.noise)
    queries = Queries(tuple(images[: options.images]), maps=options.maps)
    rest = images[options.images :]
    memory = FeatureMemory(4 << 30)
    print(f"{options.device}, {torch.get_num_threads()} threads, {options.images} queries")

    totals = {}
    for name in options.method:
        method = load(name)
        start = time.perf_counter()
        method.setup(options.device, memory)
        ready = time.perf_counter()
        before = memory._records.used
        method.fit(Support(tuple(rest)))
        method.predict(queries)  # encodes the queries, and the support before them
        encoded = time.perf_counter()
        kept = (memory._records.used - before) / 1e6
        print(
            f"{name}: set up {ready - start:.2f} s, first pass with encoding "
            f"{encoded - ready:.2f} s, records kept {kept:.0f} MB"
        )
        totals[name] = 0.0
        for shots in options.shots:
            supports = [rest[i * max(options.shots) :][:shots] for i in range(options.seeds)]
            fitting, scoring = timed(method, supports, queries, options.repeats)
            totals[name] += fitting + scoring
            fitting, scoring = fitting / options.seeds, scoring / options.seeds
            print(f"  {shots} shots: fit {fitting:.3f} s, score {scoring:.3f} s per cell")
    if set(SWEEP) <= totals.keys():
        cells = len(SWEEP) * len(options.shots) * options.seeds
        print(f"all {cells} cells of the sweep: {sum(totals[name] for name in SWEEP):.2f} s")


if __name__ == "__main__":
    main()

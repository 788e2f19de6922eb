"""What CLIP encodings cost: a plain one, one with WinCLIP's windows, and an object's sentences.

Weights are random: speed does not depend on them. CPU seconds of one image are what counts; a busy
machine lengthens the wall time. The last column is the process's peak so far.

    python -m benchmarks.clip --model ViT-B-16-plus-240 --images 3 --threads 1
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from harness.execution.cache import FeatureMemory
from harness.interface import Image
from methods._encoders.clip import ClipEncoder
from methods._ops.prompts import compose


def measured(what: str, run: Callable[[], Any], count: int, device: str) -> None:
    cpu, wall = time.process_time(), time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{what:<28} {cpu / count:8.3f} CPU s {wall / count:8.3f} s each {peak:8.2f} GiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="ViT-B-16-plus-240")
    parser.add_argument("--size", type=int, default=240)
    parser.add_argument("--images", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    encoder = ClipEncoder(options.model, "random:0", options.device, FeatureMemory(1 << 32))
    rng = np.random.default_rng(0)
    images = [
        Image(str(i), rng.integers(0, 256, (options.size, options.size, 3), dtype=np.uint8))
        for i in range(options.images + 1)
    ]
    for what, windows in (("plain", ()), ("windows 2 x 2 and 3 x 3", (2, 3))):

        def encode(part: list[Image], windows: tuple[int, ...] = windows) -> None:
            encoder.encode(part, size=options.size, levels=(encoder.depth,), windows=windows)

        encode(images[:1])  # the first is slower
        measured(what, lambda encode=encode: encode(images[1:]), options.images, options.device)
    normal, anomalous = compose("metal nut")
    sentences = [*normal, *anomalous]
    measured(
        f"{len(sentences)} sentences", lambda: encoder.encode_text(sentences), 1, options.device
    )


if __name__ == "__main__":
    main()

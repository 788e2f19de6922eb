"""What customization and personalization cost beside the bare evaluations of the UNet they need.

Personalization of a query is compared with its UNet evaluations, each at that batch, alone;
customization with as many bare training steps (forward and backward for the weights that are
trained, no optimiser). Wanted on a CPU: at most 1.3 and 1.4 times. Times are the process's own CPU
seconds, medians of interleaved repetitions: a busy machine disturbs them little, and with one
thread they are what a quiet machine's clock shows.

    python -m benchmarks.diffusion_cost --base micro --threads 1
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks.personalize import parameters
from harness.execution.memory.cache import FeatureMemory
from harness.interface import Image, Support
from methods._diffusion import finetune, model
from methods.generators.dreambooth import DreamBooth


def seconds(run: Callable[[], Any]) -> float:
    begun = time.process_time()
    run()
    return time.process_time() - begun


def noise_image(key: int, side: int) -> Image:
    pixels = np.random.default_rng(key).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return Image(str(key), pixels)


def personalization(generator: DreamBooth, repeat: int) -> tuple[float, float, int, int]:
    """Seconds per query, of one bare evaluation, their number and batch."""
    parts, unet = generator._parts, generator._unet
    side = generator._side
    generator.load({}, Support((noise_image(0, side),), "metal nut"))
    rows = len(generator._conditions(generator.prompts)[0])
    batch = rows * (1 if generator.guidance == 1 else 2)
    trail = model.timesteps(parts, generator.strength, generator.steps, generator.start)
    z = torch.randn(batch, *generator._shape)
    text = generator._free.expand(batch, -1, -1)

    def bare() -> None:
        with torch.inference_mode():
            unet(z, trail[0], encoder_hidden_states=text, return_dict=False)

    whole, alone = [], []
    for i in range(repeat + 1):
        one = partial(generator.personalize, [noise_image(i + 1, side)], 0)
        whole.append(seconds(one))
        alone.append(float(np.median([seconds(bare) for _ in trail])))
    return float(np.median(whole[1:])), float(np.median(alone[1:])), len(trail), batch


def customization(generator: DreamBooth, repeat: int) -> tuple[float, float, float, int]:
    """Seconds of customizing, of one bare training step before and after, number of steps."""
    parts, unet = generator._parts, generator._unet
    images = tuple(noise_image(i, generator._side) for i in range(8))
    steps = generator._recipe.steps
    prior = {"latents": np.zeros((4, *generator._shape), np.float16)}
    batch = 2 * generator.train_batch
    z = torch.randn(batch, *generator._shape)
    t = torch.randint(len(parts.abar), (batch,))
    text = generator._free.expand(batch, -1, -1)

    def bare() -> None:
        predicted = unet(z, t, encoder_hidden_states=text, return_dict=False)[0]
        ((predicted - z) ** 2).mean().backward()
        for weight in unet.parameters():
            weight.grad = None

    def bare_seconds() -> float:
        if generator._recipe.rank is None:
            unet.requires_grad_(True)
        else:
            random = torch.Generator().manual_seed(0)
            finetune.add_adapter(unet, generator.rank, generator.targets, random)
        try:
            return float(np.median([seconds(bare) for _ in range(max(5, repeat))]))
        finally:
            if generator._recipe.rank is None:
                unet.requires_grad_(False)
            else:
                unet.unload_lora()

    generator._restore()
    bare_seconds()
    first = bare_seconds()
    whole = seconds(lambda: generator.customize(Support(images, "metal nut", 0), prior))
    generator._restore()
    return whole, first, bare_seconds(), steps


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--base", default="micro")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=8)
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="of dreambooth")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    generator = DreamBooth(**{"base": arguments.base, **parameters(arguments.set)})
    generator.setup("cpu", FeatureMemory(1 << 28))
    count = sum(p.numel() for p in generator._unet.parameters()) / 1e6
    print(f"{arguments.base}: UNet {count:.1f} M parameters, latents {generator._shape}")
    whole, alone, evaluations, batch = personalization(generator, arguments.repeat)
    ratio = whole / (evaluations * alone)
    text = "personalization: {:.1f} ms per query = {:.2f} x ({} evaluations x {:.1f} ms, batch {})"
    print(text.format(1e3 * whole, ratio, evaluations, 1e3 * alone, batch))
    whole, before, after, steps = customization(generator, arguments.repeat)
    alone = (before + after) / 2
    text = "customization: {:.1f} s = {:.2f} x ({} steps x {:.1f} ms; {:.1f} before, {:.1f} after)"
    ratio = whole / (steps * alone)
    print(text.format(whole, ratio, steps, 1e3 * alone, 1e3 * before, 1e3 * after))


if __name__ == "__main__":
    main()

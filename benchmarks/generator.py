"""Personalization and customization beside the bare evaluations they need, and beside diffusers.

    python -m benchmarks.generator [--quick]

The embedded micro model at its own size, one thread, processor seconds, interleaved. The bare cost
of a query is its evaluations of the UNet at their batch, one encoding by the autoencoder and one
decoding for each prompt; of customization, as many training steps without optimiser, and the
encoding of what is trained on. diffusers' image-to-image pipeline is called for each query and
prompt with the same weights, strength, steps and guidance.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Literal

import diffusers
import numpy as np
import torch
from PIL import Image as Picture

from benchmarks.diffusion_cost import customization, noise_image
from benchmarks.figures import Figures, figure, interleaved, main, ratio
from harness.execution.memory.cache import FeatureMemory
from harness.interface import Support
from methods._diffusion import model
from methods.generators.dreambooth import DreamBooth

QUERIES = 4  # in one call, as a shard has many
#: evaluations of a query -> strength, steps of a full trajectory
EVALUATIONS = {1: (0.1, 10), 3: (0.3, 10), 6: (0.3, 20)}
PROMPTS: Literal[3] = 3


def generator(strength: float, steps: int, **more: Any) -> DreamBooth:
    """A set-up generator with the base's own weights."""
    dreambooth = DreamBooth(base="micro", strength=strength, steps=steps, prompts=PROMPTS, **more)
    dreambooth.setup("cpu", FeatureMemory(1 << 28))
    dreambooth.load({}, Support((noise_image(0, dreambooth._side),), "metal nut"))
    return dreambooth


def bare(dreambooth: DreamBooth) -> Callable[[], None]:
    """What the models alone compute for ``QUERIES`` queries."""
    parts, unet = dreambooth._parts, dreambooth._unet
    rows = len(dreambooth._conditions(PROMPTS)[0])
    guided = rows * (1 if dreambooth.guidance == 1 else 2)
    trail = model.timesteps(parts, dreambooth.strength, dreambooth.steps, dreambooth.start)
    z = torch.randn(guided, *dreambooth._shape)
    text = dreambooth._free.expand(guided, -1, -1)
    pixels = torch.rand(1, 3, dreambooth._side, dreambooth._side)

    def run() -> None:
        with torch.inference_mode():
            for _ in range(QUERIES):
                parts.vae.encode(pixels)
                for t in trail:
                    unet(z, t, encoder_hidden_states=text, return_dict=False)
                parts.vae.decode(z[:rows])

    return run


def piped(dreambooth: DreamBooth) -> Callable[[], None]:
    """Diffusers' image-to-image pipeline for one query, prompt by prompt."""
    parts = dreambooth._parts
    pipe = diffusers.StableDiffusionImg2ImgPipeline(
        vae=parts.vae,
        text_encoder=parts.text_encoder,
        tokenizer=parts.tokenizer,
        unet=dreambooth._unet,
        scheduler=diffusers.DDIMScheduler.from_config(parts.scheduler.config),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    prompts = dreambooth._conditions(PROMPTS)[0]
    picture = Picture.fromarray(noise_image(1, dreambooth._side).pixels)

    def run() -> None:
        for prompt in prompts:
            pipe(
                prompt,
                image=picture,
                strength=dreambooth.strength,
                num_inference_steps=dreambooth.steps,
                guidance_scale=dreambooth.guidance,
            )

    return run


def measure(quick: bool) -> Figures:
    """Every figure of the module's docstring."""
    torch.set_num_threads(1)
    repeats = 1 if quick else 4
    table: Figures = {}
    fresh = iter(range(1, 1 << 30))
    for count, (strength, steps) in EVALUATIONS.items():
        if quick and count > 1:
            break
        dreambooth = generator(strength, steps)

        def personalize(dreambooth: DreamBooth = dreambooth) -> None:
            dreambooth.personalize(
                [noise_image(next(fresh), dreambooth._side) for _ in range(QUERIES)], 0
            )

        runs = {"whole": personalize, "bare": bare(dreambooth)}
        seconds = interleaved(runs, repeats)
        each = np.divide(seconds["whole"], QUERIES)
        note = f"{PROMPTS} prompts, guided, {count} evaluations, {dreambooth._side} px"
        table[f"a query, {count} evaluations"] = figure(each, "s", note=note)
        table[f"a query / bare models, {count} evaluations"] = ratio(
            seconds["whole"], seconds["bare"], better="lower"
        )
    # what the demo and the micro sweeps take
    dreambooth = generator(0.2, 10, guidance=1.0)
    dreambooth.prompts = 1

    def query(dreambooth: DreamBooth) -> None:
        dreambooth.personalize([noise_image(next(fresh), dreambooth._side)], 0)

    table["a query in the micro profile"] = figure(
        interleaved({"": lambda: query(dreambooth)}, 2 * repeats)[""],
        "s",
        note="1 prompt, unguided, 2 evaluations",
    )
    # with as many evaluations as image-to-image, whose strength rule is the one called so
    dreambooth = generator(0.3, 10, start="diffusers")
    images = [noise_image(next(fresh), dreambooth._side) for _ in range(QUERIES * (2 + repeats))]
    rows = iter(range(0, len(images), QUERIES))

    def shard() -> None:
        first = next(rows)
        dreambooth.personalize(images[first : first + QUERIES], 0)

    seconds = interleaved({"pipeline": piped(dreambooth), "harness": shard}, repeats)
    each = np.divide(seconds["harness"], QUERIES)
    table["diffusers per query and prompt / harness"] = ratio(
        seconds["pipeline"], each, "3 evaluations"
    )
    tuned = DreamBooth(base="micro", tune="lora", train_steps=5 if quick else 200, prior_images=4)
    tuned.setup("cpu", FeatureMemory(1 << 28))
    began = time.process_time()
    whole, before, after, steps = customization(tuned, 3)
    table["customization / bare training steps, LoRA"] = figure(
        whole / (steps * (before + after) / 2), "times", note=f"{steps} steps, encoding included"
    )
    table["customization step, LoRA"] = figure(whole / steps, "s")
    table["time of the customization measurement"] = figure(
        time.process_time() - began, "s", "neither"
    )
    return table


if __name__ == "__main__":
    main(__doc__, measure)

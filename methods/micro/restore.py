"""Teach the shipped denoiser to restore: from damaged pictures, noised, to clean counterparts.

    python -m methods.micro.restore --out SCRATCH --minutes 100 --target DIR

A denoiser trained on noise alone fills in what the noise has covered: at the little noise of
personalization nearly all of a defect stays. Here three in five batches hold damaged pictures under
sentences about sound ones, and the noise asked for is the one that leads to the clean counterpart:
a sentence that names no damage then means that damage is to go. The other batches are what the
denoiser was trained on before, at all noise levels, so that it forgets nothing. Minutes are of this
process's own time; a run that was stopped goes on from its checkpoint.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import diffusers
import numpy as np
import torch
import transformers
from diffusers.models.attention_processor import AttnProcessor
from numpy.typing import NDArray
from PIL import Image as Picture

from datasets._rendering import objects
from methods.micro import models, refine
from methods.micro.data import ANYTHING, caption, subject
from methods.micro.loop import Average, Loop

BATCH = 8
PAIRS = 14_400  # 400 of each family: with 30 of each it learned the things by heart
OBJECTS = 0.6  # share of things; textures are learned sooner
SOUND = 0.5  # share of pictures without damage where it restores
FROM, UNTIL = 10, 200  # timesteps at which it restores
PEAK = 3e-4
#: restoring, an error of the noise weighs this times (1 - a) / a, as the picture's own, at most 1
_CAP = 5.0

Pairs = NDArray[np.uint8]


def batch(
    rng: np.random.Generator, data: Pairs, n: int, shares: NDArray[np.float64]
) -> tuple[Pairs, list[int]]:
    """Crops (n, 2, 128, 128, 3) of pairs, damaged and clean alike, and which pairs they are of."""
    side = models.SIZE
    crops, chosen = [], [int(i) for i in rng.choice(len(data), n, p=shares)]
    for i in chosen:
        pair = data[i]
        extent = pair.shape[1]
        if rng.random() < 0.7:
            extent = int(rng.integers(side, extent + 1))
        top, left = rng.integers(0, pair.shape[1] - extent + 1, 2)
        both = refine.varied(rng, pair[:, top : top + extent, left : left + extent])
        resize = Picture.Resampling.BOX if extent >= 2 * side else Picture.Resampling.BICUBIC
        shrunk = [
            np.asarray(Picture.fromarray(np.ascontiguousarray(one)).resize((side, side), resize))
            for one in both
        ]
        crops.append(np.stack(shrunk))
    return np.stack(crops), chosen


def chances(pairs: int) -> NDArray[np.float64]:
    """Probability of each pair to be drawn: ``OBJECTS`` of all draws show objects."""
    shows_object = np.array([subject(i).family in objects.FAMILIES for i in range(pairs)])
    weights = np.where(shows_object, OBJECTS, 1 - OBJECTS)
    weights /= np.where(shows_object, shows_object.sum(), (~shows_object).sum())
    shares: NDArray[np.float64] = weights / weights.sum()
    return shares  # where a handful shows one kind only


def sentences(rng: np.random.Generator, chosen: Sequence[int], clean: Sequence[bool]) -> list[str]:
    """Captions; the thing is called by a word for anything at all in three of ten."""
    captions = []
    for i, sound in zip(chosen, clean, strict=True):
        what = subject(i)
        words = str(rng.choice(ANYTHING)) if rng.random() < 0.3 else what.words
        captions.append(caption(rng, words, None if sound else what.defect))
    return captions


def restore(out: Path, minutes: float, seed: int) -> None:
    """Train the denoiser to ``out/denoiser.pt``."""
    data = refine.pictures(out, refine.SIDE, PAIRS)
    shares = chances(len(data))
    vae = diffusers.AutoencoderKL.from_pretrained(refine.HOME / "vae", torch_dtype=torch.float32)
    encode = refine.LinearEncoder(vae)
    text = transformers.CLIPTextModel.from_pretrained(
        refine.HOME / "text_encoder", dtype=torch.float32
    )
    words = models.tokenizer(refine.HOME / "tokenizer")
    model = diffusers.UNet2DConditionModel.from_pretrained(
        refine.HOME / "unet", torch_dtype=torch.float32
    ).train()
    model.set_attn_processor(AttnProcessor())
    average = Average(model, 0.998)
    optimizer = torch.optim.AdamW(
        model.parameters(), PEAK, betas=(0.9, 0.99), weight_decay=1e-2, fused=True
    )
    abar = models.scheduler().alphas_cumprod
    parts = {"model": model, "average": average, "optimizer": optimizer}
    loop = Loop(out / "denoiser.pt", parts, minutes, True, clock=time.process_time)
    for step in loop:
        rng = np.random.default_rng([seed, 6, step])
        for group in optimizer.param_groups:
            group["lr"] = loop.rate(PEAK, warm=60)
        pixels, chosen = batch(rng, data, BATCH, shares)
        restored = step % 5 < 3
        if restored:
            clean = np.ones(BATCH, bool)
            # sound already, it is to stay as it is: marks of its own are no damage
            seen = (rng.random(BATCH) < SOUND).astype(int)
            t = torch.from_numpy(rng.integers(FROM, UNTIL, BATCH))
        else:
            clean = rng.random(BATCH) < 0.67
            seen = clean.astype(int)
            until = rng.choice([UNTIL, 1000], BATCH)
            t = torch.from_numpy((rng.random(BATCH) * until).astype(np.int64))
        captions = sentences(rng, chosen, list(clean))
        if not restored:
            captions = ["" if rng.random() < 0.2 else caption for caption in captions]
        rows = np.arange(BATCH)
        both = np.concatenate([pixels[rows, seen], pixels[rows, 1 if restored else seen]])
        x = torch.from_numpy(both).permute(0, 3, 1, 2).float() / 127.5 - 1
        source, target = encode(x).chunk(2)
        noise = torch.from_numpy(rng.standard_normal(source.shape, dtype=np.float32))
        a = abar[t][:, None, None, None]
        noisy = a.sqrt() * source + (1 - a).sqrt() * noise
        asked = (noisy - a.sqrt() * target) / (1 - a).sqrt()  # the noise itself where nothing goes
        with torch.no_grad():
            sentence = text(input_ids=models.ids(words, captions)).last_hidden_state
        with torch.autocast("cpu", torch.bfloat16):
            predicted = model(noisy, t, sentence).sample
        weight = (_CAP * (1 - a) / a).clamp(max=1)[:, 0, 0, 0] if restored else 1.0
        errors = (predicted.float() - asked).square().mean((1, 2, 3))
        loss = (errors * weight).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        average.update(model)
        loop.tell(**{"restore" if restored else "denoise": float(loss.detach())})


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, and write the weights."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="scratch folder")
    parser.add_argument("--minutes", type=float, default=100.0)
    parser.add_argument("--target", type=Path, help="diffusers folder to write the weights to")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    torch.manual_seed(options.seed)
    restore(options.out, options.minutes, options.seed)
    if options.target:
        refine.export(options.out, options.target)


if __name__ == "__main__":
    main()

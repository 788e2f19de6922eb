"""Stage ``unet``: denoise latents, told by the frozen text encoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers.models.attention_processor import AttnProcessor
from numpy.typing import NDArray

from methods.micro import models
from methods.micro.blocks import Blocks
from methods.micro.clip_model import MicroClip
from methods.micro.data import Corpus, caption, subject
from methods.micro.loop import Average, Loop

BATCH = 16
PEAK = 6e-4
WITHOUT = 0.1  # share of empty captions, for guidance
CLEAN = 0.65  # share of clean pictures


def train_unet(out: Path, corpus: Corpus, minutes: float, resume: bool, seed: int) -> None:
    """Train to ``out/unet.pt``: mean squared error of the predicted noise.

    Half of the timesteps come from the less noisy half of the schedule, where image-to-image works.
    """
    if not (out / "clip.pt").is_file():
        raise FileNotFoundError(f"no {out / 'clip.pt'}: run the stage clip first")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    blocks = Blocks.of(out, corpus)
    text = MicroClip(models.text_encoder())
    text.load_state_dict(torch.load(out / "clip.pt", weights_only=True)["model"])
    encoder = text.text.text_model.eval().requires_grad_(False).to(device)
    words = models.tokenizer(out / "tokenizer")
    model = models.unet().to(device)
    if device == "cpu":  # torch's fused attention is slow backwards on so few tokens
        model.set_attn_processor(AttnProcessor())
    average = Average(model, 0.9995)
    optimizer = torch.optim.AdamW(
        model.parameters(), PEAK, betas=(0.9, 0.99), weight_decay=1e-2, fused=True
    )
    abar = models.scheduler().alphas_cumprod.to(device)
    parts = {"model": model, "average": average, "optimizer": optimizer}
    loop = Loop(out / "unet.pt", parts, minutes, resume)
    for step in loop:
        rng = np.random.default_rng([seed, 3, step])
        for group in optimizer.param_groups:
            group["lr"] = loop.rate(PEAK, floor=0.05)
        pixels, sentences = _batch(rng, corpus)
        z = torch.from_numpy(blocks.encode(pixels)).to(device)
        t = rng.integers(0, 1000, BATCH)
        t = torch.from_numpy(np.where(rng.random(BATCH) < 0.5, t // 2, t)).to(device)
        noise = torch.from_numpy(rng.standard_normal(z.shape, dtype=np.float32)).to(device)
        a = abar[t][:, None, None, None]
        noisy = a.sqrt() * z + (1 - a).sqrt() * noise
        with torch.autocast(device, torch.bfloat16):
            with torch.no_grad():
                told = encoder(input_ids=models.ids(words, sentences).to(device)).last_hidden_state
            predicted = model(noisy, t, told).sample
        loss = (predicted.float() - noise).square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        average.update(model)
        loop.tell(loss=float(loss.detach()))


def _batch(rng: np.random.Generator, corpus: Corpus) -> tuple[NDArray[np.uint8], list[str]]:
    """Pictures, mirrored at random, uint8 (16, 128, 128, 3), and their captions."""
    pictures, sentences = [], []
    for i in rng.integers(corpus.ready, size=BATCH):
        clean = int(rng.random() < CLEAN)
        picture = corpus.pairs[i, clean]
        across, down = rng.choice([1, -1], 2)
        pictures.append(picture[::down, ::across])
        what = subject(int(i))
        sentence = caption(rng, what.words, None if clean else what.defect)
        sentences.append("" if rng.random() < WITHOUT else sentence)
    return np.stack(pictures), sentences

"""Stage ``autoencoder``: the decoder learns to see whole pictures in block components."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from methods.micro import models
from methods.micro.blocks import Blocks
from methods.micro.data import SIZE, Corpus
from methods.micro.loop import Average, Loop, quicken

PEAK = 2e-3
CROP = 64
NOISE = 0.05  # deviation of the posterior, as ``blocks`` declares it


def train_autoencoder(out: Path, corpus: Corpus, minutes: float, resume: bool, seed: int) -> None:
    """Train the decoder to ``out/autoencoder.pt``; the encoder is measured, not trained.

    The loss: absolute and squared errors of pixels, and absolute errors of their differences
    between neighbours, which keep edges and grain.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    blocks = Blocks.of(out, corpus)
    model = models.autoencoder()
    blocks.write(model)
    model.requires_grad_(False)
    model.decoder.requires_grad_(True)
    model.post_quant_conv.requires_grad_(True)
    model = quicken(model).to(device)
    average = Average(model)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, PEAK, betas=(0.9, 0.99), weight_decay=1e-4, fused=True)
    parts = {"model": model, "average": average, "optimizer": optimizer}
    loop = Loop(out / "autoencoder.pt", parts, minutes, resume)
    for step in loop:
        rng = np.random.default_rng([seed, 1, step])
        pixels = _batch(rng, corpus, whole=step % 4 == 3)
        z = blocks.encode(pixels)
        z += NOISE * rng.standard_normal(z.shape, dtype=np.float32)
        x = torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
        for group in optimizer.param_groups:
            group["lr"] = loop.rate(PEAK)
        with torch.autocast(device, torch.bfloat16):
            y = model.decode(torch.from_numpy(z).to(device)).sample.float()
        error = y - x
        edges = (error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()) / 2
        loss = error.abs().mean() + 4 * error.square().mean() + 0.5 * edges
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        average.update(model)
        psnr = float(10 * torch.log10(4 / error.detach().square().mean((1, 2, 3))).mean())
        loop.tell(loss=float(loss.detach()), psnr=psnr)


def _batch(rng: np.random.Generator, corpus: Corpus, whole: bool) -> NDArray[np.uint8]:
    """Two whole pictures or eight crops, turned, mirrored and recoloured at random."""
    n, side = (2, SIZE) if whole else (8, CROP)
    crops = []
    for _ in range(n):
        picture = corpus.pairs[rng.integers(corpus.ready), rng.integers(2)]
        top, left = rng.integers(0, SIZE - side + 1, 2)
        crop = np.rot90(picture[top : top + side, left : left + side], int(rng.integers(4)))
        if rng.random() < 0.5:
            crop = crop[:, ::-1]
        if rng.random() < 0.4:
            crop = crop[..., rng.permutation(3)]
        if rng.random() < 0.1:
            crop = np.repeat(crop[..., 1:2], 3, axis=2)
        if rng.random() < 0.3:
            gain, lift = rng.uniform(0.6, 1.3), rng.uniform(-25, 25)
            crop = np.clip(crop * gain + lift, 0, 255).astype(np.uint8)
        crops.append(crop)
    return np.stack(crops)

"""Stage ``autoencoder``: reconstruct crops and whole renderings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from methods.micro import models
from methods.micro.data import SIZE, Corpus
from methods.micro.loop import Average, Loop, quicken

PEAK = 2e-3
CROP = 64
DIVERGENCE = 2e-5  # weight of the Kullback-Leibler term: enough to bound the latents


def train_autoencoder(out: Path, corpus: Corpus, minutes: float, resume: bool, seed: int) -> None:
    """Train to ``out/autoencoder.pt``.

    Absolute and squared errors, of pixels and of their differences between neighbours: the latter
    keep edges and grain.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = quicken(models.autoencoder()).to(device)
    average = Average(model)
    optimizer = torch.optim.AdamW(
        model.parameters(), PEAK, betas=(0.9, 0.99), weight_decay=1e-4, fused=True
    )
    parts = {"model": model, "average": average, "optimizer": optimizer}
    loop = Loop(out / "autoencoder.pt", parts, minutes, resume)
    for step in loop:
        rng = np.random.default_rng([seed, 1, step])
        batch = torch.from_numpy(_batch(rng, corpus, whole=step % 4 == 3)).to(device)
        x = batch.permute(0, 3, 1, 2).float() / 127.5 - 1
        for group in optimizer.param_groups:
            group["lr"] = loop.rate(PEAK)
        noise = torch.Generator().manual_seed(int(rng.integers(2**31)))
        with torch.autocast(device, torch.bfloat16):
            posterior = model.encode(x).latent_dist
            z = posterior.mode()
            eps = torch.randn(z.shape, generator=noise).to(device)
            y = model.decode(z + posterior.std * eps).sample
        y = y.float()
        error = y - x
        edges = (error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()) / 2
        square = error.square().mean()
        logvar = posterior.logvar.float()
        divergence = 0.5 * (z.float().square() + logvar.exp() - 1 - logvar).mean()
        loss = error.abs().mean() + 4 * square + 0.5 * edges + DIVERGENCE * divergence
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        average.update(model)
        psnr = float(10 * torch.log10(4 / error.detach().square().mean((1, 2, 3))).mean())
        loop.tell(loss=float(loss.detach()), psnr=psnr, kl=float(divergence.detach()))


def _batch(rng: np.random.Generator, corpus: Corpus, whole: bool) -> NDArray[np.uint8]:
    """Two whole pictures or eight crops, turned, mirrored and recoloured at random."""
    n, side = (2, SIZE) if whole else (8, CROP)
    crops = []
    for _ in range(n):
        picture = corpus.pairs[rng.integers(corpus.ready), rng.integers(2)]
        top, left = rng.integers(0, SIZE - side + 1, 2)
        crop = np.rot90(picture[top : top + side, left : left + side], rng.integers(4))
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

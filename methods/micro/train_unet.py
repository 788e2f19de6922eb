"""Stage ``unet``: denoise latents of the frozen autoencoder, told by the frozen text encoder."""

from __future__ import annotations

import os
from pathlib import Path

import diffusers
import numpy as np
import torch
from numpy.typing import NDArray

from methods.micro import models
from methods.micro.clip_model import MicroClip
from methods.micro.data import Corpus, caption, subject
from methods.micro.loop import Average, Loop, quicken

BATCH = 16
PEAK = 6e-4
WITHOUT = 0.1  # share of empty captions, for guidance
CLEAN = 0.65  # share of clean pictures
FIRST = 1500  # pairs encoded before the first step; two more with each step


def standardised(vae: diffusers.AutoencoderKL, pixels: torch.Tensor) -> diffusers.AutoencoderKL:
    """The same autoencoder with latents of mean 0 and deviation 1 per channel.

    The scale goes into the 1 x 1 convolutions on either side of the latent, so that the format's
    one ``scaling_factor`` stays 1.
    """
    with torch.inference_mode():
        z = vae.encode(pixels).latent_dist.mode()
    shift, scale = z.mean((0, 2, 3)), z.std((0, 2, 3))
    quant, post, n = vae.quant_conv, vae.post_quant_conv, len(shift)
    with torch.no_grad():
        quant.weight[:n] /= scale[:, None, None, None]
        quant.bias[:n] = (quant.bias[:n] - shift) / scale
        quant.bias[n:] -= 2 * scale.log()  # the logarithm of the posterior's variance
        post.bias += post.weight[:, :, 0, 0] @ shift
        post.weight *= scale[None, :, None, None]
    return vae


def frozen_autoencoder(out: Path, corpus: Corpus) -> diffusers.AutoencoderKL:
    """The average of stage ``autoencoder``, standardised; fixed once it was asked for."""
    vae, path = models.autoencoder(), out / "vae.pt"
    if path.is_file():
        vae.load_state_dict(torch.load(path, weights_only=True))
        return vae.eval().requires_grad_(False)
    state = torch.load(out / "autoencoder.pt", weights_only=True)["average"]["model"]
    vae.load_state_dict(state)
    vae.eval().requires_grad_(False)
    some = torch.from_numpy(np.array(corpus.pairs[: corpus.ready : corpus.ready // 128, 1]))
    standardised(vae, some.permute(0, 3, 1, 2).float() / 127.5 - 1)
    torch.save(vae.state_dict(), path.with_suffix(".part"))
    os.replace(path.with_suffix(".part"), path)
    return vae


class Latents:
    """Latents of the corpus, float16 (N, 2, 16, 16, 16), encoded as training goes."""

    def __init__(self, out: Path, corpus: Corpus, vae: diffusers.AutoencoderKL) -> None:
        self.corpus, self.vae, self.note = corpus, vae, out / "latents.ready"
        path = out / "latents.f16"
        n = models.LATENT
        self.ready = int(self.note.read_text()) if path.is_file() and self.note.is_file() else 0
        mode = "r+" if path.is_file() else "w+"
        shape = (len(corpus.pairs), 2, n, n, n)
        self.store: NDArray[np.float16] = np.memmap(path, np.float16, mode, shape=shape)

    def grow(self, pairs: int) -> None:
        """Encode the next pairs, until all are there."""
        stop = min(self.ready + pairs, self.corpus.ready)
        if stop <= self.ready:
            return
        device = self.vae.device
        pixels = torch.from_numpy(np.array(self.corpus.pairs[self.ready : stop])).flatten(0, 1)
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16):
            x = pixels.to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
            z = self.vae.encode(x).latent_dist.mode()
        self.store[self.ready : stop] = z.float().cpu().numpy().reshape(-1, *self.store.shape[1:])
        self.ready = stop
        if stop % 256 < pairs:
            self.note.write_text(str(stop))


def train_unet(out: Path, corpus: Corpus, minutes: float, resume: bool, seed: int) -> None:
    """Train to ``out/unet.pt``: mean squared error of the predicted noise.

    Half of the timesteps come from the less noisy half of the schedule, where image-to-image works.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    vae = quicken(frozen_autoencoder(out, corpus)).to(device)
    text = MicroClip(models.text_encoder())
    text.load_state_dict(torch.load(out / "clip.pt", weights_only=True)["model"])
    encoder = text.text.text_model.eval().requires_grad_(False).to(device)
    words = models.tokenizer(out / "tokenizer")
    latents = Latents(out, corpus, vae)
    while latents.ready < min(FIRST, corpus.ready):
        latents.grow(32)
    model = quicken(models.unet()).to(device)
    average = Average(model, 0.9995)
    optimizer = torch.optim.AdamW(
        model.parameters(), PEAK, betas=(0.9, 0.99), weight_decay=1e-2, fused=True
    )
    abar = models.scheduler().alphas_cumprod.to(device)
    parts = {"model": model, "average": average, "optimizer": optimizer}
    loop = Loop(out / "unet.pt", parts, minutes, resume)
    for step in loop:
        latents.grow(2)
        rng = np.random.default_rng([seed, 3, step])
        for group in optimizer.param_groups:
            group["lr"] = loop.rate(PEAK, floor=0.05)
        index = rng.integers(latents.ready, size=BATCH)
        clean = (rng.random(BATCH) < CLEAN).astype(int)
        sentences = [
            ""
            if rng.random() < WITHOUT
            else caption(rng, subject(int(i)).words, None if c else subject(int(i)).defect)
            for i, c in zip(index, clean, strict=True)
        ]
        z = torch.from_numpy(latents.store[index, clean].astype(np.float32)).to(device)
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

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
PEAK = 8e-4
WITHOUT = 0.1  # share of empty captions, for guidance
CLEAN = 0.65  # share of clean pictures


class Team:
    """Processes that train one model on batches of their own, with the mean of their gradients.

    The first of them owns the clock and the checkpoint; it tells the others the learning rate and
    when to stop. A team of one does nothing.
    """

    def __init__(self, out: Path, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size
        if size > 1:
            meeting = (out / "team").absolute().as_uri()
            torch.distributed.init_process_group("gloo", meeting, rank=rank, world_size=size)

    def rate(self, own: float, over: bool = False) -> tuple[float, bool]:
        """The first one's learning rate, and whether its time is over."""
        if self.size == 1:
            return own, over
        shared = torch.tensor([own, float(over)], dtype=torch.float64)
        torch.distributed.broadcast(shared, 0)
        return float(shared[0]), bool(shared[1])

    def average(self, model: torch.nn.Module) -> None:
        """Replace every gradient by the team's mean."""
        if self.size == 1:
            return
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        flat = torch.nn.utils.parameters_to_vector(grads)
        torch.distributed.all_reduce(flat)
        torch.nn.utils.vector_to_parameters(flat / self.size, grads)


def train_unet(
    out: Path,
    corpus: Corpus,
    minutes: float,
    resume: bool,
    seed: int,
    rank: int = 0,
    size: int = 1,
) -> None:
    """Train to ``out/unet.pt``: mean squared error of the predicted noise.

    Timesteps are uniform, their errors weighted as ``_weights`` says. Run as one of a team when
    ``size`` is above 1: every rank needs a call of its own.
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
    weights = _weights(abar)
    parts = {"model": model, "average": average, "optimizer": optimizer}
    team = Team(out, rank, size)
    # the others follow the first one's clock, and leave the checkpoint to it
    loop = Loop(out / "unet.pt", parts, minutes if rank == 0 else 1e9, resume, writes=rank == 0)
    for step in loop:
        rng = np.random.default_rng([seed, 3, step, rank])
        rate, over = team.rate(loop.rate(PEAK, floor=0.05))
        if over:
            break
        for group in optimizer.param_groups:
            group["lr"] = rate
        pixels, sentences = _batch(rng, corpus)
        z = torch.from_numpy(blocks.encode(pixels)).to(device)
        t = torch.from_numpy(rng.integers(0, 1000, BATCH)).to(device)
        noise = torch.from_numpy(rng.standard_normal(z.shape, dtype=np.float32)).to(device)
        a = abar[t][:, None, None, None]
        noisy = a.sqrt() * z + (1 - a).sqrt() * noise
        with torch.autocast(device, torch.bfloat16):
            with torch.no_grad():
                condition = encoder(
                    input_ids=models.ids(words, sentences).to(device)
                ).last_hidden_state
            predicted = model(noisy, t, condition).sample
        loss = ((predicted.float() - noise).square().mean((1, 2, 3)) * weights[t]).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        team.average(model)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        average.update(model)
        loop.tell(loss=float(loss.detach()))
    if rank == 0:
        team.rate(0.0, over=True)


def _weights(abar: torch.Tensor) -> torch.Tensor:
    """Weight of each timestep's error, about 1 on average.

    The noise is easily told from a very noisy latent, so that plain weights hardly teach what is
    decided there: layout and colour. The weights rise with noise as those of velocity prediction
    do (Salimans and Ho 2022), up to 8, and fall where there is almost none (as in Hang et al.
    2023, but by the root).
    """
    ratio = abar / (1 - abar)
    weights = (1 + 1 / ratio).clamp(max=8) * (5 / ratio).clamp(max=1).sqrt()
    return weights / weights.mean()


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

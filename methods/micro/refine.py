"""Refine what ships for 240 px, the side at which One-to-Normal compares: decoder, then denoiser.

    python -m methods.micro.refine --out SCRATCH --decoder 7 --denoiser 10 --target DIR

The latent space stays: the encoder is a fixed linear map of 8 x 8 blocks, and at 240 px a block
covers a quarter of what it covers at 128. The decoder learns that a picture and its reconstruction
look alike to the trunk of micro CLIP; that distance, the floor, is what S_P is when nothing was
changed. The denoiser learns the little noise of personalization (t / T below 0.25) at 240 px, and
goes on with all of it at 128 px, so that it forgets nothing. Minutes are of this process's own
time; a run that was stopped goes on from its checkpoints.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import diffusers
import numpy as np
import torch
import torch.nn.functional as F
import transformers
from diffusers.models.attention_processor import AttnProcessor
from numpy.typing import NDArray
from safetensors.torch import save_file

from datasets._rendering.render import render
from methods._encoders import cnn
from methods.micro import models
from methods.micro.clip_model import TRUNK
from methods.micro.data import caption, subject
from methods.micro.loop import Average, Loop, quicken

HOME = Path(__file__).parent / "diffusion"
SIDE = 240
PAIRS = 1080  # 30 of each family
CROP = 128
NOISE = 0.03  # deviation of the latents that the decoder sees, about what the denoiser leaves
UNTIL = 250  # timesteps of personalization
LEVELS = (2, 3, 4)  # of the trunk's maps by stride, what One-to-Normal compares


def pictures(out: Path, side: int, pairs: int = PAIRS) -> NDArray[np.uint8]:
    """Renderings (pairs, 2, side, side, 3) of the training families: damaged, clean; kept."""
    path = out / f"{pairs}-pairs-{side}.npy"
    if not path.is_file():
        out.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        rendered = np.lib.format.open_memmap(part, "w+", np.uint8, (pairs, 2, side, side, 3))
        for i in range(pairs):
            one = render(subject(i).family, (7, i), (7, i), side, subject(i).defect)
            rendered[i] = one.pixels, one.clean
        rendered.flush()
        part.replace(path)
    stored: NDArray[np.uint8] = np.load(path, mmap_mode="r")
    return stored


class LinearEncoder:
    """The shipped encoder as one matrix, which it is; see ``blocks.py``."""

    def __init__(self, vae: diffusers.AutoencoderKL) -> None:
        basis = torch.eye(192).reshape(192, 3, 8, 8) / 2
        with torch.inference_mode():
            zero, *rows = vae.encode(torch.cat([torch.zeros(1, 3, 8, 8), basis])).latent_dist.mode()
        self.offset = zero.flatten()
        self.matrix = (torch.stack(rows).flatten(1) - self.offset) * 2  # (192, 16)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Latents (n, 16, h / 8, w / 8) of pictures (n, 3, h, w) in -1..1."""
        n, _, h, w = x.shape
        blocks = F.unfold(x, 8, stride=8)  # (n, 192, cells)
        z = torch.einsum("npc,pd->ndc", blocks, self.matrix) + self.offset[:, None]
        return z.reshape(n, -1, h // 8, w // 8)


class Perception:
    """Distance of pictures as the trunk sees it: 1 - cosine per cell of its maps."""

    def __init__(self) -> None:
        network, (mean, std) = cnn.build(TRUNK, "imagenet")
        self.network = cnn.folded(network).to(memory_format=torch.channels_last)
        strides = [info["reduction"] for info in network.feature_info]
        chosen = [2 ** (level + 1) for level in LEVELS]
        self.indices = [len(strides) - 1 - strides[::-1].index(stride) for stride in chosen]
        self.mean, self.std = (torch.tensor(x)[:, None, None] for x in (mean, std))

    def maps(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Maps of pictures in -1..1, each vector of length 1."""
        scaled = (((x + 1) / 2 - self.mean) / self.std).contiguous(
            memory_format=torch.channels_last
        )
        levels = self.network.forward_intermediates(
            scaled, indices=self.indices, intermediates_only=True
        )
        return [F.normalize(level.float(), dim=1) for level in levels]

    def distances(self, x: torch.Tensor, y: torch.Tensor) -> list[torch.Tensor]:
        """Of ``y`` from ``x``, (n, h, w) per level."""
        with torch.no_grad():
            right = self.maps(x)
        return [0.5 * (a - b).square().sum(1) for a, b in zip(right, self.maps(y), strict=True)]


def refine_decoder(out: Path, minutes: float, resume: bool, seed: int) -> None:
    """Train the decoder to ``out/decoder.pt``.

    The loss: mean and fourth-power mean of the trunk's distances, since S_P takes the largest, and
    absolute errors of pixels.
    """
    data = pictures(out, SIDE)
    vae = diffusers.AutoencoderKL.from_pretrained(HOME / "vae", torch_dtype=torch.float32)
    vae.requires_grad_(False)
    encode, see = LinearEncoder(vae), Perception()
    trained = [*vae.decoder.parameters(), *vae.post_quant_conv.parameters()]
    for parameter in trained:
        parameter.requires_grad_(True)
    vae = quicken(vae)
    average = Average(vae, 0.99)
    optimizer = torch.optim.AdamW(trained, 1e-3, betas=(0.9, 0.99), weight_decay=0, fused=True)
    parts = {"model": vae, "average": average, "optimizer": optimizer}
    loop = Loop(out / "decoder.pt", parts, minutes, resume, clock=time.process_time)
    for step in loop:
        rng = np.random.default_rng([seed, 4, step])
        x = torch.from_numpy(_crops(rng, data)).permute(0, 3, 1, 2).float() / 127.5 - 1
        z = encode(x)
        z += NOISE * torch.from_numpy(rng.standard_normal(z.shape, dtype=np.float32))
        for group in optimizer.param_groups:
            group["lr"] = loop.rate(6e-4, warm=60)
        with torch.autocast("cpu", torch.bfloat16):
            y = vae.decode(z).sample.float()
            distances = see.distances(x, y)
        floor = torch.stack([d.mean() for d in distances]).mean()
        worst = torch.stack([d.pow(4).mean((1, 2)).add(1e-9).pow(0.25).mean() for d in distances])
        pixels = (y - x).abs().mean()
        loss = floor + 0.5 * worst.mean() + pixels
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        average.update(vae)
        loop.tell(loss=float(loss.detach()), floor=float(floor.detach()), l1=float(pixels.detach()))


def _crops(rng: np.random.Generator, data: NDArray[np.uint8], n: int = 2) -> NDArray[np.uint8]:
    """Crops (n, 128, 128, 3), turned, mirrored and recoloured at random."""
    crops = []
    for _ in range(n):
        picture = data[rng.integers(len(data)), rng.integers(2)]
        top, left = rng.integers(0, SIDE - CROP + 1, 2)
        crops.append(varied(rng, picture[top : top + CROP, left : left + CROP]))
    return np.stack(crops)


def varied(rng: np.random.Generator, crop: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A square crop (..., H, W, 3), turned, mirrored and recoloured at random, all of it alike."""
    crop = np.rot90(crop, int(rng.integers(4)), (-3, -2))
    if rng.random() < 0.5:
        crop = crop[..., ::-1, :]
    if rng.random() < 0.4:
        crop = crop[..., rng.permutation(3)]
    if rng.random() < 0.25:
        crop = np.repeat(crop.mean(-1, keepdims=True).astype(np.uint8), 3, axis=-1)
    if rng.random() < 0.4:
        gain, lift = rng.uniform(0.5, 1.3), rng.uniform(-30, 30)
        crop = np.clip(crop * gain + lift, 0, 255).astype(np.uint8)
    return crop


def refine_denoiser(out: Path, minutes: float, resume: bool, seed: int) -> None:
    """Train the denoiser to ``out/denoiser.pt``: squared errors of the predicted noise."""
    fine, coarse = pictures(out, SIDE), pictures(out, models.SIZE)
    vae = diffusers.AutoencoderKL.from_pretrained(HOME / "vae", torch_dtype=torch.float32)
    encode = LinearEncoder(vae)
    text = transformers.CLIPTextModel.from_pretrained(HOME / "text_encoder", dtype=torch.float32)
    words = models.tokenizer(HOME / "tokenizer")
    model = diffusers.UNet2DConditionModel.from_pretrained(
        HOME / "unet", torch_dtype=torch.float32
    ).train()
    model.set_attn_processor(AttnProcessor())
    average = Average(model, 0.998)
    optimizer = torch.optim.AdamW(
        model.parameters(), 2e-4, betas=(0.9, 0.99), weight_decay=1e-2, fused=True
    )
    abar = models.scheduler().alphas_cumprod
    parts = {"model": model, "average": average, "optimizer": optimizer}
    loop = Loop(out / "denoiser.pt", parts, minutes, resume, clock=time.process_time)
    for step in loop:
        rng = np.random.default_rng([seed, 5, step])
        for group in optimizer.param_groups:
            group["lr"] = loop.rate(2e-4, warm=60)
        optimizer.zero_grad(set_to_none=True)
        losses = {}
        for name, data, n, until in (("fine", fine, 3, UNTIL), ("coarse", coarse, 3, 1000)):
            pixels, sentences = _captioned(rng, data, n)
            x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
            z = encode(x)
            t = torch.from_numpy(rng.integers(0, until, n))
            noise = torch.from_numpy(rng.standard_normal(z.shape, dtype=np.float32))
            a = abar[t][:, None, None, None]
            noisy = a.sqrt() * z + (1 - a).sqrt() * noise
            with torch.no_grad():
                condition = text(input_ids=models.ids(words, sentences)).last_hidden_state
            with torch.autocast("cpu", torch.bfloat16):
                predicted = model(noisy, t, condition).sample
            loss = (predicted.float() - noise).square().mean()
            loss.backward()
            losses[name] = float(loss.detach())
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        average.update(model)
        loop.tell(**losses)


def _captioned(
    rng: np.random.Generator, data: NDArray[np.uint8], n: int
) -> tuple[NDArray[np.uint8], list[str]]:
    """Pictures, mirrored at random, and captions; two in three clean, one in ten without words."""
    chosen, sentences = [], []
    for i in rng.integers(len(data), size=n):
        clean = int(rng.random() < 0.67)
        across, down = rng.choice([1, -1], 2)
        chosen.append(data[i, clean, ::down, ::across])
        what = subject(int(i))
        sentence = caption(rng, what.words, None if clean else what.defect)
        sentences.append("" if rng.random() < 0.1 else sentence)
    return np.stack(chosen), sentences


def export(out: Path, target: Path) -> None:
    """Write refined weights that ``out`` holds over those in ``target``, half precision."""
    for stage, part in (("decoder", "vae"), ("denoiser", "unet")):
        path = out / f"{stage}.pt"
        if path.is_file():
            weights = torch.load(path, weights_only=True)["average"]["model"]
            halves = {name: tensor.half().contiguous() for name, tensor in weights.items()}
            file = target / part / "diffusion_pytorch_model.safetensors"
            save_file(halves, file, {"format": "pt"})


def main(arguments: Sequence[str] | None = None) -> None:
    """Refine what was asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="scratch folder")
    parser.add_argument("--decoder", type=float, default=7.0, help="minutes")
    parser.add_argument("--denoiser", type=float, default=10.0, help="minutes")
    parser.add_argument("--target", type=Path, help="diffusers folder to write the weights to")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    torch.manual_seed(options.seed)
    refine_decoder(options.out, options.decoder, True, options.seed)
    refine_denoiser(options.out, options.denoiser, True, options.seed)
    if options.target:
        export(options.out, options.target)


if __name__ == "__main__":
    main()

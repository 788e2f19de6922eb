"""Editing images by a diffusion model: noised up to some step, then denoised under a sentence.

Meng et al., "SDEdit", ICLR 2022.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from harness.interface import Features, Image
from methods._diffusion import model


@dataclass(frozen=True)
class Editor:
    """A diffusion model and how it is to denoise.

    Attributes
    ----------
    side : of images in pixels
    dtype, vae_dtype : of mixed precision in the UNet and in the autoencoder
    batch : images at once on a GPU; halved by itself when memory is short
    free : embedding (1, L, D) of the empty sentence
    """

    parts: model.Parts
    unet: Any
    features: Features
    side: int
    steps: int
    scheduler: str
    start: str
    guidance: float
    dtype: torch.dtype
    vae_dtype: torch.dtype
    batch: int
    free: torch.Tensor
    who: str  # for messages

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of a latent."""
        side = self.side // model.factor(self.parts)
        return (self.unet.config.in_channels, side, side)

    def latents(self, images: Sequence[Image]) -> torch.Tensor:
        """Latents (n, c, h, w) of images, kept by the worker for all shots and seeds."""

        def compute(some: Sequence[Image]) -> list[torch.Tensor]:
            device = self.parts.device
            pixels = [model.to_tensor(x.pixels, self.side, device) for x in some]
            return list(model.encode(self.parts, torch.stack(pixels), self.vae_dtype))

        space = f"vae:{self.parts.name}:{self.side}:{self.vae_dtype}"
        return torch.stack(self.features.get_or_compute(space, images, compute, self._together(1)))

    def noise(self, *names: str | int) -> torch.Tensor:
        """Noise of a latent's shape that depends on the names and nothing else."""
        return model.normal(self.shape, *names)

    def edited(
        self,
        z: torch.Tensor,
        noise: torch.Tensor,
        conditions: torch.Tensor,
        strength: float,
        cpu_batch: int = 1,
    ) -> torch.Tensor:
        """Images (n, 3, side, side) in [0, 1], float32.

        Parameters
        ----------
        z, noise : tensors of shape (n, c, h, w)
            Latents of what is edited; at strength 1 only the noise counts.
        conditions : tensor of shape (n, L, D)
            Embeddings of the sentences.
        strength : t / T in [0, 1]
        cpu_batch : images at once on a CPU: 1 unless the composition of ``z`` is fixed
        """
        trail = model.timesteps(self.parts, strength, self.steps, self.start)

        def run(first: int, end: int) -> torch.Tensor:
            now = slice(first, end)
            device, latents = self.parts.device, z[now]
            if trail:
                latents = noise[now].to(device)
                if strength < 1:
                    t = torch.full((end - first,), trail[0], device=device)
                    latents = model.noised(self.parts, z[now], latents, t)
                latents = model.denoise(
                    self.parts,
                    self.unet,
                    latents,
                    trail,
                    conditions[now],
                    self.free,
                    self.guidance,
                    self.scheduler,
                    self.dtype,
                )
            return model.decode(self.parts, latents, self.vae_dtype)

        return torch.cat(self._batches(run, len(z), cpu_batch))

    def _together(self, cpu_batch: int) -> int:
        return self.batch if torch.device(self.parts.device).type == "cuda" else cpu_batch

    def _batches(
        self, run: Callable[[int, int], Any], count: int, cpu_batch: int
    ) -> list[torch.Tensor]:
        what = f"{self.who}, editing"
        return model.in_batches(run, count, self._together(cpu_batch), what)


def crops(images: torch.Tensor, least: float, side: int, random: torch.Generator) -> np.ndarray:
    """Random rectangles of images, stretched to a square; none more oblong than 4 to 3.

    Parameters
    ----------
    images : float tensor of shape (n, 3, H, W) in [0, 1]
    least : share of the area that a rectangle has at least; 1 leaves images whole
    side : of the result, in pixels
    random : on the CPU

    Returns
    -------
    uint8 ndarray of shape (n, side, side, 3)
    """
    height, width = images.shape[2:]
    resized = []
    for image in images:
        area, ratio, down, right = torch.rand(4, generator=random).tolist()
        area = least + (1 - least) * area
        widest = min(math.log(4 / 3), -math.log(area))  # no rectangle is wider than the image
        ratio = math.exp((2 * ratio - 1) * widest)
        rows = max(1, round(height * math.sqrt(area / ratio)))
        columns = max(1, round(width * math.sqrt(area * ratio)))
        top, left = int(down * (height - rows + 1)), int(right * (width - columns + 1))
        part = image[None, :, top : top + rows, left : left + columns]
        resized.append(
            torch.nn.functional.interpolate(
                part, (side, side), mode="bicubic", antialias=True, align_corners=False
            )
        )
    return model.to_pixels(torch.cat(resized).clamp(0, 1))

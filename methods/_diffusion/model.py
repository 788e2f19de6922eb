"""A text-to-image latent diffusion model in parts: loading, encoding, noising, guided denoising.

Any base in diffusers' folder format with a ``UNet2DConditionModel``, an ``AutoencoderKL`` and a
``CLIPTextModel`` will do: Stable Diffusion v1.5, v2.1-base (both predict noise), v2.1 (predicts
velocity), or the embedded micro model. Notation: abar is the cumulative product of the noise
schedule, z a latent (already scaled), t a timestep counted from 0 (clean) to T (noise).
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import diffusers
import numpy as np
import torch
import transformers

MICRO = Path(__file__).parents[1] / "micro" / "diffusion"
SCHEDULERS = ("ddim", "dpmpp")
STARTS = ("exact", "diffusers")
_log = logging.getLogger(__name__)
T = TypeVar("T")


def seed_of(*parts: str | int) -> int:
    """A 63-bit seed that depends on the parts and nothing else."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def generator_of(*parts: str | int) -> torch.Generator:
    """A random stream on the CPU that depends on the parts and nothing else."""
    return torch.Generator("cpu").manual_seed(seed_of(*parts))


def normal(shape: Sequence[int], *parts: str | int) -> torch.Tensor:
    """Standard normal noise drawn on the CPU, the same whatever the device, batch or worker."""
    return torch.randn(tuple(shape), generator=generator_of(*parts))


def folder_of(base: str) -> Path | None:
    """Local folder of a base: the embedded one for "micro", the path itself if it is a folder."""
    if base == "micro":
        return MICRO
    return Path(base) if Path(base).is_dir() else None


def weight_files(base: str) -> list[Path]:
    """Files of a local base that its results depend on, sorted; none for a hub id."""
    folder = folder_of(base)
    if folder is None:
        return []
    parts = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
    return sorted(p for part in parts for p in (folder / part).glob("*") if p.is_file())


@dataclass(frozen=True)
class Parts:
    """The frozen parts of a base, shared by all generators of a worker.

    Attributes
    ----------
    abar : float64 ndarray of shape (T,), the noise schedule
    last_abar : what a scheduler assumes after its last step (abar at t = 0, or 1)
    prediction : "epsilon", "v_prediction" or "sample": what the UNet predicts
    """

    name: str
    device: str
    vae: Any
    text_encoder: Any
    tokenizer: Any
    scheduler: Any
    abar: np.ndarray
    last_abar: float
    prediction: str


def _load(loader: Any, base: str, part: str, **options: Any) -> Any:
    folder = folder_of(base)
    if folder is not None and not (folder / part).is_dir():
        raise FileNotFoundError(
            f"base {base!r}: no folder {folder / part}; diffusers' folder format was expected"
        )
    if options and folder is not None:
        plain = ("diffusion_pytorch_model.safetensors*", "model.safetensors*")
        if not any(True for name in plain for _ in (folder / part).glob(name)):
            options["variant"] = "fp16"  # people often keep the half-precision files only
    bars = transformers.utils.logging
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        return loader.from_pretrained(str(folder or base), subfolder=part, **options)
    except (OSError, ValueError) as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), "unknown reason")
        raise FileNotFoundError(
            f"base {base!r}: {part} was found neither in a local folder of diffusers' format nor "
            f"on the hub, as safetensors ({reason.strip()})"
        ) from error
    finally:
        if shown:
            bars.enable_progress_bar()


def load_parts(base: str, device: str) -> Parts:
    """Everything of a base but its UNet, in float32, frozen.

    Raises
    ------
    FileNotFoundError
        Neither a local folder in diffusers' format nor reachable on the hub.
    """
    scheduler = _load(diffusers.DDIMScheduler, base, "scheduler")
    safe = {"use_safetensors": True}
    vae = _load(diffusers.AutoencoderKL, base, "vae", torch_dtype=torch.float32, **safe)
    encoder = transformers.CLIPTextModel
    text_encoder = _load(encoder, base, "text_encoder", dtype=torch.float32, **safe)
    for model in (vae, text_encoder):
        model.requires_grad_(False).eval().to(device)
    return Parts(
        name=base,
        device=device,
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=_load(transformers.CLIPTokenizer, base, "tokenizer"),
        scheduler=scheduler,
        abar=scheduler.alphas_cumprod.double().numpy(),
        last_abar=float(scheduler.final_alpha_cumprod),
        prediction=scheduler.config.prediction_type,
    )


def load_unet(base: str, device: str) -> Any:
    """UNet of a base, in float32, frozen, in evaluation mode."""
    options = {"torch_dtype": torch.float32, "use_safetensors": True}
    unet = _load(diffusers.UNet2DConditionModel, base, "unet", **options)
    unet.requires_grad_(False).eval().to(device)
    if torch.device(device).type == "cuda":
        unet.to(
            memory_format=torch.channels_last
        )  # what half-precision convolutions are fastest in
    return unet


def native_size(parts: Parts, unet: Any) -> int:
    """Side in pixels of the images a base was trained on."""
    return int(unet.config.sample_size) * factor(parts)


def factor(parts: Parts) -> int:
    """Pixels per latent cell, along one side."""
    return int(2 ** (len(parts.vae.config.block_out_channels) - 1))


def autocast(device: str, dtype: torch.dtype | None) -> AbstractContextManager[Any]:
    """Mixed precision; none for float32 or None."""
    kind = torch.device(device).type
    return torch.autocast(kind, dtype=dtype, enabled=dtype not in (None, torch.float32))


def embed(parts: Parts, prompts: Sequence[str]) -> torch.Tensor:
    """Text conditions of prompts, one by one, so that none depends on the others.

    Returns
    -------
    float32 tensor of shape (P, L, D): hidden states after the encoder's last layer norm
    """
    length = min(
        parts.tokenizer.model_max_length, parts.text_encoder.config.max_position_embeddings
    )
    found = []
    for prompt in prompts:
        tokens = parts.tokenizer(
            prompt, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        )
        with torch.inference_mode():
            found.append(parts.text_encoder(tokens.input_ids.to(parts.device))[0])
    return torch.cat(found)


def to_tensor(pixels: np.ndarray, size: int | None, device: str) -> torch.Tensor:
    """uint8 (H, W, 3) -> float32 (3, size, size) in [0, 1], squeezed to a square, antialiased."""
    image = torch.from_numpy(np.array(pixels)).to(device).permute(2, 0, 1).float() / 255
    if size is None or image.shape[1:] == (size, size):
        return image
    image = torch.nn.functional.interpolate(
        image[None], (size, size), mode="bicubic", antialias=True, align_corners=False
    )
    return image[0].clamp(0, 1)


def to_pixels(images: torch.Tensor) -> np.ndarray:
    """Float (N, 3, H, W) in [0, 1] -> uint8 (N, H, W, 3)."""
    return (images * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()


def encode(parts: Parts, images: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Scaled posterior modes (N, c, h, w), float32, of images (N, 3, H, W) in [0, 1]."""
    with torch.inference_mode(), autocast(parts.device, dtype):
        z = parts.vae.encode(images * 2 - 1).latent_dist.mode()
    return z.float() * parts.vae.config.scaling_factor


def decode(parts: Parts, z: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Images (N, 3, H, W) in [0, 1], float32, of scaled latents."""
    with torch.inference_mode(), autocast(parts.device, dtype):
        images = parts.vae.decode(z / parts.vae.config.scaling_factor).sample
    return (images.float() / 2 + 0.5).clamp(0, 1)


def timesteps(parts: Parts, strength: float, steps: int, start: str) -> list[int]:
    """Timesteps to denoise at, from noisy to clean; empty where ``strength`` asks for none.

    Parameters
    ----------
    strength : t / T in [0, 1], how far to noise
    steps : how many a full trajectory (strength 1) has
    start : "exact" begins at round(strength T) and goes down evenly in int(strength steps), at
        least one; "diffusers" takes the last int(strength steps) of the scheduler's own timesteps,
        as its image-to-image pipelines do, which begins somewhat lower
    """
    total = len(parts.abar)
    if start == "diffusers":
        parts.scheduler.set_timesteps(steps)
        kept = min(int(steps * strength), steps)
        return [int(t) for t in parts.scheduler.timesteps[steps - kept :]]
    first = round(strength * total)
    if first == 0:
        return []
    grid = np.linspace(first, 0, max(1, int(round(steps * strength, 6))) + 1)[:-1]
    return [min(round(t), total - 1) for t in grid]


def noised(parts: Parts, z: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """Forward diffusion, sqrt(abar_t) z + sqrt(1 - abar_t) noise, with t of shape (N,)."""
    abar = torch.as_tensor(parts.abar, dtype=torch.float32, device=z.device)[t].view(-1, 1, 1, 1)
    return abar.sqrt() * z + (1 - abar).sqrt() * noise


def target(parts: Parts, z: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """What the UNet should say of ``noised(z, noise, t)``: noise, velocity or z."""
    if parts.prediction == "epsilon":
        return noise
    if parts.prediction == "sample":
        return z
    abar = torch.as_tensor(parts.abar, dtype=torch.float32, device=z.device)[t].view(-1, 1, 1, 1)
    return abar.sqrt() * noise - (1 - abar).sqrt() * z


def denoise(
    parts: Parts,
    unet: Any,
    z: torch.Tensor,
    trail: Sequence[int],
    condition: torch.Tensor,
    unconditional: torch.Tensor | None,
    guidance: float,
    scheduler: str = "ddim",
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """Take noisy latents down the timesteps to clean ones, deterministically.

    Parameters
    ----------
    z : float32 (N, c, h, w), noised to the first of ``trail``
    trail : timesteps, falling
    condition : (N, L, D), the prompts' embeddings
    unconditional : (1, L, D), the empty prompt's; not needed without guidance
    guidance : classifier-free guidance weight; 1 is the conditional model alone, at half the cost
    scheduler : "ddim" (Song et al. 2021, eq. 12 with eta 0) or "dpmpp" (DPM-Solver++ 2M, Lu et al.
        2022, algorithm 2, first order in the first and the last step)
    dtype : of mixed precision inside the UNet; None is float32

    Returns
    -------
    float32 tensor like ``z``
    """
    n = len(z)
    guided = guidance != 1 and unconditional is not None
    if guided:
        condition = torch.cat([unconditional.expand(n, -1, -1), condition])
    before: tuple[float, torch.Tensor] | None = None
    with torch.inference_mode(), autocast(parts.device, dtype):
        for i, t in enumerate(trail):
            rows = torch.cat([z, z]) if guided else z
            said = unet(rows, t, encoder_hidden_states=condition, return_dict=False)[0].float()
            if guided:
                free, bound = said.chunk(2)
                said = free + guidance * (bound - free)
            a, s = math.sqrt(parts.abar[t]), math.sqrt(1 - parts.abar[t])
            if parts.prediction == "epsilon":
                noise, clean = said, (z - s * said) / a
            elif parts.prediction == "v_prediction":
                noise, clean = a * said + s * z, a * z - s * said
            else:
                noise, clean = (z - a * said) / s, said
            last = i + 1 == len(trail)
            abar = parts.last_abar if last else float(parts.abar[trail[i + 1]])
            if scheduler == "ddim":
                z = math.sqrt(abar) * clean + math.sqrt(1 - abar) * noise
            elif last:
                z = clean
            else:
                now, next_ = math.log(a / s), 0.5 * math.log(abar / (1 - abar))
                h = next_ - now
                guess = clean
                if before is not None:
                    ratio = (now - before[0]) / h
                    guess = clean + (clean - before[1]) / (2 * ratio)
                before = (now, clean)
                z = math.sqrt(1 - abar) / s * z - math.sqrt(abar) * math.expm1(-h) * guess
    return z


def in_batches(run: Callable[[int, int], T], count: int, batch: int, what: str) -> list[T]:
    """Call ``run(first, end)`` over ``count`` items, ``batch`` at a time, less if memory is short.

    Raises
    ------
    MemoryError
        Not even one item fits.
    """
    results: list[T] = []
    first = 0
    while first < count:
        end = min(first + batch, count)
        try:
            results.append(run(first, end))
            first = end
            continue
        except torch.OutOfMemoryError as error:
            if end - first == 1:
                raise MemoryError(
                    f"{what}: not even one image fits into the GPU's memory"
                ) from error
            batch = (end - first) // 2
        # outside the except block: the traceback there keeps the failed pass's tensors alive
        torch.cuda.empty_cache()
        _log.warning("%s: out of GPU memory, going on with %d at a time", what, batch)
    return results

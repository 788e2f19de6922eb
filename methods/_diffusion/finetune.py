"""Fine-tuning of a diffusion model's UNet, whole or by a LoRA adapter, and what it leaves.

What is left is a state: arrays that ``apply`` adds to the base's weights and ``restore`` takes off
again, bit for bit, so that one UNet in memory serves many customized models, each at the cost of
the bare one.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import peft
import torch

from harness.interface import progress
from methods._diffusion import model
from methods._diffusion.passes import Checkpointing, Passes

_log = logging.getLogger(__name__)
#: layers that get an adapter: the attention projections, or every linear and convolutional layer
TARGETS: dict[str, Any] = {
    "attention": ["to_q", "to_k", "to_v", "to_out.0"],
    "all": r"(.*\.)?(to_[qkv]|to_out\.0|proj_in|proj_out|ff\.net\.0\.proj|ff\.net\.2|conv[12]?"
    r"|conv_in|conv_out|conv_shortcut|time_emb_proj|linear_[12])",
}

#: an error of noise that takes damage off weighs this times (1 - a) / a, at most 1, as an error of
#: the picture would: little noise, which has to account for all of the damage, is all there is else
CAP = 5.0


@dataclass(frozen=True)
class Recipe:
    """How to fine-tune. ``rank`` None tunes the whole UNet."""

    rank: int | None
    targets: str
    steps: int
    rate: float
    dtype: torch.dtype
    checkpointing: Checkpointing = "auto"
    until: float = 1.0  # latest noise level trained on, t / T


@dataclass(frozen=True)
class Demonstrations:
    """Images that share a caption."""

    z: torch.Tensor  # latents (n, c, h, w)
    condition: torch.Tensor  # embedding of the caption (L, D)
    weight: float  # in the loss
    batch: int  # of them in each step
    damaged: torch.Tensor | None = None  # latents of the same images, damaged
    share: float = 0.0  # of those shown that are damaged, and asked back without the damage


def finetune(
    parts: model.Parts,
    unet: Any,
    shown: Sequence[Demonstrations],
    recipe: Recipe,
    random: torch.Generator,
    what: str,
) -> dict[str, np.ndarray]:
    """Train on all demonstrations together; the UNet itself is as before afterwards.

    AdamW (0.9, 0.999, weight decay 0.01), constant rate, gradients clipped to norm 1, timesteps
    uniform over the schedule up to the recipe's latest. Where an image is shown damaged, the noise
    asked for is the one that leads to the undamaged image.

    Parameters
    ----------
    shown : sets of which every step takes a batch each
    random : on the CPU; source of all randomness
    what : name for the log, which gets loss and time left ten times on the way

    Returns
    -------
    dict of float16 arrays: the adapter's matrices under peft's names, or each weight's change under
    "change.<name>"; and "loss", float32 (steps,)
    """
    before: dict[str, torch.Tensor] = {}
    try:
        if recipe.rank is None:
            weights = dict(unet.named_parameters())
            before = {n: w.detach().to("cpu", copy=True) for n, w in weights.items()}
            unet.requires_grad_(True)
        else:
            add_adapter(unet, recipe.rank, recipe.targets, random)
        losses = train(parts, unet, shown, recipe, random, what)
        if recipe.rank is None:
            state = {
                f"change.{n}": (w.detach().cpu() - before[n]).half().numpy()
                for n, w in weights.items()
            }
        else:
            adapter = peft.get_peft_model_state_dict(unet)
            state = {n: w.detach().cpu().half().numpy() for n, w in adapter.items()}
    finally:
        unet.requires_grad_(False)
        if recipe.rank is None:
            restore(unet, before)
        else:
            unet.unload_lora()
    return state | {"loss": losses.cpu().numpy().astype(np.float32)}


def add_adapter(unet: Any, rank: int, targets: str, random: torch.Generator) -> None:
    """A LoRA adapter of scale 1 that changes nothing yet."""
    unet.add_adapter(peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=TARGETS[targets]))
    with torch.no_grad():
        for name, weight in unet.named_parameters():
            if ".lora_A." in name:  # peft's own distribution, but out of the given randomness
                draw = torch.rand(weight.shape, generator=random) * 2 - 1
                weight.copy_(draw * float(np.prod(weight.shape[1:])) ** -0.5)


def train(
    parts: model.Parts,
    unet: Any,
    shown: Sequence[Demonstrations],
    recipe: Recipe,
    random: torch.Generator,
    what: str,
) -> torch.Tensor:
    """Train those weights of the UNet that require gradients; returns the losses (steps,)."""
    device = parts.device
    weights = [p for p in unet.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=recipe.rate, weight_decay=1e-2, fused=True)
    halves = torch.device(device).type == "cuda" and recipe.dtype == torch.float16
    scaler = torch.amp.GradScaler("cuda", enabled=halves)
    condition = torch.cat([s.condition.expand(s.batch, -1, -1) for s in shown])
    worth = torch.cat([torch.full((s.batch,), s.weight / s.batch) for s in shown]).to(device)
    latest = max(1, round(recipe.until * len(parts.abar)))
    often = max(1, recipe.steps // 10)
    losses: list[torch.Tensor] = []
    begun = time.monotonic()
    with Passes(unet, recipe.checkpointing, len(worth), f"customizing {what}") as passes:
        for step in range(1, recipe.steps + 1):
            pairs = [_picked(s, random) for s in shown]
            clean, seen = (torch.cat(some) for some in zip(*pairs, strict=True))
            noise = torch.randn(clean.shape, generator=random).to(device)
            t = torch.randint(latest, (len(clean),), generator=random).to(device)
            noisy = model.noised(parts, seen, noise, t)
            kept = torch.as_tensor(parts.abar, dtype=torch.float32, device=device)[t]
            changed = (seen != clean).flatten(1).any(1)
            change = (kept / (1 - kept)).sqrt()[:, None, None, None] * (seen - clean)
            target = model.target(parts, clean, noise + change, t)
            scale = torch.where(changed, (CAP * (1 - kept) / kept).clamp(max=1), 1.0)

            def run(
                now: slice,
                noisy: torch.Tensor = noisy,
                t: torch.Tensor = t,
                target: torch.Tensor = target,
                scale: torch.Tensor = scale,
            ) -> torch.Tensor:
                with model.autocast(device, recipe.dtype):
                    text = {"encoder_hidden_states": condition[now], "return_dict": False}
                    predicted = unet(noisy[now], t[now], **text)[0]
                error = ((predicted.float() - target[now]) ** 2).mean((1, 2, 3))
                loss = (error * worth[now] * scale[now]).sum()
                scaler.scale(loss).backward()
                return loss

            losses.append(passes.gradients(run, optimiser.zero_grad))
            progress(step, recipe.steps, {"loss": losses[-1]})
            scaler.unscale_(optimiser)
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            scaler.step(optimiser)
            scaler.update()
            optimiser.zero_grad(set_to_none=True)
            if step % often == 0 and _log.isEnabledFor(logging.INFO):
                left = (time.monotonic() - begun) / step * (recipe.steps - step)
                recent = float(torch.stack(losses[-often:]).mean())
                text = "%s: customization step %d/%d, loss %.4f, %.0f s left"
                _log.info(text, what, step, recipe.steps, recent, left)
    return torch.stack(losses)


def _picked(shown: Demonstrations, random: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents of a step's images as they are, and as they are shown."""
    which = torch.randint(len(shown.z), (shown.batch,), generator=random)
    clean = shown.z[which]
    if shown.damaged is None:
        return clean, clean
    damaged = torch.rand(shown.batch, generator=random) < shown.share
    return clean, torch.where(
        damaged.to(clean.device)[:, None, None, None], shown.damaged[which], clean
    )


def changes(state: Mapping[str, np.ndarray]) -> Iterator[tuple[str, torch.Tensor]]:
    """What a state adds to the base: names of weights, each with a float32 tensor of its shape."""
    for name, array in state.items():
        if name.startswith("change."):
            yield name.removeprefix("change."), torch.from_numpy(np.array(array)).float()
        elif name.endswith(".lora_B.weight"):
            layer = name.removesuffix(".lora_B.weight")
            up = torch.from_numpy(np.array(array)).float()
            down = torch.from_numpy(np.array(state[f"{layer}.lora_A.weight"])).float()
            # an adapted convolution is the thin one followed by a 1 x 1
            product = up.flatten(1) @ down.flatten(1)
            yield f"{layer}.weight", product.view(len(up), *down.shape[1:])


def apply(unet: Any, state: Mapping[str, np.ndarray], base: str) -> dict[str, torch.Tensor]:
    """Add a state to the base's weights; returns the base's values, for ``restore``.

    Raises
    ------
    ValueError
        The state belongs to another base; the UNet is unchanged then.
    """
    weights = dict(unet.named_parameters())
    values: dict[str, torch.Tensor] = {}
    try:
        for name, change in changes(state):
            if name not in weights or change.shape != weights[name].shape:
                has = tuple(weights[name].shape) if name in weights else "none"
                raise ValueError(
                    f"a customized model's state changes {name} of shape {tuple(change.shape)}; "
                    f"base {base!r} has {has}: it was made from another base"
                )
            values[name] = weights[name].detach().to("cpu", copy=True)
            with torch.no_grad():
                weights[name] += change.to(weights[name].device)
    except ValueError:
        restore(unet, values)
        raise
    return values


def restore(unet: Any, values: Mapping[str, torch.Tensor]) -> None:
    """Put weights back."""
    weights = dict(unet.named_parameters())
    with torch.no_grad():
        for name, value in values.items():
            weights[name].copy_(value)

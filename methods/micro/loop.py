"""What all training stages share: a clock, checkpoints that survive a kill, progress, averages."""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch


class Loop:
    """Steps until the time is up.

    The learning rate warms up and falls along a cosine of the *time* spent, because that is what is
    budgeted; time spent before an interruption counts.

    Parameters
    ----------
    path : file of the checkpoint, written whole to a temporary name, then renamed
    parts : named things with ``state_dict`` and ``load_state_dict``: models, optimizers, averages
    minutes : time this stage may take in all
    resume : go on from the checkpoint if there is one
    every : seconds between checkpoints
    writes : whether checkpoints are written and progress shown at all
    clock : seconds, whose differences are the time spent; ``time.process_time`` does not count what
        other programs took of a shared processor
    """

    def __init__(
        self,
        path: Path,
        parts: Mapping[str, Any],
        minutes: float,
        resume: bool,
        every: float = 60.0,
        writes: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.clock = clock
        self.path, self.parts, self.budget, self.every = path, dict(parts), minutes * 60, every
        self.writes = writes
        self.step, self.spent = 0, 0.0
        self._mean: dict[str, float] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        if resume and path.is_file():
            state = torch.load(path, weights_only=True, map_location="cpu")
            for name, part in self.parts.items():
                part.load_state_dict(state[name])
            self.step, self.spent = state["step"], state["spent"]

    @property
    def progress(self) -> float:
        """Share of the time that is spent, 0..1."""
        return min(self.spent / self.budget, 1.0)

    def rate(self, peak: float, warm: int = 100, floor: float = 0.02) -> float:
        """Learning rate now."""
        fall = floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * self.progress))
        return peak * min(1.0, (self.step + 1) / warm) * fall

    def __iter__(self) -> Iterator[int]:
        """Step numbers; saves at intervals and at the end."""
        saved = shown = time.monotonic()
        while self.spent < self.budget:
            start = self.clock()
            yield self.step
            self.step += 1
            # a step that was stopped from outside must not eat the budget
            self.spent += min(self.clock() - start, 30.0)
            now = time.monotonic()
            if now - shown > 15 and self.writes:
                shown = now
                losses = "  ".join(f"{k} {v:.4f}" for k, v in self._mean.items())
                left = (self.budget - self.spent) / 60
                print(
                    f"{self.path.stem}  step {self.step}  {left:.1f} min left  {losses}", flush=True
                )
            if now - saved > self.every:
                saved = now
                self.save()
        self.save()

    def tell(self, **losses: float) -> None:
        """Note losses, shown as running means."""
        for name, value in losses.items():
            old = self._mean.get(name, value)
            self._mean[name] = 0.98 * old + 0.02 * value

    def save(self) -> None:
        """Write the checkpoint."""
        if not self.writes:
            return
        state = {name: part.state_dict() for name, part in self.parts.items()}
        temporary = self.path.with_suffix(".part")
        torch.save(state | {"step": self.step, "spent": self.spent}, temporary)
        os.replace(temporary, self.path)


class Average:
    """Exponential moving average of a model's weights; what is exported."""

    def __init__(self, model: torch.nn.Module, decay: float = 0.999) -> None:
        self.decay, self.steps = decay, 0
        self.model = copy.deepcopy(model).requires_grad_(False)

    def update(self, model: torch.nn.Module) -> None:
        """Move towards ``model``, faster in the beginning."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        with torch.no_grad():
            own, new = list(self.model.parameters()), list(model.parameters())
            torch._foreach_mul_(own, decay)
            torch._foreach_add_(own, new, alpha=1 - decay)

    def state_dict(self) -> dict[str, Any]:
        """Weights and number of updates."""
        return {"model": self.model.state_dict(), "steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back ``state_dict``."""
        self.model.load_state_dict(state["model"])
        self.steps = state["steps"]


class _GroupNorm(torch.autograd.Function):
    """Group normalisation with a backward pass made of whole-tensor operations.

    torch's own backward for channels-last tensors on a CPU took half of an autoencoder's step.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        groups: int,
        eps: float,
    ) -> torch.Tensor:
        """Normalise (N, C, H, W)."""
        n, c, h, w = x.shape
        y, mean, deviation = torch.native_group_norm(x, weight, bias, n, c, h * w, groups, eps)
        ctx.save_for_backward(x, weight, mean, deviation)
        ctx.groups = groups
        return y

    @staticmethod
    def backward(ctx: Any, dy: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradient a dy + b x + c, with coefficients per channel and image."""
        x, weight, mean, deviation = ctx.saved_tensors
        n, c, h, w = x.shape
        g = ctx.groups
        xs = x.permute(0, 2, 3, 1).reshape(n, h * w, c)
        ds = dy.permute(0, 2, 3, 1).reshape(n, h * w, c)
        total = ds.sum(1, dtype=torch.float32).reshape(n, g, c // g)
        along = (ds * xs).sum(1, dtype=torch.float32).reshape(n, g, c // g)
        mean = mean.float().reshape(n, g, 1)
        inverse = deviation.float().reshape(n, g, 1)
        scale = weight.float().reshape(1, g, c // g)
        to_weight = ((along - mean * total) * inverse).sum(0).reshape(c)
        first = (total * scale).sum(2, keepdim=True)
        second = (along * scale).sum(2, keepdim=True)
        count = (c // g) * h * w
        b = (first * mean - second) * inverse**3 / count
        shift = -b * mean - first * inverse / count

        def spread(t: torch.Tensor) -> torch.Tensor:
            return t.expand(n, g, c // g).reshape(n, 1, c).to(ds.dtype)

        dx = ds * spread(inverse * scale)
        dx.addcmul_(xs, spread(b)).add_(spread(shift))
        dx = dx.reshape(n, h, w, c).permute(0, 3, 1, 2)
        to_bias = total.sum(0).reshape(c)
        return dx, to_weight.to(weight.dtype), to_bias.to(weight.dtype), None, None


class FastGroupNorm(torch.nn.GroupNorm):
    """``GroupNorm`` for (N, C, H, W) with the faster backward pass."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise."""
        weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
        return _GroupNorm.apply(x, weight, bias, self.num_groups, self.eps)


def quicken(model: torch.nn.Module) -> torch.nn.Module:
    """Channels-last, and the faster group normalisation, for training on a CPU."""
    for module in model.modules():
        if type(module) is torch.nn.GroupNorm:
            module.__class__ = FastGroupNorm
    return model.to(memory_format=torch.channels_last)

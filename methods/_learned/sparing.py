"""Training with less memory: activations computed anew, batch statistics gathered in blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TypeVar

import torch
from timm.layers import BatchNormAct2d
from timm.models.resnet import BasicBlock
from torch import nn
from torch.utils.checkpoint import checkpoint

_TOGETHER = 8  # pictures whose maps of full resolution are held at a time
T = TypeVar("T")


def recomputed(function: Callable[..., T], *inputs: torch.Tensor) -> T:
    """``function(*inputs)``, computed anew for the gradient instead of remembered."""

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _counted(function)

    result: T = checkpoint(
        function, *inputs, use_reentrant=False, preserve_rng_state=False, context_fn=contexts
    )
    return result


def block_recomputed(block: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """``block(x)``, computed anew for the gradient, a basic block of a ResNet in two halves.

    On the way back only one half's maps are there besides what lies between the two.
    """
    if type(block) is not BasicBlock or block.se is not None:
        return recomputed(block, x)
    return recomputed(_InHalves(block), x)


class _InHalves(nn.Module):
    """A basic block whose second half is given what the first made, and the block's own input."""

    def __init__(self, block: BasicBlock) -> None:
        super().__init__()
        self.block = block
        first = (block.conv1, block.bn1, block.drop_block, block.act1, block.aa)
        self.first, self.second = nn.Sequential(*first), _Second(block)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return recomputed(self.second, recomputed(self.first, x), x)


class _Second(nn.Module):
    def __init__(self, block: BasicBlock) -> None:
        super().__init__()
        self.block = block

    def forward(self, maps: torch.Tensor, shortcut: torch.Tensor) -> torch.Tensor:
        block = self.block
        maps = block.bn2(block.conv2(maps))
        if block.drop_path is not None:
            maps = block.drop_path(maps)
        if block.downsample is not None:
            shortcut = block.downsample(shortcut)
        return block.act2(maps + shortcut)


@contextmanager
def _counted(function: object) -> Iterator[None]:
    """Batch normalisation in a module leaves its running statistics alone: it had this batch."""
    modules = function.modules() if isinstance(function, nn.Module) else ()
    norms = [m for m in modules if isinstance(m, nn.BatchNorm2d)]
    before = [(norm, norm.momentum, norm.num_batches_tracked.clone()) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum, batches in before:
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(batches)


def in_blocks(
    conv: nn.Module, norm: nn.BatchNorm2d, after: nn.Module, x: torch.Tensor
) -> torch.Tensor:
    """``after(norm(conv(x)))`` in training, a few pictures at a time, by statistics of all of them.

    No map of full resolution outlives its block: the sums that mean and variance are made of are
    taken in a first round, gradients flow through them, and both rounds are computed anew on the
    way back.
    """

    def moments(part: torch.Tensor) -> tuple[torch.Tensor, ...]:
        maps = conv(part)
        return tuple(v.sum((0, 2, 3), dtype=torch.float64) for v in (maps, maps.square()))

    def normalised(part: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        maps = torch.addcmul(shift[:, None, None], conv(part), scale[:, None, None])
        return after(norm.act(maps) if isinstance(norm, BatchNormAct2d) else maps)

    parts = x.split(_TOGETHER)
    with torch.no_grad():
        count = len(x) * conv(x[:1])[0, 0].numel()  # values of each channel
    sums = zip(*(recomputed(moments, part) for part in parts), strict=True)
    mean, squares = (torch.stack(one).sum(0) / count for one in sums)
    variance = squares - mean.square()
    with torch.no_grad():
        norm.num_batches_tracked += 1
        unbiased = variance * count / (count - 1)
        for running, value in ((norm.running_mean, mean), (norm.running_var, unbiased)):
            running.lerp_(value.to(running), norm.momentum)
    scale = norm.weight * torch.rsqrt(variance + norm.eps).to(x.dtype)
    shift = norm.bias - mean.to(x.dtype) * scale
    return torch.cat([recomputed(normalised, part, scale, shift) for part in parts])

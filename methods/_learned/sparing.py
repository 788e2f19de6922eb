"""Training with less memory: activations computed anew, batch statistics gathered in blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

import torch
from timm.layers import BatchNormAct2d
from timm.models.resnet import BasicBlock
from torch import nn
from torch.utils.checkpoint import checkpoint

_TOGETHER = 8  # pictures whose maps of full resolution are held at a time
_LARGE = 150 << 20  # bytes of a block's input from which its own maps are not held whole either
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
    """A basic block whose second half is given what the first made, and the block's own input.

    Where maps are large each half goes a few pictures at a time.
    """

    def __init__(self, block: BasicBlock) -> None:
        super().__init__()
        self.block = block
        first = (block.conv1, block.bn1, block.drop_block, block.act1, block.aa)
        self.first, self.second = nn.Sequential(*first), _Second(block)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        block = self.block
        if x.numel() * x.element_size() < _LARGE or block.drop_path is not None:
            return recomputed(self.second, recomputed(self.first, x), x)
        after = nn.Sequential(block.drop_block, block.act1, block.aa)
        maps = in_blocks(block.conv1, block.bn1, after, x)
        shortcut = x if block.downsample is None else block.downsample(x)
        return in_blocks(block.conv2, block.bn2, self.second.added, maps, shortcut)


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
        return self.added(maps, shortcut)

    def added(self, maps: torch.Tensor, shortcut: torch.Tensor) -> torch.Tensor:
        """What the block makes of its second convolution's maps and its shortcut."""
        result: torch.Tensor = self.block.act2(maps + shortcut)
        return result


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
    conv: nn.Module,
    norm: nn.BatchNorm2d,
    after: Callable[..., torch.Tensor],
    x: torch.Tensor,
    beside: torch.Tensor | None = None,
) -> torch.Tensor:
    """``after(norm(conv(x)))`` in training, a few pictures at a time, by statistics of all of them.

    No map of the convolution outlives its block: the sums that mean and variance are made of are
    taken in a first round, the maps in a second, and on the way back both are gone through again.

    Parameters
    ----------
    conv : whatever makes maps of pictures, each on its own
    norm : trained, with its statistics
    after : of maps, or of maps and what is beside them; without parameters
    x : tensor of shape (N, ...)
    beside : tensor of shape (N, ...), optional
        What ``after`` is given as well.
    """

    def finished(maps: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
        return after(norm.act(maps) if isinstance(norm, BatchNormAct2d) else maps, *others)

    parameters = [p for p in conv.parameters() if p.requires_grad]
    weights = (norm.weight, norm.bias)
    out: torch.Tensor = _InBlocks.apply(conv, norm, finished, x, beside, *weights, *parameters)
    return out


class _InBlocks(torch.autograd.Function):
    """Convolution, batch normalisation and what follows; remembers only what goes in.

    With maps m, their mean and variance over N values, r = (variance + eps) ** -1/2 and gradients
    dy of the normalised maps, those of m are weight * r * (dy - mean(dy) - (m - mean) * r ** 2 *
    mean(dy * (m - mean))).
    """

    @staticmethod
    def forward(
        context: Any,
        conv: nn.Module,
        norm: nn.BatchNorm2d,
        after: Callable[..., torch.Tensor],
        x: torch.Tensor,
        beside: torch.Tensor | None,
        weight: torch.Tensor,
        bias: torch.Tensor,
        *parameters: torch.Tensor,
    ) -> torch.Tensor:
        sums, squares, count = torch.zeros(()), torch.zeros(()), 0
        for part in x.split(_TOGETHER):
            maps = conv(part)
            count += maps.numel() // maps.shape[1]
            sums = sums + maps.sum((0, 2, 3), dtype=torch.float64)
            squares = squares + maps.square().sum((0, 2, 3), dtype=torch.float64)
        mean = sums / count
        variance = squares / count - mean.square()
        norm.num_batches_tracked += 1
        unbiased = variance * count / (count - 1)
        for running, value in ((norm.running_mean, mean), (norm.running_var, unbiased)):
            running.lerp_(value.to(running), norm.momentum)
        root = torch.rsqrt(variance + norm.eps)
        scale = (weight * root.to(weight))[:, None, None]
        shift = (bias - mean.to(bias) * scale.flatten())[:, None, None]
        out = None
        for places, part, others in _parts(x, beside):
            result = after(torch.addcmul(shift, conv(part), scale), *others)
            out = _room(len(x), result) if out is None else out
            out[places] = result
        context.save_for_backward(x, beside, weight, scale, shift, mean, root, *parameters)
        context.work = conv, after, count
        assert out is not None
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator]
    def backward(context: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, beside, weight, scale, shift, mean, root, *parameters = context.saved_tensors
        conv, after, count = context.work
        of_beside = None if beside is None else torch.empty_like(beside)

        def of_normalised(maps: torch.Tensor, places: slice, others: Any) -> torch.Tensor:
            with torch.enable_grad():
                inputs = [torch.addcmul(shift, maps, scale), *others]
                inputs = [one.detach().requires_grad_() for one in inputs]
                result = after(*(one.clone() for one in inputs))  # some act in place
            grads = torch.autograd.grad(result, inputs, gradient[places])
            if of_beside is not None:
                of_beside[places] = grads[1]
            return grads[0]

        sums, products = torch.zeros_like(mean), torch.zeros_like(mean)
        for places, part, others in _parts(x, beside):
            maps = conv(part)
            change = of_normalised(maps, places, others)
            sums += change.sum((0, 2, 3), dtype=torch.float64)
            products += (change * maps).sum((0, 2, 3), dtype=torch.float64)
        of_weight = (products - mean * sums) * root
        # Gradients of maps are scale * change + slope * maps + level, one number each per channel.
        slope = -weight * root.square() * of_weight / count
        level = -slope * mean - weight * root * sums / count
        slope, level = (each.to(weight)[:, None, None] for each in (slope, level))
        of_x = torch.empty_like(x) if context.needs_input_grad[3] else None
        totals = [torch.zeros_like(one) for one in parameters]
        for places, part, others in _parts(x, beside):
            with torch.enable_grad():
                leaf = part.detach()
                leaf = leaf.requires_grad_() if of_x is not None else leaf
                maps = conv(leaf)
            still = maps.detach()
            change = torch.addcmul(level, still, slope).addcmul_(
                of_normalised(still, places, others), scale
            )
            needed = [*parameters, leaf] if of_x is not None else parameters
            grads = torch.autograd.grad(maps, needed, change)
            if of_x is not None:
                of_x[places] = grads[-1]
            for total, one in zip(totals, grads, strict=False):
                total += one
        of_norm = of_weight.to(weight), sums.to(weight)
        return None, None, None, of_x, of_beside, *of_norm, *totals


def _room(count: int, like: torch.Tensor) -> torch.Tensor:
    """Room for so many maps like these, laid out as they are."""
    last = like.ndim == 4 and like.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if last else torch.contiguous_format
    shape = (count, *like.shape[1:])
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=layout)


def _parts(
    x: torch.Tensor, beside: torch.Tensor | None
) -> Iterator[tuple[slice, torch.Tensor, tuple[torch.Tensor, ...]]]:
    """A few pictures at a time: where they are, what goes into the convolution, and after it."""
    for start in range(0, len(x), _TOGETHER):
        places = slice(start, start + _TOGETHER)
        yield places, x[places], () if beside is None else (beside[places],)

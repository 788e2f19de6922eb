"""Counts the bytes that lie on a GPU, with tensors of torch's meta device in place of real ones.

Every storage that comes and goes is counted. Mixed precision and attention are stood in for by what
CUDA does: `autocast`'s rules and casts, which it keeps until its block ends, and an attention
kernel that keeps its inputs, its output and a row sum.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from methods._diffusion import model


class Live(TorchDispatchMode):
    """Bytes of all storages that come into being inside the block and are still there.

    Attributes
    ----------
    now, peak : int
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run an operation and count the storages of its results."""
        results = function(*args, **(kwargs or {}))
        for tensor in tree_iter(results):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        return results

    def _count(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        if size and key not in self._sizes:
            self._sizes[key] = size
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._gone, key)

    def _gone(self, key: int) -> None:
        self.now -= self._sizes.pop(key)


class _Attention(torch.autograd.Function):
    """Fused attention: the scores are never whole, only their row sums are kept."""

    @staticmethod
    def forward(ctx: Any, q: Any, k: Any, v: Any) -> torch.Tensor:
        out = q.new_empty(*q.shape[:-1], v.shape[-1])
        sums = q.new_empty(q.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(q, k, v, out, sums)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        q, k, v, *_ = ctx.saved_tensors
        return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


class _Autocast:
    """CUDA's mixed precision, for the operations that these networks have."""

    def __init__(self) -> None:
        self.dtype: torch.dtype | None = None
        self._cache: dict[int, tuple[Any, torch.Tensor]] = {}

    @contextmanager
    def __call__(self, device: str, dtype: torch.dtype | None) -> Iterator[None]:
        before, self.dtype = self.dtype, None if dtype == torch.float32 else dtype
        try:
            yield
        finally:
            self.dtype = before
            if before is None:
                self._cache.clear()

    def lower(self, value: Any) -> Any:
        """A tensor in the lower precision; casts of trained weights are kept for the block."""
        if self.dtype is None or not isinstance(value, torch.Tensor):
            return value
        if not value.is_floating_point() or value.dtype == self.dtype:
            return value
        if not (value.is_leaf and value.requires_grad and torch.is_grad_enabled()):
            return value.to(self.dtype)
        if id(value) not in self._cache:
            self._cache[id(value)] = value, value.to(self.dtype)
        return self._cache[id(value)][1]

    def full(self, value: Any) -> Any:
        """A tensor in float32, where mixed precision is on."""
        floating = isinstance(value, torch.Tensor) and value.is_floating_point()
        return value.float() if self.dtype is not None and floating else value

    def in_lower(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **kwargs: function(
            *map(self.lower, args), **{name: self.lower(value) for name, value in kwargs.items()}
        )

    def in_full(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **kwargs: function(
            *map(self.full, args), **{name: self.full(value) for name, value in kwargs.items()}
        )


@contextmanager
def counted(attention: str = "fused") -> Iterator[Live]:
    """Count what lies on a GPU, inside the block; networks and tensors are to be "meta" ones.

    Parameters
    ----------
    attention : "fused", or "plain", with all scores in memory: cards without a fused kernel
    """
    cast = _Autocast()

    def fused(q: Any, k: Any, v: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        result: torch.Tensor = _Attention.apply(cast.lower(q), cast.lower(k), cast.lower(v))
        return result

    def adamw(weights: Any, fused: bool = False, **settings: Any) -> torch.optim.AdamW:
        return torch_adamw(weights, foreach=False, **settings)  # meta has no fused one

    def recomputed(function: Any, *args: Any, **kwargs: Any) -> Any:
        def contexts() -> tuple[Any, Any]:
            return nullcontext(), cast("meta", dtype)

        dtype = cast.dtype
        return torch_checkpoint(function, *args, context_fn=contexts, **kwargs)

    torch_checkpoint = torch.utils.checkpoint.checkpoint
    torch_adamw = torch.optim.AdamW
    lowered = ("linear", "conv2d", "conv_transpose2d", "bilinear")
    kept = ("group_norm", "layer_norm", "softmax", "cosine_similarity", "mse_loss")
    with ExitStack() as stack:
        for name in lowered:
            stack.enter_context(mock.patch.object(F, name, cast.in_lower(getattr(F, name))))
        for name in kept:
            stack.enter_context(mock.patch.object(F, name, cast.in_full(getattr(F, name))))
        if attention == "fused":
            stack.enter_context(mock.patch.object(F, "scaled_dot_product_attention", fused))
        else:
            plain = cast.in_lower(F.scaled_dot_product_attention)
            stack.enter_context(mock.patch.object(F, "scaled_dot_product_attention", plain))
        stack.enter_context(mock.patch.object(torch.utils.checkpoint, "checkpoint", recomputed))
        stack.enter_context(mock.patch.object(model, "autocast", cast))
        stack.enter_context(mock.patch.object(torch.optim, "AdamW", adamw))
        yield stack.enter_context(Live())

"""What every encoder, transformer or convolutional, says of one image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Encoding:
    """Features of one image, float32 on the encoder's device, none of them normalised.

    Attributes
    ----------
    levels : tuple of tensors of shape (h, w, d)
        Patch features of the chosen blocks or stages, in the order they were asked for. Of
        transformers: raw residual stream, class token dropped, before ln_post and projection.
    image : tensor of shape (e,)
        Image embedding in the space shared with text, or pooled features where there is no text.
    token : tensor of shape (d,) or None
        Class token of the last block, before ln_post; None for convolutional encoders.
    windows : mapping from a side in patches to a tensor of shape (h - side + 1, w - side + 1, e)
        Embedding of each square window of that side, in the space of ``image``.
    """

    levels: tuple[torch.Tensor, ...]
    image: torch.Tensor
    token: torch.Tensor | None = None
    windows: Mapping[int, torch.Tensor] = field(default_factory=dict)

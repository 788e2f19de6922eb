"""CLIP's two transformers, read more closely than open_clip's own forward lets one.

Both work on the modules that open_clip builds, so weights and layouts are its; only the order of
the steps is spelt out here, to reach patch tokens, windows of patches and word embeddings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from open_clip.transformer import VisionTransformer
from torch import nn

from methods._encoders import window_pass
from methods._ops.windows import members


@dataclass(frozen=True)
class VisionRecord:
    """What one forward pass says of b images: the fields of `Encoding`, with a batch dimension."""

    levels: tuple[torch.Tensor, ...]  # (b, h, w, d) each
    token: torch.Tensor  # (b, d)
    image: torch.Tensor  # (b, e)
    windows: dict[int, torch.Tensor]  # side -> (b, h - side + 1, w - side + 1, e)


class VisionTower:
    """A vision transformer with a class token, at any input size.

    Parameters
    ----------
    visual : VisionTransformer
        open_clip's, in eval mode.
    precision : torch.dtype
        Of the blocks' matrix products; the stream between them stays float32.

    Raises
    ------
    ValueError
        If the network pools anything but its class token.
    """

    def __init__(self, visual: nn.Module, precision: torch.dtype = torch.float32) -> None:
        pools_token = (
            isinstance(visual, VisionTransformer)
            and visual.attn_pool is None
            and visual.pool_type == "tok"
            and visual.proj is not None
        )
        if not pools_token:
            raise ValueError("expected a vision transformer that pools its class token")
        self.visual = visual
        self.blocks = list(visual.transformer.resblocks)
        self._precision = precision
        self.width = int(visual.conv1.out_channels)
        self.patch: tuple[int, int] = tuple(visual.conv1.kernel_size)
        self._positions: dict[tuple[int, int], torch.Tensor] = {}

    def __call__(
        self, pixels: torch.Tensor, levels: Sequence[int], windows: Sequence[int], tokens: int
    ) -> VisionRecord:
        """Encode a batch, windows included.

        Parameters
        ----------
        pixels : float tensor of shape (b, 3, H, W)
            Normalised as the weights expect.
        levels : sequence of int
            Blocks to read, from 1; raw residual stream.
        windows : sequence of int
            Sides of the windows in patches.
        tokens : int
            How many tokens of windows go through the transformer at a time; bounds memory.
        """
        visual = self.visual
        patches = visual.conv1(pixels)
        batch, _, *grid = patches.shape
        sequence = torch.cat(
            [visual.class_embedding.expand(batch, 1, -1), patches.flatten(2).transpose(1, 2)], dim=1
        ) + self.positions(grid[0], grid[1])

        stream, kept = visual.ln_pre(sequence), {}
        first = stream
        with self._mixed(pixels.device):
            for number, block in enumerate(self.blocks, start=1):
                stream = block(stream)
                if number in levels:
                    kept[number] = stream[:, 1:].unflatten(1, grid)
            seen = {
                side: self._windows(first, members(grid[0], grid[1], side), tokens)
                for side in windows
            }
        token = stream[:, 0]
        return VisionRecord(
            levels=tuple(kept[level] for level in levels),
            token=token,
            image=self._project(token),
            windows={
                side: self._project(tokens).unflatten(1, (grid[0] - side + 1, grid[1] - side + 1))
                for side, tokens in seen.items()
            },
        )

    def _mixed(self, device: torch.device) -> torch.autocast:
        mixed = self._precision != torch.float32
        return torch.autocast(device.type, self._precision if mixed else None, enabled=mixed)

    def positions(self, height: int, width: int) -> torch.Tensor:
        """Position embedding of shape (1 + height * width, d) for a grid of that many patches."""
        own = self.visual.positional_embedding
        if (height, width) == tuple(self.visual.grid_size):
            return own
        if (height, width) not in self._positions:
            # Resized as open_clip does when a model is built for another input size.
            grid = own[1:].unflatten(0, tuple(self.visual.grid_size)).permute(2, 0, 1)[None]
            resized = F.interpolate(
                grid, (height, width), mode="bicubic", antialias=True, align_corners=False
            )
            self._positions[height, width] = torch.cat([own[:1], resized[0].flatten(1).T])
        return self._positions[height, width]

    def _project(self, token: torch.Tensor) -> torch.Tensor:
        return self.visual.ln_post(token) @ self.visual.proj

    def _windows(self, stream: torch.Tensor, index: torch.Tensor, tokens: int) -> torch.Tensor:
        """Class tokens (b, n, d) of n windows, each seen as if its patches were all there is.

        The window's patches keep their position embeddings and see the class token and each other
        only. All windows of one side have equally many patches, so they are one plain batch.
        """
        index = index.to(stream.device) + 1
        index = torch.cat([torch.zeros_like(index[:, :1]), index], dim=1)  # (n, 1 + side * side)
        if window_pass.fits(self.blocks):
            return window_pass.class_tokens(self.blocks, stream, index, tokens)
        rows = stream[:, index].flatten(0, 1)  # (b * n, 1 + side * side, d)
        parts = [self._class_token(part) for part in rows.split(max(1, tokens // index.shape[1]))]
        return torch.cat(parts).unflatten(0, (len(stream), len(index)))

    def _class_token(self, stream: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            stream = block(stream)
        return stream[:, 0]


class TextTower:
    """A causal text transformer that can be entered at the word embeddings.

    Parameters
    ----------
    tower : Module
        Holds ``token_embedding``, ``positional_embedding``, ``transformer``, ``ln_final``,
        ``text_projection`` and ``attn_mask``: open_clip's CLIP, or the ``text`` of CustomTextCLIP.
    tokenize : callable
        Sentences to int64 token numbers (n, context length), 0 after the end token, which has the
        largest number.
    """

    def __init__(self, tower: nn.Module, tokenize: Callable[[list[str]], torch.Tensor]) -> None:
        pool = getattr(tower, "text_pool_type", getattr(tower, "pool_type", "argmax"))
        if pool != "argmax" or tower.attn_mask is None:
            raise ValueError("expected a causal text transformer that pools its end token")
        self.tower = tower
        self.tokenize = tokenize

    @property
    def width(self) -> int:
        """Length of a word embedding."""
        return int(self.tower.token_embedding.embedding_dim)

    @property
    def device(self) -> torch.device:
        """Where the tower runs."""
        return self.tower.positional_embedding.device

    def words(self, sentences: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Word embeddings and where sentences end.

        Returns
        -------
        embeddings : tensor of shape (n, length of the longest sentence, width)
            Start token, words, end token, padding.
        ends : int64 tensor of shape (n,)
            Index of each sentence's end token.
        """
        tokens = self.tokenize(list(sentences)).to(self.device)
        ends = tokens.argmax(dim=-1)
        # What follows the end token is masked from it, so it need not be computed.
        return self.tower.token_embedding(tokens[:, : int(ends.max()) + 1]), ends

    def __call__(self, embeddings: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
        """Sentence embeddings (n, e), not normalised, of word embeddings (n, length, width)."""
        tower, length = self.tower, embeddings.shape[1]
        if length > len(tower.positional_embedding):
            raise ValueError(
                f"sentences of {length} tokens do not fit a text transformer of "
                f"{len(tower.positional_embedding)}"
            )
        stream = embeddings + tower.positional_embedding[:length]
        stream = tower.transformer(stream, attn_mask=tower.attn_mask[:length, :length])
        pooled = tower.ln_final(stream[torch.arange(len(stream), device=stream.device), ends])
        if isinstance(tower.text_projection, nn.Linear):
            return tower.text_projection(pooled)
        return pooled if tower.text_projection is None else pooled @ tower.text_projection

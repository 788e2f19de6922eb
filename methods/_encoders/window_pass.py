"""The windows of a picture through a vision transformer, without computing anything twice.

Windows overlap, so each patch is in several of them. Until the first attention a patch knows of no
other: its embedding, its normalisations and its first query, key and value are computed once for
the picture and gathered. After the last attention only class tokens are read, so no other token's
output is computed there. All windows of a side have equally many patches: nothing is padded.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock
from torch import nn


def fits(blocks: Sequence[nn.Module]) -> bool:
    """Whether the blocks are open_clip's plain ones, whose parts are taken apart here."""
    return all(
        type(block) is ResidualAttentionBlock
        and type(block.attn) is nn.MultiheadAttention
        and block.attn.in_proj_weight is not None
        and block.attn.bias_k is None
        for block in blocks
    )


def class_tokens(
    blocks: Sequence[nn.Module], stream: torch.Tensor, index: torch.Tensor, tokens: int
) -> torch.Tensor:
    """Class tokens (b, n, d) after all blocks, of each of n windows alone.

    Parameters
    ----------
    blocks : sequence of ResidualAttentionBlock
        For which ``fits`` holds.
    stream : tensor of shape (b, 1 + p, d)
        Class token and patches of the whole picture, as the first block receives them.
    index : int64 tensor of shape (n, l)
        Tokens of each window by their place in the stream, the class token first.
    tokens : int
        How many tokens of windows go through the blocks at a time; bounds memory.
    """
    first, rest = blocks[0], blocks[1:]
    projected = _projected(first, first.ln_1(stream))
    at_once = max(1, tokens // (len(stream) * index.shape[1]))
    parts = []
    for window in index.split(at_once):
        rows = stream[:, window].flatten(0, 1)  # (b * m, l, d)
        known = projected[:, window].flatten(0, 1)
        if rest:
            rows = _after(first, rows, known)
            for block in rest[:-1]:
                rows = _after(block, rows, _projected(block, block.ln_1(rows)))
            token = _token_after(rest[-1], rows)
        else:
            token = _after(first, rows, known)[:, 0]
        parts.append(token.unflatten(0, (len(stream), len(window))))
    return torch.cat(parts, dim=1)


def _projected(block: nn.Module, normed: torch.Tensor) -> torch.Tensor:
    """Queries, keys and values, one beside the other: (..., 3 d)."""
    return F.linear(normed, block.attn.in_proj_weight, block.attn.in_proj_bias)


def _heads(values: torch.Tensor, count: int) -> torch.Tensor:
    """(b, l, d) to (b, heads, l, d / heads)."""
    return values.unflatten(-1, (count, -1)).transpose(1, 2)


def _attended(
    block: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
) -> torch.Tensor:
    """What tokens (b, l, d) take from those with keys and values (b, m, d)."""
    heads = block.attn.num_heads
    parts = (_heads(part, heads) for part in (query, key, value))
    mixed = F.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2)
    return block.ls_1(block.attn.out_proj(mixed))


def _after(block: nn.Module, rows: torch.Tensor, projected: torch.Tensor) -> torch.Tensor:
    """Tokens (b, l, d) after a block whose projections of them are known."""
    rows = rows + _attended(block, *projected.chunk(3, dim=-1))
    return rows + block.ls_2(block.mlp(block.ln_2(rows)))


def _token_after(block: nn.Module, rows: torch.Tensor) -> torch.Tensor:
    """The class tokens (b, d) after a block."""
    width = rows.shape[-1]
    normed = block.ln_1(rows)
    weight, bias = block.attn.in_proj_weight, block.attn.in_proj_bias
    query = F.linear(normed[:, :1], weight[:width], bias[:width])
    key, value = F.linear(normed, weight[width:], bias[width:]).chunk(2, dim=-1)
    token = rows[:, :1] + _attended(block, query, key, value)
    return (token + block.ls_2(block.mlp(block.ln_2(token))))[:, 0]

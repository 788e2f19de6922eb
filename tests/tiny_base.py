"""A randomly initialised base of Stable Diffusion's form, small enough for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.full_size import SCHEDULER, TEXT, save_base

UNET: dict[str, Any] = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "cross_attention_dim": 16,
    "attention_head_dim": 2,
    "norm_num_groups": 8,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}
VAE: dict[str, Any] = {
    "sample_size": 32,
    "latent_channels": 4,
    "block_out_channels": (8, 8, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "scaling_factor": 0.5,
}
SMALL_TEXT = {
    **TEXT,
    "hidden_size": 16,
    "intermediate_size": 32,
    "projection_dim": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}


def save_tiny_base(folder: Path, **scheduler: Any) -> str:
    """Save it below a folder, perhaps with other settings of the scheduler; returns its path."""
    save_base(folder / "base", UNET, VAE, SMALL_TEXT, {**SCHEDULER, **scheduler})
    return str(folder / "base")

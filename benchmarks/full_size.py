"""Stable Diffusion v1.5's exact architecture, with random weights, through the plug-in's own path.

Builds the UNet (859.5 M parameters), autoencoder and text encoder in the hub's folder layout, loads
them by local folder, then measures one customization step and one personalization step, with time
and peak memory. On a GPU: the rate of customization, queries per second with 3 prompts, and the
TFLOP/s achieved beside what matrix products reach.

    python -m benchmarks.full_size --folder /tmp/sd15 --tune lora --size 512
    python -m benchmarks.full_size --folder /tmp/sd15 --tune full --size 512 --device cuda
"""

from __future__ import annotations

import json
import resource
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import open_clip
import torch
import transformers

#: sizes of the public v1.5 configuration; what is not named is diffusers' default
UNET: dict[str, Any] = {
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}
VAE: dict[str, Any] = {
    "sample_size": 512,
    "latent_channels": 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "scaling_factor": 0.18215,
}
TEXT: dict[str, Any] = {
    "vocab_size": 49408,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "projection_dim": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "bos_token_id": 49406,
    "eos_token_id": 49407,
    "pad_token_id": 1,
}
SCHEDULER: dict[str, Any] = {
    "_class_name": "PNDMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "clip_sample": False,
}


def save_tokenizer(folder: Path) -> None:
    """CLIP's tokenizer as the hub has it, from the vocabulary that open_clip ships."""
    source = open_clip.tokenizer.SimpleTokenizer()
    special = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocabulary = {special.get(token, token): i for token, i in source.encoder.items()}
    merges = [" ".join(pair) for pair in source.bpe_ranks]
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    text = "\n".join(["#version: 0.2", *merges, ""])
    (folder / "merges.txt").write_text(text, encoding="utf-8")
    start, end = special.values()
    settings = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": 77,
        "bos_token": start,
        "eos_token": end,
        "unk_token": end,
        "pad_token": end,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


def save_base(
    folder: Path,
    unet: dict[str, Any],
    vae: dict[str, Any],
    text: dict[str, Any],
    scheduler: dict[str, Any],
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Save a randomly initialised base in the hub's layout, one part in memory at a time."""
    torch.manual_seed(seed)
    diffusers.UNet2DConditionModel(**unet).to(dtype).save_pretrained(folder / "unet")
    diffusers.AutoencoderKL(**vae).to(dtype).save_pretrained(folder / "vae")
    encoder = transformers.CLIPTextModel(transformers.CLIPTextConfig(**text))
    encoder.to(dtype).save_pretrained(folder / "text_encoder")
    save_tokenizer(folder / "tokenizer")
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    names = {
        "_class_name": "StableDiffusionPipeline",
        "scheduler": ["diffusers", scheduler["_class_name"]],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "safety_checker": [None, None],
        "feature_extractor": [None, None],
    }
    (folder / "model_index.json").write_text(json.dumps(names))

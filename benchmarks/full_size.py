"""Stable Diffusion v1.5's exact architecture, with random weights, through the plug-in's own path.

Saves the UNet (859.5 M parameters), autoencoder and text encoder in the hub's folder layout, loads
them by local folder, then measures customization and personalization: time, peak memory, and the
FLOP/s achieved beside what a matrix product reaches here. Random weights make random images: this
says what full size costs, not what it is worth.

    python -m benchmarks.full_size --folder /tmp/sd15 --build
    python -m benchmarks.full_size --folder /tmp/sd15 --tune lora --checkpointing --train-steps 1
    python -m benchmarks.full_size --folder /tmp/sd15 --device cuda --tune full --train-steps 800
        --prior --queries 64 --evaluations 15
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import open_clip
import torch
import transformers
from safetensors.torch import save_file
from torch.utils.flop_counter import FlopCounterMode

from harness.execution.memory.cache import FeatureMemory
from harness.interface import Arrays, Image, Support
from methods.generators.dreambooth import DreamBooth

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
    encoder = transformers.CLIPTextModel(transformers.CLIPTextConfig(**text)).to(dtype)
    (folder / "text_encoder").mkdir(parents=True)
    encoder.config.save_pretrained(folder / "text_encoder")
    # the hub's file keeps the names of older versions of transformers
    named = {
        f"text_model.{n.removeprefix('text_model.')}": w for n, w in encoder.state_dict().items()
    }
    save_file(named, folder / "text_encoder" / "model.safetensors", {"format": "pt"})
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


@dataclass(frozen=True)
class Spent:
    """What a stage took; on a busy machine with one thread, ``cpu`` is what a quiet one takes."""

    seconds: float
    cpu: float
    gib: float

    def __str__(self) -> str:
        return f"{self.seconds:.1f} s ({self.cpu:.1f} s of CPU, peak {self.gib:.1f} GiB)"


class Peak:
    """Peak memory of a stage, in GiB: of the GPU, or resident of this process."""

    def __init__(self, device: str) -> None:
        self._cuda = device.startswith("cuda")
        if self._cuda:
            torch.cuda.reset_peak_memory_stats()
        else:
            Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark

    def gib(self) -> float:
        """Highest so far."""
        if self._cuda:
            return float(torch.cuda.max_memory_allocated()) / 2**30
        lines = Path("/proc/self/status").read_text().splitlines()
        line = next(one for one in lines if one.startswith("VmHWM"))
        return int(line.split()[1]) / 2**20


def timed(device: str, run: Callable[[], Any]) -> tuple[Any, Spent]:
    """What ``run`` returns, and what it took."""
    peak = Peak(device)
    begun, cpu = time.perf_counter(), time.process_time()
    returned = run()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return returned, Spent(time.perf_counter() - begun, time.process_time() - cpu, peak.gib())


def matrix_rate(device: str, dtype: torch.dtype, side: int) -> float:
    """TFLOP/s of a square matrix product, the best of five."""
    a, b = torch.randn(2, side, side, device=device).to(dtype)
    best = min(timed(device, lambda: a @ b)[1].seconds for _ in range(6))
    return 2 * side**3 / best / 1e12


def evaluation_flops(generator: DreamBooth) -> float:
    """TFLOP of one evaluation of the UNet on one latent."""
    z = torch.randn(1, *generator._shape, device=generator._device)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        generator._unet(z, 1, encoder_hidden_states=generator._free)
    return float(counter.get_total_flops()) / 1e12


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True, help="the base, about 2 GB")
    parser.add_argument("--build", action="store_true", help="save the base there and stop")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--tune", choices=("full", "lora"), default="lora")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--train-steps", type=int, default=1)
    parser.add_argument("--prior", action="store_true", help="a prior image beside each image")
    parser.add_argument("--queries", type=int, default=1)
    parser.add_argument("--prompts", type=int, default=3)
    parser.add_argument("--evaluations", type=int, default=1, help="of the UNet, per query")
    arguments = parser.parse_args()
    if arguments.build:
        save_base(arguments.folder, UNET, VAE, TEXT, SCHEDULER, dtype=torch.float16)
        size = sum(p.stat().st_size for p in arguments.folder.rglob("*") if p.is_file())
        print(f"{arguments.folder}: {size / 1e9:.2f} GB")
        return

    strength = 0.3
    generator = DreamBooth(
        base=str(arguments.folder),
        tune=arguments.tune,
        checkpointing=arguments.checkpointing,
        size=arguments.size,
        copies=1,
        train_steps=arguments.train_steps,
        prompts=arguments.prompts,
        strength=strength,
        steps=math.ceil(arguments.evaluations / strength),
    )
    device = arguments.device
    _, spent = timed(device, lambda: generator.setup(device, FeatureMemory(1 << 30)))
    count = sum(p.numel() for p in generator._unet.parameters()) / 1e6
    print(f"loaded, UNet {count:.1f} M parameters: {spent}", flush=True)
    work = evaluation_flops(generator)
    print(f"one evaluation of the UNet at {arguments.size} px: {work:.2f} TFLOP")

    random = np.random.default_rng(0)
    shape = (arguments.size, arguments.size, 3)
    images = [
        Image(str(i), random.integers(0, 256, shape, dtype=np.uint8))
        for i in range(arguments.queries + 1)
    ]
    support = Support(tuple(images[:1]), "metal nut", 0)
    prior: Arrays = {}
    if arguments.prior:
        prior = {"latents": random.standard_normal((4, *generator._shape)).astype(np.float16)}
    state, spent = timed(device, lambda: generator.customize(support, prior))
    steps, kept = arguments.train_steps, sum(a.nbytes for a in state.values()) / 1e6
    rows = 2 if arguments.prior else 1
    # forward, and twice that backward; once more where activations are recomputed
    rate = (4 if arguments.checkpointing else 3) * work * rows * steps / spent.seconds
    print(
        f"customization ({arguments.tune}, {steps} steps of {rows} images): {spent}, state "
        f"{kept:.0f} MB, {steps / spent.seconds:.3f} steps/s and about {rate:.3f} TFLOP/s, "
        "start and end included",
        flush=True,
    )
    personalized, spent = timed(device, lambda: generator.personalize(images[1:], 0))
    n = len(personalized.images)
    rate = work * 2 * len(personalized.prompts) * arguments.evaluations * n / spent.seconds
    print(
        f"personalization ({n} queries x {len(personalized.prompts)} prompts x "
        f"{arguments.evaluations} guided evaluations): {spent}, {n / spent.seconds:.4f} queries/s, "
        f"{rate:.3f} TFLOP/s in the UNet",
        flush=True,
    )
    side = 8192 if device.startswith("cuda") else 2048
    for dtype in {generator._dtype, torch.float32}:
        measured = matrix_rate(device, dtype, side)
        print(f"matrix product in {dtype}, side {side}: {measured:.3f} TFLOP/s")


if __name__ == "__main__":
    main()

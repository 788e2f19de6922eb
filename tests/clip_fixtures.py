"""A small random CLIP for tests of the methods that stand on one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import open_clip
import torch
from PIL import Image as Picture

from harness.execution.memory.cache import FeatureMemory
from harness.interface import Image

CONFIG = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 48, "layers": 3, "width": 32, "head_width": 8, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}
SIZE = 48  # 6 x 6 patches
MEAN = torch.tensor((0.48145466, 0.4578275, 0.40821073))
STD = torch.tensor((0.26862954, 0.26130258, 0.27577711))


def write_config(folder: Path) -> str:
    path = folder / "tiny.json"
    path.write_text(json.dumps(CONFIG))
    return str(path)


def memory() -> FeatureMemory:
    return FeatureMemory(1 << 28)


def pictures(count: int, height: int = 48, width: int = 48, seed: int = 0) -> tuple[Image, ...]:
    """Noise of a random colour and contrast: unlike each other even to a random network."""
    rng = np.random.default_rng(seed)
    images = []
    for i in range(count):
        base, spread = rng.uniform(40, 210, 3), rng.uniform(10, 80)
        noise = base + spread * rng.standard_normal((height, width, 3))
        images.append(Image(f"{seed}-{i}", noise.clip(0, 255).astype(np.uint8)))
    return tuple(images)


def build_model(seed: int = 0, double: bool = True) -> open_clip.CLIP:
    """open_clip's own network of the same random weights."""
    torch.manual_seed(seed)
    model = open_clip.CLIP(**CONFIG).eval().requires_grad_(False)
    return model.double() if double else model


def pixels_of(image: Image, size: int = SIZE) -> torch.Tensor:
    """Normalised pixels (1, 3, size, size) in float64, stretched."""
    picture = Picture.fromarray(image.pixels).resize((size, size), Picture.Resampling.BICUBIC)
    values = torch.from_numpy(np.array(picture)).double() / 255
    return ((values - MEAN) / STD).permute(2, 0, 1)[None]

"""DreamBooths on a tiny base: what makes them, and one customized model for all tests of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness.execution.memory.cache import FeatureMemory
from harness.interface import Arrays, Image, Support
from methods._diffusion import model
from methods.generators.dreambooth import DreamBooth
from tests.tiny_base import save_tiny_base

FAST: dict[str, Any] = {
    "train_steps": 6,
    "learning_rate": 1e-2,
    "prior_images": 3,
    "copies": 2,
    "steps": 10,
    "sample_steps": 4,
}
Make = Callable[..., DreamBooth]


def picture(seed: int, side: int = 40) -> np.ndarray:
    """A smooth random picture, so that the autoencoder has something to keep."""
    coarse = np.random.default_rng(seed).random((1, 3, 5, 5), dtype=np.float32)
    smooth = torch.nn.functional.interpolate(torch.from_numpy(coarse), (side, side + 4))
    return model.to_pixels(smooth)[0]


def images(n: int, first: int = 0) -> tuple[Image, ...]:
    return tuple(Image(f"key-{i}", picture(i)) for i in range(first, first + n))


SUPPORT = Support(images(2), "metal nut", seed=3)
QUERIES = images(4, first=10)


@cache
def base_below(folder: Path) -> str:
    """The base below a folder, saved when it is first asked for."""
    return save_tiny_base(folder / "dreambooth")


@cache
def maker(base: str) -> Make:
    """Makes set up plug-ins; all of them share what a worker shares."""
    memory = FeatureMemory(1 << 28)

    def build(**params: Any) -> DreamBooth:
        generator = DreamBooth(**{"base": base, **FAST, **params})
        generator.setup("cpu", memory)
        return generator

    return build


@cache
def customized_on(base: str) -> tuple[DreamBooth, Arrays]:
    """A LoRA model, and its state; to be left as it is."""
    generator = maker(base)(tune="lora", rank=2)
    return generator, generator.customize(SUPPORT, generator.prepare("metal nut", 0))


def reconstructions(base: str, queries: tuple[Image, ...]) -> np.ndarray:
    parts = model.load_parts(base, "cpu")
    pixels = torch.stack([model.to_tensor(q.pixels, 32, "cpu") for q in queries])
    z = model.encode(parts, pixels, torch.float32)
    return model.to_pixels(model.decode(parts, z, torch.float32))


def apart(a: np.ndarray, b: np.ndarray) -> int:
    return int(np.abs(np.asarray(a, int) - np.asarray(b, int)).max())

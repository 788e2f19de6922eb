"""A tiny base and a tiny CLIP that share their words, as Stable Diffusion 2 and ViT-H/14 do."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from safetensors.torch import save_file

from harness.execution.memory.cache import FeatureMemory
from harness.interface import Arrays, Support
from methods._diffusion import model
from methods.adp import Adp
from methods.generators.textual_inversion import TextualInversion
from tests.clip_fixtures import CONFIG, SIZE
from tests.dreambooth_fixtures import images
from tests.tiny_base import save_tiny_base

SUPPORT = Support(images(3), "metal nut", seed=3)
QUERIES = images(4, first=10)
FAST: dict[str, Any] = {
    "encoder_size": SIZE,
    "temperature": 0.5,  # of random networks, all cosines are near 1
    "train_steps": 5,
    "anomaly_steps": 4,
    "train_batch": 2,
    "learning_rate": 0.05,
    "anomalies": 4,
    "validation": 5,
    "steps": 6,
}
Make = Callable[..., TextualInversion]


class Pair:
    """Where the two lie, and plug-ins on them that share what a worker shares."""

    def __init__(self, folder: Path, **scheduler: Any) -> None:
        self.base = save_tiny_base(folder, **scheduler)
        config = folder / "tiny.json"
        config.write_text(json.dumps(CONFIG))
        torch.manual_seed(0)
        clip = open_clip.CLIP(**CONFIG)
        parts = model.load_parts(self.base, "cpu")
        with torch.no_grad():
            clip.token_embedding.weight.copy_(parts.text_encoder.get_input_embeddings().weight)
        self.clip = clip.eval().requires_grad_(False)
        weights = folder / "clip.safetensors"
        save_file({n: w.contiguous() for n, w in clip.state_dict().items()}, weights)
        self.encoder = {"model": str(config), "weights": str(weights)}
        self.memory = FeatureMemory(1 << 28)

    def generator(self, **params: Any) -> TextualInversion:
        generator = TextualInversion(
            **{"base": self.base, "encoder": self.encoder, **FAST, **params}
        )
        generator.setup("cpu", self.memory)
        return generator

    def method(self, **params: Any) -> Adp:
        method = Adp(**{"encoder": self.encoder, "size": SIZE, "temperature": 0.5, **params})
        method.setup("cpu", self.memory)
        return method


@cache
def pair_below(folder: Path) -> Pair:
    """The pair below a folder; the base predicts the velocity, as version 2.1 does."""
    return Pair(folder / "adp", prediction_type="v_prediction")


@cache
def learned_on(folder: Path) -> tuple[TextualInversion, Arrays]:
    """A generator and what it learned on ``SUPPORT``; to be left as they are."""
    generator = pair_below(folder).generator()
    return generator, generator.customize(SUPPORT, {})


def stored(state: Arrays) -> Arrays:
    """The state as it comes back from a file, read-only."""
    file = io.BytesIO()
    np.savez(file, **state)
    file.seek(0)
    with np.load(file, allow_pickle=False) as arrays:
        copied = dict(arrays)
    for array in copied.values():
        array.flags.writeable = False
    return copied

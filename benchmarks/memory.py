"""GPU memory that full-size models need, added up on torch's meta device: no GPU, no weights.

The trainers and samplers of the project run on tensors that have shapes and no contents, while
`benchmarks.counting` adds up weights, gradients, optimizer states and activations. What it does not
see is added by `on_a_card`: the allocator's gaps, and what the libraries take for themselves.

    python -m benchmarks.memory conf/table5.yaml conf/full.yaml
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import open_clip
import timm
import torch
import transformers

from benchmarks.counting import counted
from benchmarks.full_size import TEXT, UNET, VAE
from harness import config
from harness.config.sweep import Sweep
from methods._diffusion import finetune, inversion, model
from methods._encoders.towers import TextTower
from methods._learned import concepts
from methods._ops.prompts import unit

GIB = 2**30
#: what a card holds besides tensors: context, cuDNN's and cuBLAS's workspaces
_LIBRARIES = 1.0 * GIB
#: the allocator's rounding to blocks, and gaps between them
_GAPS = 1.1
#: records of features that a worker keeps at most, on the encoder's device
FEATURES = 3000 * 2**20

#: sizes of the public v2.1 configuration; what is not named is diffusers' default
UNET_2: dict[str, Any] = {
    **UNET,
    "sample_size": 96,
    "cross_attention_dim": 1024,
    "attention_head_dim": (5, 10, 20, 20),
    "use_linear_projection": True,
}
TEXT_2: dict[str, Any] = {
    **TEXT,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "projection_dim": 512,
    "num_hidden_layers": 23,
    "num_attention_heads": 16,
    "hidden_act": "gelu",
}


@dataclass(frozen=True)
class Base:
    """The architecture of a diffusion base: keyword arguments of its three networks."""

    unet: dict[str, Any]
    vae: dict[str, Any]
    text: dict[str, Any]
    prediction: str = "epsilon"


BASES = {
    "stable-diffusion-v1-5": Base(UNET, VAE, TEXT),
    "stable-diffusion-2-1": Base(UNET_2, {**VAE, "sample_size": 768}, TEXT_2, "v_prediction"),
}


def networks(base: Base) -> tuple[model.Parts, Any]:
    """The parts of a base and its UNet, frozen, on the meta device."""
    with torch.device("meta"):
        unet = diffusers.UNet2DConditionModel(**base.unet)
        vae = diffusers.AutoencoderKL(**base.vae)
        text = transformers.CLIPTextModel(transformers.CLIPTextConfig(**base.text))
    for network in (unet, vae, text):
        network.requires_grad_(False).eval()
    abar = np.linspace(0.999, 0.005, 1000)
    return model.Parts("meta", "meta", vae, text, None, None, abar, abar[0], base.prediction), unet


def sides(generator: Any, base: Base) -> tuple[int, int]:
    """Side of the images in pixels, and of their latents."""
    factor = 2 ** (len(base.vae["block_out_channels"]) - 1)
    side = generator.size or base.unet["sample_size"] * factor
    return side, side // factor


def dreambooth(
    generator: Any, base: Base, checkpointing: bool, attention: str = "fused", images: int = 8
) -> int:
    """Peak bytes of DreamBooth's `customize` with a support of ``images``, weights included."""
    full, (_, cells) = generator.tune == "full", sides(generator, base)
    random = torch.Generator().manual_seed(0)
    with counted(attention) as live:
        parts, unet = networks(base)
        if full:
            unet.requires_grad_(True)
        else:
            finetune.add_adapter(unet, generator.rank, generator.targets, random)
        length, width = base.text["max_position_embeddings"], base.unet["cross_attention_dim"]
        shown = [
            finetune.Demonstrations(
                torch.empty(n, base.unet["in_channels"], cells, cells, device="meta"),
                torch.empty(length, width, device="meta"),
                weight,
                generator.train_batch,
            )
            for n, weight in (
                (images * generator.copies, 1.0),
                (generator.prior_images, generator.prior_weight),
            )
            if n and weight
        ]
        rank = None if full else generator.rank
        how = (rank, generator.targets, 2, 1e-4, torch.bfloat16, checkpointing)
        finetune.train(parts, unet, shown, finetune.Recipe(*how), random, "meta")
        return live.peak


class _Captions:
    """As `inversion.Captions`, for tokens that nobody can look at."""

    def __init__(self, encoder: Any, length: int) -> None:
        self._encoder = encoder
        self._tokens = torch.zeros(len(concepts.INVERSION), length, dtype=torch.long, device="meta")

    def __call__(self, concept: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
        def replaced(_: Any, __: Any, embedded: torch.Tensor) -> torch.Tensor:
            embedded = embedded.clone()
            embedded[:, 4 : 4 + len(concept)] = concept
            return embedded

        hook = self._encoder.get_input_embeddings().register_forward_hook(replaced)
        try:
            hidden: torch.Tensor = self._encoder(self._tokens[which])[0]
            return hidden
        finally:
            hook.remove()


def textual_inversion(
    generator: Any, base: Base, checkpointing: bool, attention: str = "fused", images: int = 16
) -> int:
    """Peak bytes of textual inversion's `customize`, anomalous concept and CLIP included."""
    _, cells = sides(generator, base)
    with counted(attention) as live:
        parts, unet = networks(base)
        clip = encoder(generator.encoder)
        tower = TextTower(clip, lambda sentences: None)  # entered at the embeddings
        width = clip.token_embedding.embedding_dim
        words = torch.empty(len(concepts.PATTERNS), 20, width, device="meta")
        ends = torch.zeros(len(words), dtype=torch.long, device="meta")
        seen = torch.empty(images, clip.text_projection.shape[1], device="meta")
        pseudo = torch.empty(generator.anomalies, seen.shape[1], device="meta")

        def gain(concept: torch.Tensor) -> torch.Tensor:
            sentences = words.clone()
            sentences[:, 4 : 4 + len(concept)] = concept
            text = unit(tower(sentences, ends)).unflatten(0, (2, -1))
            return concepts.guidance(text, seen, pseudo, generator.alpha, generator.gamma, 0.01)

        inversion.learn(
            parts,
            unet,
            _Captions(parts.text_encoder, base.text["max_position_embeddings"]),  # type: ignore[arg-type]
            torch.empty(images, base.unet["in_channels"], cells, cells, device="meta"),
            torch.empty(generator.vectors, base.text["hidden_size"], device="meta"),
            2,
            inversion.Recipe(generator.train_batch, 1e-3, torch.bfloat16, checkpointing),
            gain if generator.objective == "adp" else None,
            torch.Generator().manual_seed(0),
            "meta",
        )
        return live.peak


def sampling(generator: Any, base: Base, attention: str = "fused") -> int:
    """Peak bytes of `generate` and `personalize`: encoding, guided denoising and decoding."""
    rows, (side, _) = generator.batch, sides(generator, base)
    with counted(attention) as live:
        parts, unet = networks(base)
        length, width = base.text["max_position_embeddings"], base.unet["cross_attention_dim"]
        texts = torch.empty(rows, length, width, device="meta")
        pixels = torch.empty(rows, 3, side, side, device="meta")
        z = model.encode(parts, pixels, torch.float16)
        z = model.denoise(parts, unet, z, (300, 200), texts, texts[:1], 7.5, dtype=torch.float16)
        model.decode(parts, z, torch.float16)
        return live.peak


def encoder(spec: dict[str, Any]) -> Any:
    """The network of an encoder's description, on the meta device."""
    with torch.device("meta"):
        if timm.is_model(spec["model"]):
            return timm.create_model(spec["model"])
        description = open_clip.get_model_config(spec["model"])
        description.pop("custom_text", None)
        return open_clip.CLIP(**description).requires_grad_(False)


def weights(network: Any) -> int:
    """Bytes of a network's weights and buffers."""
    return sum(t.nbytes for t in (*network.parameters(), *network.buffers()))


@dataclass(frozen=True)
class Need:
    """What one stage of a generator needs of a card, in bytes, `on_a_card` included."""

    generator: str
    stage: str
    size: int


def on_a_card(tensors: int) -> int:
    """Bytes that a card must have for tensors of so many."""
    return int(tensors * _GAPS + _LIBRARIES)


def beside(sweep: Sweep) -> int:
    """Bytes of what a worker may keep on its GPU beside a generator: encoders and features."""
    encoders = [getattr(_built("method", entry), "encoder", None) for entry in sweep.methods]
    specs = {str(spec): spec for spec in encoders if spec}
    return FEATURES + sum(weights(encoder(spec)) for spec in specs.values())


def base_of(generator: Any) -> Base:
    """The architecture that a generator's ``base`` names."""
    return BASES[generator.base.partition("@")[0].rpartition("/")[2]]


def needs(sweep: Sweep, checkpointing: bool, attention: str = "fused") -> list[Need]:
    """What a worker needs at most while it customizes, generates and personalizes.

    A generator that customizes has the card to itself, with what it shares. While it samples,
    encoders and features of all methods of the sweep may lie beside it.
    """
    out = []
    for name, entry in sweep.generators.items():
        generator = _built("generator", entry)
        base = base_of(generator)
        trainer = dreambooth if entry.use == "dreambooth" else textual_inversion
        sizes = {
            "customize": trainer(generator, base, checkpointing, attention),
            "sample": beside(sweep) + sampling(generator, base, attention),
        }
        out += [Need(name, stage, on_a_card(size)) for stage, size in sizes.items()]
    return out


def _built(kind: str, entry: Any) -> Any:
    return config.build(kind, entry.use, entry.params)


def main() -> None:
    """Print what each config needs, with activations kept and recomputed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("configs", type=Path, nargs="+")
    for path in parser.parse_args().configs:
        for checkpointing in (False, True):
            for need in needs(config.load(path), checkpointing):
                how = "recomputed" if checkpointing else "kept"
                size = f"{need.size / 1e9:6.1f} GB"
                print(f"{path.stem:16} {need.generator:12} {need.stage:10} {how:10} {size}")


if __name__ == "__main__":
    main()

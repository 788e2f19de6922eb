"""What full-size models need of a GPU: added up without one, and held under the cards' memory."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any
from unittest import mock

import diffusers
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks import counting, memory
from benchmarks.full_size import UNET, VAE
from harness import config
from methods._diffusion import finetune, model
from tests.tiny_base import SMALL_TEXT

CONF = Path(__file__).parents[1] / "conf"
SMALL: dict[str, Any] = {
    **UNET,
    "sample_size": 32,
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "cross_attention_dim": 16,
    "attention_head_dim": 4,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}
TINY = memory.Base(SMALL, {**VAE, "block_out_channels": (32, 32, 32, 32)}, SMALL_TEXT)
#: with weights of their own: sizes, as configs name them, of every shipped sweep that customizes
FULL = [
    path.stem
    for path in sorted(CONF.glob("*.yaml"))
    if path.stem not in ("costs", "demo")
    and "micro" not in path.stem
    and config.load(path).generators
]


def test_the_configs_at_hand() -> None:
    assert {"full", "table1", "table5", "adp_table1", "adp_table2", "ablations"} <= set(FULL)


@pytest.mark.parametrize(("tune", "recompute"), [("full", False), ("lora", True)])
def test_the_estimate_is_what_training_takes(tune: str, recompute: bool) -> None:
    """Beside the memory that torch's allocator really hands out on the host, in float32."""
    rows = [(4, 1.0), (2, 1.0)]
    frozen, _ = memory.networks(TINY)  # only its schedule is looked at

    def train(device: str) -> None:
        with torch.device(device):
            unet = diffusers.UNet2DConditionModel(**SMALL).requires_grad_(tune == "full")
        unet.eval()
        random = torch.Generator().manual_seed(0)
        if tune == "lora":
            finetune.add_adapter(unet, 4, "attention", random)
        parts = replace(frozen, device=device)
        shown = [
            finetune.Demonstrations(
                torch.zeros(n, 4, 32, 32, device=device), torch.zeros(7, 16, device=device), w, 2
            )
            for n, w in rows
        ]
        rank = None if tune == "full" else 4
        recipe = finetune.Recipe(rank, "attention", 2, 1e-4, torch.float32, recompute)
        finetune.train(parts, unet, shown, recipe, random, "test")

    with torch.autograd.profiler.profile(profile_memory=True) as real:
        train("cpu")
    events = [e for e in real.kineto_results.events() if e.name() == "[memory]"]
    taken = max(accumulate(e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())))
    with counting.counted() as live:
        train("meta")
    assert live.peak == pytest.approx(taken, rel=0.05)


def test_mixed_precision_is_stood_in_for_as_cuda_does_it() -> None:
    """Beside torch's own autocast, on a fake GPU, where attention has no fused kernel."""

    def forward(device: str) -> None:
        with torch.device(device):
            unet = diffusers.UNet2DConditionModel(**SMALL)
            rows, text = torch.empty(2, 4, 32, 32), torch.empty(2, 7, 16)
            t = torch.empty(2, dtype=torch.long)
        with model.autocast(device, torch.bfloat16):
            unet(rows, t, encoder_hidden_states=text, return_dict=False)

    with counting.counted("plain") as live:
        forward("meta")
    available = "torch.cuda.amp.common.amp_definitely_not_available"
    with (
        warnings.catch_warnings(),
        mock.patch(available, return_value=False),
        mock.patch("torch.cuda.is_bf16_supported", return_value=True),
        FakeTensorMode(),
        counting.Live() as fake,
    ):
        warnings.simplefilter("ignore")
        forward("cuda")
    assert live.peak == pytest.approx(fake.peak, rel=0.02)


def test_weights_are_those_of_the_published_models() -> None:
    """Parameters of the hubs' files, as their pages and headers say: 859.5, 865.9 and 83.7 M."""
    counts = {}
    for name, base in memory.BASES.items():
        parts, unet = memory.networks(base)
        networks = (unet, parts.vae, parts.text_encoder)
        counts[name] = [round(sum(p.numel() for p in n.parameters()) / 1e6, 1) for n in networks]
    assert counts["stable-diffusion-v1-5"] == [859.5, 83.7, 123.1]
    assert counts["stable-diffusion-2-1"] == [865.9, 83.7, 340.4]


@lru_cache
def customizing(use: str, params: str, recompute: bool, attention: str = "fused") -> float:
    """GB of a card; ``params`` are those that the size of a step depends on."""
    generator = config.build("generator", use, json.loads(params))
    trainer = memory.dreambooth if use == "dreambooth" else memory.textual_inversion
    size = trainer(generator, memory.base_of(generator), recompute, attention)
    return memory.on_a_card(size) / 1e9


@lru_cache
def sampling(use: str, params: str) -> int:
    generator = config.build("generator", use, json.loads(params))
    return memory.sampling(generator, memory.base_of(generator))


def traits(use: str, params: dict[str, Any], stage: str) -> str:
    names = {"base", "size"} | (
        {"batch"}
        if stage == "sample"
        else {"tune", "rank", "targets", "train_batch", "objective", "encoder"}
    )
    if params.get("prior_images") == 0:
        names |= {"prior_images"}
    return json.dumps({n: v for n, v in params.items() if n in names}, sort_keys=True)


@pytest.mark.parametrize("name", FULL)
def test_a_shipped_config_fits_the_card(name: str) -> None:
    """24 GB with activations recomputed where need be, 40 GB without; all else there too."""
    sweep = config.load(CONF / f"{name}.yaml")
    beside = memory.beside(sweep)
    for label, entry in sweep.generators.items():
        stage = traits(entry.use, entry.params, "customize")
        kept = customizing(entry.use, stage, False)
        least = kept if kept < 24 else customizing(entry.use, stage, True)
        assert kept < 40, (name, label)
        assert least < 24, (name, label)
        sampled = sampling(entry.use, traits(entry.use, entry.params, "sample"))
        assert memory.on_a_card(sampled + beside) / 1e9 < 24, (name, label)


def test_recomputing_makes_room_where_attention_has_no_fused_kernel() -> None:
    """The paper's full tuning on a card of 24 GB that keeps every score of every head."""
    kept, recomputed = (customizing("dreambooth", "{}", again, "plain") for again in (False, True))
    assert kept > 24 > recomputed
    assert 17 < customizing("dreambooth", "{}", False) < 20

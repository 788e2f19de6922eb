"""One-to-Normal's departures from the paper, each once at the shapes of its full size."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import ClassVar

import diffusers
import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks import full_size
from harness.interface import Image, Queries, Support
from methods._diffusion.edit import Editor
from methods._diffusion.model import Parts
from methods._encoders.encoding import Encoding
from methods._o2n.branches import Comparison
from methods._o2n.compare import score_of
from methods._o2n.fusion import CHOICES, fused
from methods._o2n.text import TextLayers
from methods.o2n import O2n
from tests.clip_fixtures import memory, pictures
from tests.o2n_fixtures import support


@pytest.mark.parametrize("against", ["query", "reconstruction", "excess", "bank"])
@pytest.mark.parametrize("scope", ["all", "same-cell"])
def test_every_comparison_at_the_papers_size(against: str, scope: str) -> None:
    """ViT-L/14 at 240 px, four levels, a bank of 30 images, three prompts; no memory behind it."""
    with FakeTensorMode():
        queries, rebuilt, bank, *personalized = (
            [torch.empty(count, 17, 17, 1024) for _ in range(4)] for count in (8, 8, 30, 8, 8, 8)
        )
        comparison = Comparison(against, "min", scope, "mean", 3)
        branches = comparison.branches(queries, rebuilt, personalized, bank)
        assert set(branches) == {"S_P", "S_N", "S_min", "floor"}
        for maps in branches.values():
            assert [tuple(level.shape) for level in maps] == [(8, 17, 17)] * 4


def test_rehearsing_at_the_papers_size() -> None:
    """Stable Diffusion v1.5 edits damaged supports, ViT-L/14 compares them; no memory behind it."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        editor = Editor(
            parts=Parts(
                name="full size",
                device="cpu",
                vae=diffusers.AutoencoderKL(**full_size.VAE),
                text_encoder=None,
                tokenizer=None,
                scheduler=None,
                abar=np.linspace(1, 0, 1000),
                last_abar=1.0,
                prediction="epsilon",
            ),
            unet=diffusers.UNet2DConditionModel(**full_size.UNET),
            features=memory(),
            side=512,
            steps=20,
            scheduler="ddim",
            start="exact",
            guidance=1.0,
            dtype=torch.float32,
            vae_dtype=torch.float32,
            batch=8,
            free=torch.empty(1, 77, 768),
            who="test",
        )
        latents, noise = torch.empty(2, 2, *editor.shape)
        edited = editor.edited(latents, noise, torch.empty(2, 77, 768), 0.05)
        assert tuple(edited.shape) == (2, 3, 512, 512)
        act, personalized, bank = (
            [torch.empty(count, 17, 17, 1024) for _ in range(4)] for count in (1, 1, 8)
        )
        others = [torch.cat([level[:3], level[4:]]) for level in bank]
        branches = Comparison("bank").branches(act, None, [personalized], others)
        for maps in branches.values():
            assert tuple(score_of(maps, False).shape) == (1,)


class FullSize:
    """ViT-L/14 at 240 px, as far as shapes go: what it says of an image is drawn from its key."""

    name = "drawn"
    dims: ClassVar[dict[int, int]] = dict.fromkeys(range(1, 25), 1024)

    def encode(self, images: Sequence[Image], size: int, levels: Sequence[int]) -> list[Encoding]:
        def drawn(image: Image) -> Encoding:
            random = torch.Generator().manual_seed(zlib.crc32(image.key.encode()))
            maps = tuple(torch.randn(17, 17, 1024, generator=random) for _ in levels)
            return Encoding(maps, torch.randn(768, generator=random))

        return [drawn(image) for image in images]


class Rehearser:
    """Makes an image of its own of every picture; no diffusion model behind it."""

    def personalized(self, cell: Support, images: Sequence[Image]) -> list[Image]:
        return [Image(f"{image.key}/personalized", image.pixels) for image in images]


@pytest.mark.parametrize("how", sorted(CHOICES))
def test_choosing_weights_at_the_papers_size(how: str) -> None:
    """All of `fit` and `predict`, adapter and class token, at the shapes of the defaults."""
    images, queries = pictures(3, seed=40), pictures(1, seed=50)
    personalized = Rehearser().personalized(support(), queries)
    for text in ("adapter", "class-token"):
        method = O2n(weights=how, personalizer={}, rehearsals=3, text=text)
        method._features, method._device, method._encoder = memory(), "cpu", FullSize()
        method._levels, method._autoencoder, method._layers = (6, 12, 18, 24), None, None
        method._prototypes = lambda name: torch.eye(2, 768)
        method._personalizer = Rehearser()
        if text == "adapter":
            method.load(TextLayers.fresh([1024] * 4, 768, seed=0, device="cpu").arrays())
        method.fit(support(references=images, pool=images))
        prediction = method.predict(Queries(tuple(queries), tuple(personalized)))
        assert set(prediction.parts) == {"S_P", "S_N", "S_text"}
        expected = fused(prediction.parts, method._weights, "sum")
        np.testing.assert_allclose(prediction.scores, expected, rtol=1e-6)
        assert method._weights.normal == 1
        assert np.isfinite(prediction.maps).all()

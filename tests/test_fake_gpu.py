"""What methods and generators are made of, on a fake GPU: no operation may mix devices or types.

Tensors have a device, a type and a shape, and no contents, so a mistake that only a GPU would show
(a table left on the host, a half against a float) raises here. The backward pass is left out: torch
does not take it on a device that is not there.
"""

from __future__ import annotations

from collections.abc import Iterator

import diffusers
import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from methods._diffusion import model
from methods._diffusion.inversion import denoising_error
from methods._o2n.compare import bank_distance, personalized_distance
from methods._o2n.text import TextLayers
from methods._ops import maps
from methods._ops.bank import Bank
from methods._ops.gaussian import gaussians
from methods._ops.windows import harmonic_mean, nearest, spread, upsample
from tests.tiny_base import UNET, VAE


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda *_: True)
    with FakeTensorMode():
        yield


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_encoding_noising_a_training_step_and_decoding(gpu: None, dtype: torch.dtype) -> None:
    with torch.device("cuda"):
        vae = diffusers.AutoencoderKL(**VAE).requires_grad_(False).eval()
        unet = diffusers.UNet2DConditionModel(**UNET)
        text, pixels = torch.empty(2, 7, 16), torch.empty(2, 3, 32, 32)
        noise, t = torch.empty(2, 4, 8, 8), torch.ones(2, dtype=torch.int64)
    abar = np.linspace(0.999, 0.01, 1000)
    for prediction in ("epsilon", "v_prediction", "sample"):
        parts = model.Parts("tiny", "cuda", vae, None, None, None, abar, abar[0], prediction)
        z = model.encode(parts, pixels, dtype)
        assert (z.shape, z.dtype, z.device.type) == ((2, 4, 8, 8), torch.float32, "cuda")
        error = denoising_error(parts, unet, z, noise, t, text, dtype)
        assert (error.shape, error.dtype, error.device.type) == ((2,), torch.float32, "cuda")
        decoded = model.decode(parts, z, dtype)
        assert (decoded.shape, decoded.dtype) == ((2, 3, 32, 32), torch.float32)


def test_banks_gaussians_windows_maps_and_text_layers(gpu: None) -> None:
    cuda = {"device": "cuda"}
    points = torch.empty(300, 160, **cuda)
    bank = Bank(points)
    rows = bank.centred(torch.empty(2, 50, 160, **cuda))
    assert bank.nearest(rows.flatten(0, 1), 2).device.type == "cuda"
    index, _ = bank.closest(rows[:, 0])
    assert bank.around(index, 3).shape == (2, 3)
    pyramid = [torch.empty(3, side, side, 5, **cuda) for side in (8, 4)]
    fitted = gaussians([pyramid], 3, 0.01)
    assert fitted.distances(pyramid).device.type == "cuda"
    scores = torch.empty(2, 7, 7, **cuda)
    parts = [spread(scores, 2), torch.empty(2, 1, 1, **cuda)]
    assert upsample(harmonic_mean(parts), (16, 16)).device.type == "cuda"
    assert nearest(torch.empty(2, 9, 6, **cuda), torch.empty(20, 6, **cuda)).shape == (2, 9)
    assert maps.smooth(scores, 16, 2.0).shape == (2, 16, 16)
    levels = [torch.empty(8, 8, 4, **cuda), torch.empty(4, 4, 6, **cuda)]
    for dims in (None, 12):
        assert maps.patch_features(levels, 3, dims).device.type == "cuda"
    features = torch.empty(2, 4, 4, 6, **cuda)
    for search in (1, 3):
        assert personalized_distance(features, features, search).shape == (2, 4, 4)
    assert bank_distance(features.flatten(1, 2), features.flatten(0, 2)).shape == (2, 16)
    layers = TextLayers.fresh([6], 5, 0, "cuda")
    (logits,) = layers.logits([features], torch.empty(2, 5, **cuda), 0.01)
    assert (logits.shape, logits.device.type) == ((2, 2, 4, 4), "cuda")

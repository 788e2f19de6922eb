"""Refining the shipped decoder and denoiser: what it changes, and what it must not."""

from __future__ import annotations

import shutil
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from methods.micro import refine


@pytest.fixture(scope="module")
def vae() -> diffusers.AutoencoderKL:
    return diffusers.AutoencoderKL.from_pretrained(refine.HOME / "vae", torch_dtype=torch.float32)


def test_the_shipped_encoder_is_one_matrix(vae: diffusers.AutoencoderKL) -> None:
    x = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        expected = vae.encode(x).latent_dist.mode()
    torch.testing.assert_close(refine.LinearEncoder(vae)(x), expected, atol=2e-3, rtol=0)


def test_distances_are_those_that_s_p_is_made_of() -> None:
    see = refine.Perception()
    x, y = torch.rand(2, 1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    for level, a, b in zip(see.distances(x, y), see.maps(x), see.maps(y), strict=True):
        cosine = torch.nn.functional.cosine_similarity(a, b, dim=1)
        torch.testing.assert_close(level, 1 - cosine, atol=1e-5, rtol=0)
    assert [level.shape[1] for level in see.distances(x, x)] == [8, 4, 2]  # strides 8, 16, 32
    assert not any(level.any() for level in see.distances(x, x))


def test_refining_resumes_and_leaves_the_latent_space_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def few(out: Path, side: int) -> np.ndarray:
        return np.random.default_rng(side).integers(0, 256, (2, 2, side, side, 3)).astype(np.uint8)

    monkeypatch.setattr(refine, "pictures", few)
    monkeypatch.setattr(refine, "CROP", 32)
    target = tmp_path / "diffusion"
    shutil.copytree(refine.HOME, target)
    options = ["--out", str(tmp_path / "out"), "--decoder", "1e-6", "--denoiser", "1e-6"]
    for _ in range(2):  # the second time the minutes are over
        refine.main([*options, "--target", str(target)])
    for stage in ("decoder", "denoiser"):
        assert torch.load(tmp_path / "out" / f"{stage}.pt")["step"] == 1
    for part, trained in (("vae", ("decoder.", "post_quant_conv.")), ("unet", ("",))):
        name = f"{part}/diffusion_pytorch_model.safetensors"
        before, after = load_file(refine.HOME / name), load_file(target / name)
        assert before.keys() == after.keys()
        changed = {n for n in before if not torch.equal(before[n], after[n])}
        assert changed
        assert all(n.startswith(trained) for n in changed)
        assert all(tensor.dtype == torch.float16 for tensor in after.values())


def test_pictures_are_rendered_once(tmp_path: Path) -> None:
    first = refine.pictures(tmp_path, 32, pairs=2)
    assert first.shape == (2, 2, 32, 32, 3)
    assert (first[:, 0] != first[:, 1]).any()
    stamp = (tmp_path / "pairs32.npy").stat().st_mtime_ns
    refine.pictures(tmp_path, 32, pairs=2)
    assert (tmp_path / "pairs32.npy").stat().st_mtime_ns == stamp

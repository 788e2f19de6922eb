"""Refining the shipped decoder and denoiser: what it changes, and what it must not."""

from __future__ import annotations

import shutil
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file

from datasets.surfaces import Surfaces
from methods.micro import models, refine, restore


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
    stamp = (tmp_path / "2-pairs-32.npy").stat().st_mtime_ns
    refine.pictures(tmp_path, 32, pairs=2)
    assert (tmp_path / "2-pairs-32.npy").stat().st_mtime_ns == stamp


def test_pairs_stay_pairs_when_they_are_cut_and_recoloured() -> None:
    clean = np.random.default_rng(0).integers(0, 256, (3, 1, 160, 160, 3)).astype(np.uint8)
    same, chosen = restore.batch(
        np.random.default_rng(1), np.repeat(clean, 2, 1), 12, np.full(3, 1 / 3)
    )
    assert same.shape == (12, 2, 128, 128, 3)
    np.testing.assert_array_equal(same[:, 0], same[:, 1])
    assert set(chosen) == {0, 1, 2}


def test_restoring_resumes_and_changes_the_denoiser_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = np.random.default_rng(0).integers(0, 256, (2, 2, 128, 128, 3)).astype(np.uint8)
    monkeypatch.setattr(refine, "pictures", lambda out, side, n: pairs)
    monkeypatch.setattr(restore, "BATCH", 2)
    target = tmp_path / "diffusion"
    shutil.copytree(refine.HOME, target)
    for _ in range(2):  # the second time the minutes are over
        arguments = ["--out", str(tmp_path / "out"), "--minutes", "1e-6", "--target", str(target)]
        restore.main(arguments)
    assert torch.load(tmp_path / "out" / "denoiser.pt")["step"] == 1
    before, after = (
        {
            str(path.relative_to(home)): path.read_bytes()
            for path in home.rglob("*")
            if path.is_file()
        }
        for home in (refine.HOME, target)
    )
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"unet/diffusion_pytorch_model.safetensors"}


def test_the_shipped_denoiser_takes_damage_off_families_it_never_saw(
    vae: diffusers.AutoencoderKL,
) -> None:
    """One evaluation at t = 50, by the formula of x0; error to the clean picture in the mask."""
    data = Surfaces(n_train=1, n_test=4, seed=41, size=128)
    samples = [s for name in data.categories() for s in data.test(name) if s.label]
    damaged, clean = (
        torch.from_numpy(np.stack([np.asarray(data.open(one.image)) for one in some]))
        .permute(0, 3, 1, 2)
        .float()
        / 127.5
        - 1
        for some in (samples, [data.clean(s) for s in samples])
    )
    inside = torch.from_numpy(np.stack([np.asarray(data.open(s.mask or "")) > 0 for s in samples]))
    words = [f"a photo of normal {data.object_name(s.image.split('/')[0])}" for s in samples]
    tokens = models.ids(models.tokenizer(refine.HOME / "tokenizer"), words)
    text = transformers.CLIPTextModel.from_pretrained(refine.HOME / "text_encoder")
    unet = diffusers.UNet2DConditionModel.from_pretrained(refine.HOME / "unet").float().eval()
    kept = models.scheduler().alphas_cumprod[50]
    with torch.inference_mode():
        z = vae.encode(damaged).latent_dist.mode()
        noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(0))
        noisy = kept.sqrt() * z + (1 - kept).sqrt() * noise
        state = text.float()(input_ids=tokens).last_hidden_state
        restored = (noisy - (1 - kept).sqrt() * unet(noisy, 50, state).sample) / kept.sqrt()
        errors = [
            (vae.decode(latent).sample - clean).square().mean(1)[inside].mean()
            for latent in (restored, z)
        ]
    assert errors[0] < 0.75 * errors[1], errors

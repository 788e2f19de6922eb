from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import diffusers
import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
import transformers
from safetensors import safe_open

from benchmarks.micro import ZeroShot, psnr, zero_shot
from datasets._rendering.render import TRAINING
from datasets.surfaces import Surfaces
from methods.micro import models
from methods.micro.blocks import Blocks
from methods.micro.clip_model import MicroClip
from methods.micro.data import DAMAGE, Corpus, caption, subject
from methods.micro.loop import FastGroupNorm, Loop
from methods.micro.train import main
from tests.sweeps import waited

ROOT = Path(__file__).parents[1]
HOME = ROOT / "methods" / "micro"
DIFFUSION = HOME / "diffusion"


@pytest.fixture(scope="module")
def pipe():
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(DIFFUSION)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def judge():
    return ZeroShot()


def draw(pipe, sentences, seeds, steps=4):
    noise = [torch.Generator().manual_seed(seed) for seed in seeds]
    drawn = pipe(
        sentences,
        height=128,
        width=128,
        num_inference_steps=steps,
        guidance_scale=3.0,
        generator=noise,
        output_type="np",
    )
    return drawn.images


def test_a_plain_pipeline_loads_it_and_draws_what_the_seed_says(pipe):
    assert type(pipe.unet) is diffusers.UNet2DConditionModel
    assert type(pipe.vae) is diffusers.AutoencoderKL
    assert type(pipe.text_encoder) is transformers.CLIPTextModel
    assert pipe.scheduler.config.prediction_type == "epsilon"
    assert {m.dtype for m in (pipe.unet, pipe.vae, pipe.text_encoder)} == {torch.float32}
    first = draw(pipe, ["a photo of bricks", "a photo of a gear"], [3, 4])
    again = draw(pipe, ["a photo of bricks", "a photo of a gear"], [3, 4])
    other = draw(pipe, ["a photo of bricks"], [5])
    assert first.shape == (2, 128, 128, 3)
    assert np.isfinite(first).all()
    assert (first == again).all()
    assert np.abs(first[0] - other[0]).mean() > 0.01


def test_all_weights_are_half_precision_and_together_below_30_megabytes():
    files = sorted(HOME.rglob("*.safetensors"))
    assert [str(f.relative_to(HOME)) for f in files] == [
        "clip/model.safetensors",
        "diffusion/text_encoder/model.safetensors",
        "diffusion/unet/diffusion_pytorch_model.safetensors",
        "diffusion/vae/diffusion_pytorch_model.safetensors",
    ]
    assert sum(f.stat().st_size for f in files) <= 30e6
    for path in files:
        with safe_open(path, "pt") as tensors:
            kinds = {tensors.get_slice(name).get_dtype() for name in tensors.keys()}  # noqa: SIM118
        assert kinds == {"F16"}


def test_the_tokenizer_is_clips(pipe):
    sentences = [
        "a photo of a flawless bottle top, 12.5% worn.",
        "don't; naïve CAFÉ -- #3 (no. 7)",
        "",
        "word " * 100,
    ]
    ours = models.ids(pipe.tokenizer, sentences)
    theirs = open_clip.tokenize(sentences)
    for mine, reference in zip(ours, theirs, strict=True):
        end = int(reference.argmax()) + 1
        assert mine[:end].tolist() == reference[:end].tolist()
        assert (mine[end:] == models.END).all()


def test_both_models_share_one_text_encoder_and_padding_does_not_matter(pipe):
    clip = MicroClip.load()
    sentences = ["a photo of damaged wood", "a flawless gear"]
    with torch.inference_mode():
        pooled = pipe.text_encoder(models.ids(pipe.tokenizer, sentences)).pooler_output
        expected = pooled @ clip.text.text_projection.weight.T
        zeros_after_the_end = clip.text_features(open_clip.tokenize(sentences))
        ends_after_the_end = clip.text_features(models.ids(pipe.tokenizer, sentences))
    torch.testing.assert_close(ends_after_the_end, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(zeros_after_the_end, expected, rtol=1e-5, atol=1e-5)


def test_the_encoder_is_the_linear_map_it_claims_to_be():
    rng = np.random.default_rng(0)
    quadrant = np.linalg.qr(rng.standard_normal((48, 48)))[0][:, :32]
    blocks = Blocks(quadrant, rng.standard_normal((4, 32, 16)) / 9, rng.standard_normal(16))
    vae = models.autoencoder().eval()
    blocks.write(vae)
    pixels = rng.integers(0, 256, (2, 64, 48, 3), dtype=np.uint8)
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.inference_mode():
        posterior = vae.encode(x).latent_dist
    np.testing.assert_allclose(posterior.mode().numpy(), blocks.encode(pixels), atol=2e-3)
    # one block by hand: its 192 numbers in the order row, column, colour
    block = pixels[1, 8:16, 40:48].reshape(-1) / 127.5 - 1
    by_hand = block @ blocks.matrix + blocks.offset
    np.testing.assert_allclose(posterior.mode()[1, :, 1, 5].numpy(), by_hand, atol=2e-3)


def test_measured_blocks_are_principal_components():
    from sklearn.decomposition import PCA

    data = Surfaces(n_train=4)
    pixels = np.stack([data.open(s.image) for c in data.categories() for s in data.train(c)])
    x = pixels.reshape(-1, 16, 8, 16, 8, 3).transpose(0, 1, 3, 2, 4, 5).reshape(-1, 192)
    z = Blocks.measure(pixels).encode(pixels).transpose(0, 2, 3, 1).reshape(-1, 16)
    best = PCA(16).fit(x)
    residual = np.square(x - best.inverse_transform(best.transform(x))).mean()
    with_one = np.c_[z, np.ones(len(z))]
    ours = x - with_one @ np.linalg.lstsq(with_one, x, rcond=None)[0]
    assert np.square(ours).mean() < 1.15 * residual
    correlation = np.corrcoef(z.T) - np.eye(16)
    assert np.abs(correlation).max() < 0.1


def test_embedded_latents_have_unit_scale_and_follow_a_shift_by_a_block(pipe):
    data = Surfaces(n_train=2)
    pixels = np.stack([data.open(s.image) for c in data.categories() for s in data.train(c)])
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.inference_mode():
        z = pipe.vae.encode(x).latent_dist.mode()
        shifted = pipe.vae.encode(x.roll(8, 2)).latent_dist.mode()
    assert 0.5 < float(z.std() * pipe.vae.config.scaling_factor) < 2
    torch.testing.assert_close(shifted[:, :, 1:], z[:, :, :-1], atol=1e-3, rtol=0)


def test_reconstruction_of_held_out_categories(pipe):
    data = Surfaces(n_train=3)
    quality = {
        category: np.mean([psnr(pipe.vae, data.open(s.image)) for s in data.train(category)])
        for category in data.categories()
    }
    assert np.mean(list(quality.values())) >= 28, quality


def test_zero_shot_on_held_out_categories(judge):
    data = Surfaces(n_test=22)
    scores = [zero_shot(data, category, 22, judge)[0] for category in ("wood", "washer", "leather")]
    assert np.mean(scores) >= 0.75, scores


def test_patches_point_at_the_damage(judge):
    data = Surfaces(n_test=24)
    direction = judge.direction("leather")
    ratios = []
    for sample in data.test("leather")[12:]:
        with torch.inference_mode():
            patches = judge.clip.patch_features(judge.levels(data.open(sample.image)))[0]
        similarity = (F.normalize(patches, dim=-1) @ direction).numpy()
        share = (data.open(sample.mask) > 0).reshape(16, 8, 16, 8).mean((1, 3))
        ratios.append(similarity[share >= 0.5 * share.max()].mean() - similarity[share == 0].mean())
    assert np.mean(ratios) > 0.1
    assert np.mean(np.array(ratios) > 0) > 0.8


def test_windows_are_images_of_their_own(judge):
    clip = judge.clip
    rng = np.random.default_rng(0)
    levels = [
        torch.from_numpy(rng.standard_normal((1, side, side, width), dtype=np.float32))
        for side, width in ((12, 40), (6, 112), (3, 320))
    ]
    with torch.inference_mode():
        units = clip.units(clip.gather(levels))
        windows = clip.window_features(levels, 2)
        assert windows.shape == (1, 5, 5, models.JOINT)
        by_hand = clip.image_of_units(units[:, 3:5, 1:3])
        whole = clip.window_features(levels, 6)
        torch.testing.assert_close(windows[:, 3, 1], by_hand, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            whole[:, 0, 0], clip.image_features(levels), rtol=1e-4, atol=1e-5
        )


def test_the_denoiser_listens_to_the_text(pipe):
    from datasets._rendering.render import render

    families = list(TRAINING)
    pixels = np.stack([render(f, ("test", f), ("test", f), 128).pixels for f in families])
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
    right = [f"a photo of normal {TRAINING[f][1]}" for f in families]
    noise = torch.randn(len(families), 16, 16, 16, generator=torch.Generator().manual_seed(0))
    t = torch.full((len(families),), 700)
    with torch.inference_mode():
        z = pipe.vae.encode(x).latent_dist.mode()
        noisy = pipe.scheduler.add_noise(z, noise, t)
        errors = []
        for sentences in (right, right[7:] + right[:7]):
            condition = pipe.text_encoder(models.ids(pipe.tokenizer, sentences)).last_hidden_state
            predicted = pipe.unet(noisy, t, condition).sample
            errors.append((predicted - noise).square().mean((1, 2, 3)))
    # the best guess of who knows only that latents have deviation 1
    kept = (1 - pipe.scheduler.alphas_cumprod[700]).sqrt()
    blind = (kept * noisy - noise).square().mean()
    assert errors[0].mean() < 0.94 * errors[1].mean()
    assert (errors[0] < errors[1]).float().mean() > 0.7
    assert errors[0].mean() < 0.65 * blind


def test_captions_tell_the_state():
    rng = np.random.default_rng(0)
    words = {word for phrases in DAMAGE.values() for word in phrases}
    for _ in range(300):
        normal = caption(rng, "gear", None)
        damaged = caption(rng, "gear", "crack")
        assert "gear" in normal
        assert "gear" in damaged
        assert "damaged" not in normal
        assert not any(f"with {word}" in normal for word in words)
        state = ("damaged", "abnormal", "defective", "broken", "with")
        assert any(word in damaged for word in state)


def test_fast_group_normalisation_has_the_gradients_of_torch():
    torch.manual_seed(0)
    reference = torch.nn.GroupNorm(4, 16)
    torch.nn.init.normal_(reference.weight)
    quick = torch.nn.GroupNorm(4, 16)
    quick.load_state_dict(reference.state_dict())
    quick.__class__ = FastGroupNorm
    x = torch.randn(3, 16, 5, 7).to(memory_format=torch.channels_last)
    weight = torch.randn(3, 16, 5, 7)
    grads = []
    for module in (reference, quick):
        own = x.clone().requires_grad_()
        y = module(own)
        (y * weight).sum().backward()
        grads.append((y, own.grad, module.weight.grad, module.bias.grad))
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_a_loop_goes_on_where_it_was_saved(tmp_path):
    def train(limit, resume):
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 1)
        optimizer = torch.optim.Adam(model.parameters(), 0.01)
        parts = {"model": model, "optimizer": optimizer}
        loop = Loop(tmp_path / "toy.pt", parts, minutes=1, resume=resume)
        for step in loop:
            if step == limit:
                break
            loss = model(torch.full((2, 3), float(step % 5))).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step == 6:
                loop.step += 1  # the step is done when it is saved
                loop.save()
                loop.step -= 1
        return model.weight.detach().clone()

    straight = train(12, resume=False)
    train(9, resume=False)  # stopped two steps after its checkpoint
    assert torch.equal(train(12, resume=True), straight)


def test_training_from_nothing_survives_a_kill_and_exports_what_loads(tmp_path, capsys):
    command = [sys.executable, "-m", "methods.micro.data", "--out", str(tmp_path / "corpus")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    killed = subprocess.Popen([*command, "--pairs", "4000"], cwd=ROOT, env=environment)
    ready = tmp_path / "corpus" / "ready"
    waited(ready.exists, "rendered pairs", killed)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    rendered = int(ready.read_text())
    assert 0 < rendered < 4000
    exported = tmp_path / "made"
    options = ["--out", str(tmp_path), "--pairs", str(rendered), "--minutes", "0.02"]
    main([*options, "--stage", "autoencoder"])
    first = torch.load(tmp_path / "autoencoder.pt", weights_only=True)
    main([*options, "--resume", "--target", str(exported)])  # all stages; one has no time left
    again = torch.load(tmp_path / "autoencoder.pt", weights_only=True)
    assert again["step"] == first["step"] > 0
    assert all(torch.equal(again["model"][k], first["model"][k]) for k in first["model"])
    assert sum(f.stat().st_size for f in exported.rglob("*.safetensors")) <= 30e6
    assert "clip/model.safetensors" in capsys.readouterr().out
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(exported / "diffusion")
    pipe.set_progress_bar_config(disable=True)
    assert draw(pipe, ["a photo of a gear"], [0], steps=2).shape == (1, 128, 128, 3)
    clip = MicroClip.load(exported / "clip", exported / "diffusion")
    assert clip.text_features(open_clip.tokenize(["x"])).shape == (1, models.JOINT)


def test_the_corpus_is_fixed_by_its_index_and_pairs_differ_only_by_the_damage(tmp_path):
    first, second = (Corpus(tmp_path / name, 40, write=True) for name in "ab")
    first.render()
    second.render()
    digests = {hashlib.sha256(c.pairs.tobytes()).hexdigest() for c in (first, second)}
    assert len(digests) == 1
    families = {subject(i).family for i in range(40)}
    assert families == set(TRAINING)
    for i in range(40):
        changed = (first.pairs[i, 0] != first.pairs[i, 1]).any(-1)
        cells = changed.reshape(16, 8, 16, 8).mean((1, 3))
        assert changed.any()
        assert not cells[first.masks[i] == 0].any()


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.json; it ships"):
        MicroClip.load(tmp_path)
    with pytest.raises(FileNotFoundError, match="no renderings in"):
        Corpus(tmp_path / "none", 10)


def test_the_folder_says_what_it_is():
    index = json.loads((DIFFUSION / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionPipeline"
    assert index["safety_checker"] == [None, None]
    card = (HOME / "README.md").read_text()
    for word in ("Data", "Limits", "Apache-2.0", "steps", "PSNR", "AUROC"):
        assert word in card

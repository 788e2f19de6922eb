from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from methods._diffusion import model
from methods._encoders import pins
from tests.tiny_base import save_tiny_base


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def velocity_base(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("velocity")
    return save_tiny_base(folder, _class_name="DDIMScheduler", prediction_type="v_prediction")


@pytest.fixture(scope="module")
def parts(base: str) -> model.Parts:
    return model.load_parts(base, "cpu")


def pipeline(base: str, kind: Any, scheduler: Any, **changes: Any) -> Any:
    pipe = kind.from_pretrained(base, requires_safety_checker=False)
    pipe.scheduler = scheduler.from_config(pipe.scheduler.config, **changes)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize(("steps", "count", "first"), [(50, 15, 281), (20, 6, 251), (10, 3, 201)])
def test_diffusers_rule_starts_where_its_pipelines_do(
    parts: model.Parts, steps: int, count: int, first: int
) -> None:
    trail = model.timesteps(parts, 0.3, steps, "diffusers")
    assert (len(trail), trail[0], trail[-1]) == (count, first, 1)


def test_exact_rule_starts_at_the_asked_timestep(parts: model.Parts) -> None:
    for strength in (0.1, 0.3, 0.5, 0.9):
        for steps in (10, 20, 50):
            trail = model.timesteps(parts, strength, steps, "exact")
            assert trail[0] == round(1000 * strength)
            assert len(trail) == round(steps * strength)
            assert np.all(np.diff(trail) < 0)
            assert trail[-1] > 0
    assert model.timesteps(parts, 1.0, 4, "exact") == [999, 750, 500, 250]
    assert model.timesteps(parts, 0.01, 10, "exact") == [10]
    assert model.timesteps(parts, 0.0, 50, "exact") == []
    assert model.timesteps(parts, 0.0, 50, "diffusers") == []


@pytest.mark.parametrize("which", ["base", "velocity_base"])
@pytest.mark.parametrize("guidance", [1.0, 7.5])
def test_denoising_equals_diffusers_image_to_image(
    which: str, guidance: float, request: pytest.FixtureRequest
) -> None:
    base = request.getfixturevalue(which)
    kind = diffusers.StableDiffusionImg2ImgPipeline
    pipe = pipeline(base, kind, diffusers.DDIMScheduler)
    z = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    prompts = ["a photo of normal metal nut", "a photo of a cable"]
    expected = pipe(
        prompts,
        image=z,
        strength=0.3,
        num_inference_steps=20,
        guidance_scale=guidance,
        generator=torch.Generator().manual_seed(5),
        output_type="latent",
    ).images

    parts, unet = model.load_parts(base, "cpu"), model.load_unet(base, "cpu")
    trail = model.timesteps(parts, 0.3, 20, "diffusers")
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    noisy = model.noised(parts, z, noise, torch.full((2,), trail[0]))
    texts, free = model.embed(parts, prompts), model.embed(parts, [""])
    got = model.denoise(parts, unet, noisy, trail, texts, free, guidance)
    assert torch.allclose(got, expected, atol=2e-4)
    assert not torch.allclose(got, z, atol=0.1)


@pytest.mark.parametrize("which", ["base", "velocity_base"])
def test_dpmpp_equals_diffusers_solver(which: str, request: pytest.FixtureRequest) -> None:
    base = request.getfixturevalue(which)
    kind, solver = diffusers.StableDiffusionPipeline, diffusers.DPMSolverMultistepScheduler
    pipe = pipeline(base, kind, solver, timestep_spacing="leading", algorithm_type="dpmsolver++")
    z = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    expected = pipe(
        ["a cable"],
        latents=z.clone(),
        num_inference_steps=12,
        guidance_scale=3.0,
        output_type="latent",
    ).images
    parts, unet = model.load_parts(base, "cpu"), model.load_unet(base, "cpu")
    trail = [int(t) for t in pipe.scheduler.timesteps]
    texts, free = model.embed(parts, ["a cable"]), model.embed(parts, [""])
    got = model.denoise(parts, unet, z, trail, texts, free, 3.0, "dpmpp")
    assert torch.allclose(got, expected, rtol=1e-3, atol=1e-3)
    other = model.denoise(parts, unet, z, trail, texts, free, 3.0, "ddim")
    assert not torch.allclose(other, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("which", ["base", "velocity_base"])
def test_a_perfect_prediction_denoises_to_the_clean_latent(
    which: str, request: pytest.FixtureRequest
) -> None:
    parts = model.load_parts(request.getfixturevalue(which), "cpu")
    random = torch.Generator().manual_seed(0)
    z, noise = torch.randn(2, 3, 4, 8, 8, generator=random)

    def oracle(rows: torch.Tensor, t: int, **_: Any) -> tuple[torch.Tensor]:
        return (model.target(parts, z, noise, torch.full((3,), t)),)

    for scheduler in model.SCHEDULERS:
        trail = model.timesteps(parts, 0.5, 10, "exact")
        noisy = model.noised(parts, z, noise, torch.full((3,), 500))
        text = torch.zeros(3, 1, 1)
        got = model.denoise(parts, oracle, noisy, trail, text, None, 1, scheduler)
        # DDIM ends at the schedule's first step, where a little noise remains
        left = (1 - parts.last_abar) ** 0.5 if scheduler == "ddim" else 0
        assert torch.allclose(got, z, atol=1e-3 + 5 * left)


def test_parts_agree_with_the_pipelines(base: str, parts: model.Parts) -> None:
    pipe = pipeline(base, diffusers.StableDiffusionPipeline, diffusers.DDIMScheduler)
    prompts = ["a photo of normal metal nut without flaw", ""]
    expected, _ = pipe.encode_prompt(prompts, "cpu", 1, False)
    assert torch.allclose(model.embed(parts, prompts), expected, atol=1e-6)
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    z = model.encode(parts, images, torch.float32)
    ours = pipe.vae.encode(images * 2 - 1).latent_dist.mode() * pipe.vae.config.scaling_factor
    assert torch.allclose(z, ours, atol=1e-5)
    back = pipe.vae.decode(z / pipe.vae.config.scaling_factor).sample
    shown = pipe.image_processor.postprocess(back.detach(), output_type="np")
    got = model.to_pixels(model.decode(parts, z, torch.float32))
    assert got.shape == (2, 32, 32, 3)
    assert np.abs(got / 255 - shown).max() <= 0.5 / 255 + 1e-4
    assert model.native_size(parts, pipe.unet) == 32


def test_the_text_encoder_is_read_under_the_names_of_the_hubs_file(
    base: str, parts: model.Parts
) -> None:
    stored = load_file(Path(base) / "text_encoder" / "model.safetensors")
    own = parts.text_encoder.state_dict()
    assert all(name.startswith("text_model.") for name in stored)
    for name, weight in own.items():
        assert torch.equal(weight, stored[f"text_model.{name.removeprefix('text_model.')}"])


def test_pixels_become_a_square_and_survive_a_round_trip() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    image = model.to_tensor(pixels, None, "cpu")
    assert np.array_equal(model.to_pixels(image[None])[0], pixels)
    square = model.to_tensor(pixels, 16, "cpu")
    assert square.shape == (3, 16, 16)
    assert float(square.mean()) == pytest.approx(pixels.mean() / 255, abs=0.02)


def test_noise_depends_on_its_names_alone() -> None:
    torch.manual_seed(0)
    one = model.normal((2, 3), "query", 7, "key")
    torch.manual_seed(1)
    assert torch.equal(one, model.normal((2, 3), "query", 7, "key"))
    others = [("query", 8, "key"), ("query", 7, "kez"), ("query", 7, "k", "ey"), ("que", "ry", 7)]
    assert len({model.seed_of(*names) for names in [("query", 7, "key"), *others]}) == 5
    many = torch.cat([model.normal((100,), i) for i in range(100)])
    assert abs(float(many.mean())) < 0.05
    assert float(many.std()) == pytest.approx(1, abs=0.05)


def short_of_memory(room: int) -> tuple[Callable[[int, int], list[int]], list[int]]:
    sizes: list[int] = []

    def run(first: int, end: int) -> list[int]:
        sizes.append(end - first)
        if end - first > room:
            raise torch.OutOfMemoryError("out of memory")
        return list(range(first, end))

    return run, sizes


def test_batches_shrink_when_memory_is_short() -> None:
    run, sizes = short_of_memory(3)
    batches = model.in_batches(run, 10, 8, "denoising")
    assert [i for some in batches for i in some] == list(range(10))
    assert sizes == [8, 4, 2, 2, 2, 2, 2]


def test_no_room_for_one_is_a_clear_failure() -> None:
    run, _ = short_of_memory(0)
    with pytest.raises(MemoryError, match="denoising: not even one image fits"):
        model.in_batches(run, 10, 8, "denoising")


def test_half_precision_files_alone_will_do(base: str, tmp_path: Path) -> None:
    folder = tmp_path / "half"
    shutil.copytree(base, folder)
    for part, stem in (("unet", "diffusion_pytorch_model"), ("text_encoder", "model")):
        whole = folder / part / f"{stem}.safetensors"
        whole.rename(folder / part / f"{stem}.fp16.safetensors")
    unet = model.load_unet(str(folder), "cpu")
    assert next(unet.parameters()).dtype == torch.float32
    assert len(model.load_parts(str(folder), "cpu").abar) == 1000


def test_weight_files_are_what_results_depend_on(base: str) -> None:
    names = {p.relative_to(base).as_posix() for p in model.weight_files(base)}
    assert "unet/diffusion_pytorch_model.safetensors" in names
    assert "scheduler/scheduler_config.json" in names
    assert model.weight_files("somebody/some-model") == []


def test_missing_base_is_named_in_one_line(base: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no folder .*scheduler; diffusers' folder format"):
        model.load_parts(str(tmp_path), "cpu")
    folder = tmp_path / "bare"
    shutil.copytree(base, folder)
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="unet was found neither") as caught:
        model.load_unet(str(folder), "cpu")
    assert "\n" not in str(caught.value)


def test_a_hub_id_may_be_pinned_to_a_revision() -> None:
    asked: list[tuple[str, Any]] = []

    class Loader:
        @staticmethod
        def from_pretrained(name: str, **options: Any) -> None:
            asked.append((name, options.get("revision")))

    pinned, commit = next(iter(pins.REVISIONS.items()))
    for base in ("somebody/some-model@0123abc", "somebody/some-model", pinned, f"{pinned}@main"):
        model._load(Loader, base, "unet")
    assert asked[:2] == [("somebody/some-model", "0123abc"), ("somebody/some-model", None)]
    assert asked[2:] == [(pinned, commit), (pinned, "main")]

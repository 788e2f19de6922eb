from __future__ import annotations

import io
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage

from harness.interface import Arrays, Image, Support
from harness.memory import FeatureMemory
from methods import _diffusion, _finetune, _o2n_prompts
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


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny_base(tmp_path_factory.mktemp("dreambooth"))


@pytest.fixture(scope="module")
def make(base: str) -> Make:
    """A set up plug-in; all of them share what a worker shares."""
    memory = FeatureMemory(1 << 28)

    def build(**params: Any) -> DreamBooth:
        generator = DreamBooth(**{"base": base, **FAST, **params})
        generator.setup("cpu", memory)
        return generator

    return build


def picture(seed: int, side: int = 40) -> np.ndarray:
    """A smooth random picture, so that the autoencoder has something to keep."""
    coarse = np.random.default_rng(seed).random((1, 3, 5, 5), dtype=np.float32)
    smooth = torch.nn.functional.interpolate(torch.from_numpy(coarse), (side, side + 4))
    return _diffusion.to_pixels(smooth)[0]


def images(n: int, first: int = 0) -> tuple[Image, ...]:
    return tuple(Image(f"key-{i}", picture(i)) for i in range(first, first + n))


SUPPORT = Support(images(2), "metal nut", seed=3)
QUERIES = images(4, first=10)


@pytest.fixture(scope="module")
def customized(make: Make) -> tuple[DreamBooth, Arrays]:
    """A LoRA model, and its state."""
    generator = make(tune="lora", rank=2)
    return generator, generator.customize(SUPPORT, generator.prepare("metal nut", 0))


def stored(state: Arrays) -> Arrays:
    """The state as it comes back from a file."""
    file = io.BytesIO()
    np.savez(file, **state)
    file.seek(0)
    with np.load(file, allow_pickle=False) as arrays:
        return dict(arrays)


def reconstructions(base: str, queries: tuple[Image, ...]) -> np.ndarray:
    parts = _diffusion.load_parts(base, "cpu")
    pixels = torch.stack([_diffusion.to_tensor(q.pixels, 32, "cpu") for q in queries])
    z = _diffusion.encode(parts, pixels, torch.float32)
    return _diffusion.to_pixels(_diffusion.decode(parts, z, torch.float32))


def apart(a: np.ndarray, b: np.ndarray) -> int:
    return int(np.abs(np.asarray(a, int) - np.asarray(b, int)).max())


# ------------------------------------------------------------------------------ personalization


def similarity(a: np.ndarray, b: np.ndarray) -> float:
    """SSIM at 240 x 240 by scipy, in float64."""
    reach = np.arange(11) - 5
    bell = np.exp(-(reach[:, None] ** 2 + reach**2) / 4.5)[None]

    def grey(pixels: np.ndarray) -> np.ndarray:
        image = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None] / 255
        image = torch.nn.functional.interpolate(image, (240, 240), mode="bilinear", antialias=True)
        return image[0].double().numpy()

    def smooth(x: np.ndarray) -> np.ndarray:
        return ndimage.correlate(x, bell / bell.sum())[:, 5:-5, 5:-5]

    p, q = grey(a), grey(b)
    mp, mq = smooth(p), smooth(q)
    vp, vq, both = smooth(p * p) - mp**2, smooth(q * q) - mq**2, smooth(p * q) - mp * mq
    top = (2 * mp * mq + 1e-4) * (2 * both + 9e-4)
    return float((top / ((mp**2 + mq**2 + 1e-4) * (vp + vq + 9e-4))).mean())


@pytest.mark.parametrize("start", ["exact", "diffusers"])
def test_strength_zero_is_the_autoencoders_reconstruction(
    make: Make, base: str, customized: tuple[DreamBooth, Arrays], start: str
) -> None:
    generator = make(tune="lora", rank=2, strength=0.0, start=start)
    generator.load(customized[1], SUPPORT)
    made = generator.personalize(QUERIES, 0).images
    assert apart(made, reconstructions(base, QUERIES)) <= 1
    assert apart(made, customized[0].personalize(QUERIES, 0).images) > 5


def test_small_strengths_approach_the_reconstruction(
    make: Make, base: str, customized: tuple[DreamBooth, Arrays]
) -> None:
    distances = []
    for strength in (0.002, 0.1, 0.6):
        generator = make(tune="lora", rank=2, strength=strength, prompts=1, guidance=1.0)
        generator.load(customized[1], SUPPORT)
        made = generator.personalize(QUERIES, 0).images
        distances.append(np.abs(made - reconstructions(base, QUERIES).astype(float)).mean())
    assert distances[0] < distances[1] < distances[2]


def test_strength_one_does_not_depend_on_the_query(
    make: Make, customized: tuple[DreamBooth, Arrays]
) -> None:
    for strength, same in ((1.0, True), (0.9, False)):
        generator = make(tune="lora", rank=2, strength=strength, select="all", guidance=1.5)
        generator.setup("cpu", FeatureMemory(1 << 28))
        generator.load(customized[1], SUPPORT)
        one = generator.personalize([Image("a", picture(1))], 0).images
        other = generator.personalize([Image("b", picture(2))], 0).images
        generator.setup("cpu", FeatureMemory(1 << 28))  # forget the latents of "a"
        generator.load(customized[1], SUPPORT)
        swapped = generator.personalize([Image("a", picture(2))], 0).images
        assert np.array_equal(one, swapped) == same
        assert not np.array_equal(one, other)


def test_same_seed_same_image_whatever_the_batch_or_the_shard(
    customized: tuple[DreamBooth, Arrays],
) -> None:
    generator, _ = customized
    whole = generator.personalize(QUERIES, 5)
    again = generator.personalize(QUERIES[::-1], 5)
    assert np.array_equal(whole.images, again.images[::-1])
    assert np.array_equal(whole.similarity, again.similarity[::-1])
    shards = [generator.personalize(some, 5) for some in (QUERIES[:1], QUERIES[1:])]
    assert np.array_equal(whole.images, np.concatenate([s.images for s in shards]))
    assert np.array_equal(whole.chosen, np.concatenate([s.chosen for s in shards]))
    assert not np.array_equal(whole.images, generator.personalize(QUERIES, 6).images)
    none = generator.personalize((), 5)
    assert none.images.shape == (0, 32, 32, 3)
    assert none.similarity.shape == (0, 3)


def test_all_prompts_of_a_query_share_its_noise(
    make: Make, customized: tuple[DreamBooth, Arrays]
) -> None:
    generator = make(tune="lora", rank=2, select="all", guidance=0.0)
    generator.load(customized[1], SUPPORT)
    # without any weight on the prompt, images of equal noise are equal
    tries = generator.personalize(QUERIES, 1).images.reshape(4, 3, 32, 32, 3)
    assert np.array_equal(tries[:, 0], tries[:, 1])
    assert np.array_equal(tries[:, 0], tries[:, 2])
    single = make(tune="lora", rank=2, prompts=1)
    single.load(customized[1], SUPPORT)
    three = make(tune="lora", rank=2, select="all")
    three.load(customized[1], SUPPORT)
    first = three.personalize(QUERIES, 1).images.reshape(4, 3, 32, 32, 3)[:, 0]
    assert apart(single.personalize(QUERIES, 1).images, first) <= 1


def test_the_prompt_is_chosen_by_similarity(
    make: Make, customized: tuple[DreamBooth, Arrays]
) -> None:
    found = {}
    for select in ("all", "similar", "dissimilar", "support"):
        generator = make(tune="lora", rank=2, prompts=5, select=select)
        generator.load(customized[1], SUPPORT)
        found[select] = generator.personalize(QUERIES[:2], 1)
    tries = found["all"].images.reshape(2, 5, 32, 32, 3)
    assert found["all"].chosen is None
    assert found["all"].prompts == _o2n_prompts.normal_prompts("metal nut", 5)

    alike = found["all"].similarity
    for i in range(2):
        wanted = [similarity(QUERIES[i].pixels, one) for one in tries[i]]
        assert np.allclose(alike[i], wanted, atol=1e-4)
    near = [[max(similarity(x.pixels, o) for x in SUPPORT.images) for o in some] for some in tries]
    assert np.array_equal(found["support"].chosen, np.argmax(near, 1))
    for i in range(2):
        for select, wanted in (("similar", alike[i].argmax()), ("dissimilar", alike[i].argmin())):
            assert found[select].chosen[i] == wanted
            assert np.array_equal(found[select].images[i], tries[i, wanted])
        assert np.array_equal(found["support"].images[i], tries[i, found["support"].chosen[i]])


def test_queries_are_encoded_once_for_all_models(
    make: Make, customized: tuple[DreamBooth, Arrays]
) -> None:
    generator = make(tune="lora", rank=2)
    memory = FeatureMemory(1 << 28)
    generator.setup("cpu", memory)
    generator.load(customized[1], SUPPORT)
    generator.personalize(QUERIES, 0)
    assert memory.computed == 4
    generator.load(customized[1], Support(images(1), "cable", seed=4))
    generator.personalize(QUERIES, 9)
    assert memory.computed == 4
    assert memory.reused == 4


# -------------------------------------------------------------------------------- customization


@pytest.mark.parametrize("tune", ["lora", "full"])
def test_a_state_saved_and_loaded_gives_the_same_images(make: Make, tune: str) -> None:
    generator = make(tune=tune, rank=2)
    state = generator.customize(SUPPORT, generator.prepare("metal nut", 0))
    personalized, pool = generator.personalize(QUERIES[:2], 1).images, generator.generate(4, 2)
    other = make(tune=tune, rank=2)
    other.load(stored(state), SUPPORT)
    assert np.array_equal(other.personalize(QUERIES[:2], 1).images, personalized)
    assert all(np.array_equal(a, b) for a, b in zip(other.generate(4, 2), pool, strict=True))
    other.load({}, SUPPORT)  # the base alone
    assert not np.array_equal(other.personalize(QUERIES[:2], 1).images, personalized)


def test_full_state_is_the_change_of_the_weights(
    make: Make, base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: dict[str, torch.Tensor] = {}
    train = _finetune._train

    def spy(parts: Any, unet: Any, *rest: Any) -> np.ndarray:
        losses = train(parts, unet, *rest)
        trained.update({n: w.detach().clone() for n, w in unet.named_parameters()})
        return losses

    monkeypatch.setattr(_finetune, "_train", spy)
    generator = make(tune="full")
    state = generator.customize(SUPPORT, {})
    assert state["loss"].shape == (6,)
    assert {v.dtype for k, v in state.items() if k != "loss"} == {np.dtype(np.float16)}
    own = dict(_diffusion.load_unet(base, "cpu").named_parameters())
    for name, weight in generator._unet.named_parameters():
        moved = (trained[name] - own[name]).abs().max()
        assert torch.allclose(weight, trained[name], atol=1e-3 * float(moved) + 1e-7)
    assert max(float((trained[n] - own[n]).abs().max()) for n in own) > 1e-2


def test_lora_state_means_what_diffusers_takes_it_for(
    base: str, customized: tuple[DreamBooth, Arrays]
) -> None:
    generator, state = customized
    adapter = {n: torch.from_numpy(w).float() for n, w in state.items() if n != "loss"}
    assert sum(w.numel() for w in adapter.values()) < 0.2 * sum(
        p.numel() for p in generator._unet.parameters()
    )
    bare, unet = _diffusion.load_unet(base, "cpu"), _diffusion.load_unet(base, "cpu")
    unet.load_lora_adapter(adapter, prefix=None)
    z = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    text = generator._conditions(1)[1]
    with torch.inference_mode():
        wanted, got, plain = (
            u(z, 300, encoder_hidden_states=text).sample for u in (unet, generator._unet, bare)
        )
    assert torch.allclose(got, wanted, atol=1e-5)
    assert not torch.allclose(got, plain, atol=1e-3)


def test_adapters_on_all_layers_reach_convolutions(make: Make, base: str) -> None:
    generator = make(tune="lora", rank=2, targets="all", train_steps=2)
    state = generator.customize(SUPPORT, {})
    assert "conv_in.lora_A.weight" in state
    layers = {n.rsplit(".lora_", 1)[0] for n in state if ".lora_" in n}
    unet = _diffusion.load_unet(base, "cpu")
    kinds = (torch.nn.Linear, torch.nn.Conv2d)
    assert layers == {n for n, m in unet.named_modules() if isinstance(m, kinds)}
    adapter = {n: torch.from_numpy(w).float() for n, w in state.items() if n != "loss"}
    unet.load_lora_adapter(adapter, prefix=None)
    z = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    text = generator._conditions(1)[1]
    with torch.inference_mode():
        wanted, got = (u(z, 9, encoder_hidden_states=text).sample for u in (unet, generator._unet))
    assert torch.allclose(got, wanted, atol=1e-5)


@pytest.mark.parametrize("tune", ["lora", "full"])
def test_the_base_is_itself_again_after_every_model(make: Make, base: str, tune: str) -> None:
    generator = make(tune=tune, rank=2)
    before = generator.prepare("metal nut", 0)
    generator.customize(SUPPORT, before)
    assert np.array_equal(generator.prepare("metal nut", 0)["latents"], before["latents"])
    own = _diffusion.load_unet(base, "cpu").state_dict()
    assert own.keys() == generator._unet.state_dict().keys()
    assert all(torch.equal(w, own[n]) for n, w in generator._unet.state_dict().items())


def test_same_seed_same_state_in_any_order_of_the_support(make: Make) -> None:
    def trained(support: Support, **params: Any) -> Arrays:
        return make(tune="lora", rank=2, **params).customize(support, {})

    torch.manual_seed(0)
    one = trained(SUPPORT)
    torch.manual_seed(1)
    other = trained(Support(SUPPORT.images[::-1], "metal nut", seed=3))
    assert all(np.array_equal(one[n], other[n]) for n in one)
    assert not np.array_equal(one["loss"], trained(Support(SUPPORT.images, "metal nut", 4))["loss"])


def test_customization_learns_the_support(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        generator = make(tune="full", train_steps=60, train_batch=4, learning_rate=5e-3)
        loss = generator.customize(SUPPORT, {})["loss"]
    assert np.isfinite(loss).all()
    assert loss[-15:].mean() < 0.8 * loss[:15].mean()
    assert "metal nut: customization step 60/60, loss" in caplog.text
    assert "s left" in caplog.text


def test_prior_images_are_made_once_and_matter(make: Make) -> None:
    generator = make(tune="lora", rank=2)
    prior = generator.prepare("metal nut", 0)
    assert generator.prior
    assert prior["latents"].shape == (3, 4, 8, 8)
    assert not np.array_equal(generator.prepare("cable", 0)["latents"], prior["latents"])
    calls = []
    whole = generator._denoised
    generator._denoised = lambda *a, **k: calls.append(a) or whole(*a, **k)  # type: ignore
    for seed in range(2):  # other supports, other shots: no image is sampled again
        generator.customize(Support(images(1 + seed), "metal nut", seed), prior)
    assert calls == []
    with_prior = generator.customize(SUPPORT, prior)["loss"]
    assert not np.array_equal(with_prior, generator.customize(SUPPORT, {})["loss"])
    assert make(prior_images=0).prepare("metal nut", 0) == {}
    without = make(tune="lora", rank=2, prior_weight=0.0)
    assert without.prepare("metal nut", 0) == {}
    assert np.array_equal(
        without.customize(SUPPORT, prior)["loss"], generator.customize(SUPPORT, {})["loss"]
    )


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_a_step_too_large_for_the_memory_goes_in_turns(make: Make, where: str) -> None:
    """Loss and gradients are those of the whole step, whatever a failed pass left behind."""
    prior = make().prepare("metal nut", 0)
    states, largest = [], []
    for room in (100, 1):
        generator = make(tune="full", train_batch=2, train_steps=3, learning_rate=1e-4)

        def refuse(_: Any) -> None:
            raise torch.OutOfMemoryError("out of memory")

        def tight(module: Any, given: Any, made: torch.Tensor, room: int = room) -> None:
            largest.append(len(made))
            if len(made) > room:
                if where == "forward":
                    refuse(None)
                made.register_hook(refuse)  # when most gradients are there already

        generator._unet.conv_in.register_forward_hook(tight)
        try:
            states.append(generator.customize(SUPPORT, prior))
        finally:
            generator._unet.conv_in._forward_hooks.clear()
    assert largest == [4, 4, 4] + [4, 2] + [1] * 12
    whole, turns = states
    assert np.allclose(whole["loss"], turns["loss"], rtol=1e-5)
    for name in whole:
        # AdamW's first steps are near the sign of the gradient: tiny ones may differ
        assert np.mean(np.abs(whole[name] - turns[name]) > 1e-5) < 0.02


def test_no_room_for_one_image_is_a_clear_failure(make: Make) -> None:
    generator = make(tune="lora", rank=2)

    def refuse(*_: Any) -> None:
        raise torch.OutOfMemoryError("out of memory")

    hook = generator._unet.conv_in.register_forward_hook(refuse)
    with pytest.raises(MemoryError, match="customizing metal nut: one image does not fit"):
        generator.customize(SUPPORT, {})
    generator.load({}, SUPPORT)
    with pytest.raises(MemoryError, match="dreambooth, denoising: not even one image fits"):
        generator.personalize(QUERIES[:1], 0)
    hook.remove()  # nothing of the failed task stays behind
    assert (
        generator.customize(SUPPORT, {}).keys()
        == make(tune="lora", rank=2).customize(SUPPORT, {}).keys()
    )


def test_recomputing_activations_changes_nothing(make: Make) -> None:
    states = [
        make(tune="full", checkpointing=on, learning_rate=1e-4).customize(SUPPORT, {})
        for on in (False, True)
    ]
    assert np.allclose(states[0]["loss"], states[1]["loss"], rtol=1e-5)


def test_mixed_precision_stays_close(make: Make, customized: tuple[DreamBooth, Arrays]) -> None:
    half = make(tune="lora", rank=2, precision="bf16", learning_rate=1e-3)
    state = half.customize(SUPPORT, {})
    full = make(tune="lora", rank=2, learning_rate=1e-3).customize(SUPPORT, {})
    assert np.allclose(state["loss"], full["loss"], rtol=0.02)
    assert {p.dtype for p in half._unet.parameters()} == {torch.float32}
    half.load(customized[1], SUPPORT)
    made = half.personalize(QUERIES, 5).images.astype(float)
    assert np.abs(made - customized[0].personalize(QUERIES, 5).images).mean() < 6


# ----------------------------------------------------------------------------------------- pool


def test_pool_is_composed_as_asked(make: Make, base: str, customized: Any) -> None:
    state = customized[1]

    def pool(n: int, seed: int = 0, **params: Any) -> list[np.ndarray]:
        generator = make(tune="lora", rank=2, **params)
        generator.load(state, SUPPORT)
        return list(generator.generate(n, seed))

    near = pool(5, text_share=0.4, pool_strength=0.0)
    # floor(5 x 0.4) from text, then the support round and round
    wanted = reconstructions(base, SUPPORT.images)
    assert [apart(x, wanted[i]) <= 1 for x, i in zip(near[2:], (0, 1, 0), strict=True)] == [
        True
    ] * 3
    text = pool(5, text_share=1.0)
    assert all(np.array_equal(a, b) for a, b in zip(near[:2], text[:2], strict=True))
    assert len({x.tobytes() for x in text}) == 5
    assert not np.array_equal(text[0], pool(1, seed=1, text_share=1.0)[0])
    assert all(x.shape == (32, 32, 3) and x.dtype == np.uint8 for x in near + text)
    assert pool(0) == []
    varied = pool(4, text_share=0.0)
    assert len({x.tobytes() for x in varied}) == 4


# -------------------------------------------------------------------------------------- the rest


def test_prompts_are_those_of_figure_5() -> None:
    prompts = _o2n_prompts.normal_prompts
    assert prompts("cable", 0) == ("",)
    assert prompts("cable", 1) == ("a photo of normal cable without flaw",)
    assert prompts("cable", 3) == (
        "a photo of normal cable without flaw",
        "a photo of normal cable without defect",
        "a photo of normal cable without damage",
    )
    assert prompts("cable", 10)[0] == "a photo of a small normal cable without flaw."
    assert prompts("cable", 10)[2] == "a bright photo of a normal cable without flaw."
    assert prompts("cable", 10)[9] == "a low resolution photo of a normal cable without flaw."
    assert prompts("cable", 5) == prompts("cable", 10)[:5] == prompts("cable", 30)[:5]
    assert len(set(prompts("cable", 30))) == 30
    assert sum("without damage" in p for p in prompts("cable", 30)) == 10
    with pytest.raises(ValueError, match=r"must be one of .* Got 4 instead"):
        prompts("cable", 4)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"tune": "half"}, "tune parameter of dreambooth must be one of full, lora. Got 'half'"),
        ({"strength": 1.5}, "strength .* between 0 and 1. Got 1.5"),
        ({"prompts": 4}, "prompts .* one of 0, 1, 3, 5, 10, 30. Got 4"),
        ({"scheduler": "euler"}, "scheduler .* ddim, dpmpp"),
        ({"select": "best"}, "select .* similar, dissimilar, support, all"),
        ({"start": "late"}, "start .* exact, diffusers"),
        ({"augment": "shear"}, "augment must be made of"),
        ({"steps": 0}, "steps .* at least 1"),
        ({"train_steps": 0}, "train_steps .* at least 1"),
        ({"learning_rate": 0.0}, "learning_rate .* at least"),
        ({"batch": 0}, "batch .* at least 1"),
        ({"precision": "int8"}, "precision .* auto, fp32, bf16, fp16"),
    ],
)
def test_wrong_parameters_are_refused(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        DreamBooth(**params)
    assert "\n" not in str(caught.value)


def test_what_cannot_work_is_said(make: Make, customized: tuple[DreamBooth, Arrays]) -> None:
    with pytest.raises(ValueError, match=r"size .* a multiple of 8 with base"):
        make(size=36)
    generator = make(tune="lora")
    with pytest.raises(RuntimeError, match="load a customized model's state first"):
        generator.personalize(QUERIES, 0)
    wrong = {"change.conv_in.weight": np.zeros((2, 2), np.float16)}
    with pytest.raises(ValueError, match=r"changes conv_in.weight of shape \(2, 2\).*another base"):
        generator.load(wrong, SUPPORT)


def test_other_sizes_than_the_native_one(make: Make) -> None:
    generator = make(tune="lora", rank=2, size=48, prompts=1)
    generator.customize(SUPPORT, generator.prepare("metal nut", 0))
    assert generator.personalize(QUERIES[:1], 0).images.shape == (1, 48, 48, 3)


def test_declarations_are_read_without_heavy_libraries() -> None:
    code = (
        "import sys; from harness.plugins import find, parameters; "
        "cls = find('generator', 'dreambooth'); "
        "assert cls.prior and 'strength' in parameters(cls); cls(base='micro').files(); "
        "bad = {'torch', 'diffusers', 'transformers', 'peft'} & set(sys.modules); "
        "assert not bad, bad"
    )
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

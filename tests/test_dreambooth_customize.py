"""DreamBooth's customization: what is learned, kept, put back, and done where memory is short."""

from __future__ import annotations

import io
import logging
from typing import Any

import numpy as np
import pytest
import torch

from harness.execution.memory.cache import FeatureMemory
from harness.execution.memory.seals import Seals
from harness.interface import Arrays, Image, Support
from harness.tasks.references import PluginUse
from methods._diffusion import finetune, model
from methods.generators.dreambooth import DreamBooth
from tests import adp_fixtures
from tests.dreambooth_fixtures import (
    FAST,
    QUERIES,
    SUPPORT,
    Make,
    base_below,
    customized_on,
    images,
    maker,
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return base_below(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def make(base: str) -> Make:
    return maker(base)


@pytest.fixture(scope="module")
def customized(base: str) -> tuple[DreamBooth, Arrays]:
    return customized_on(base)


def stored(state: Arrays) -> Arrays:
    """The state as it comes back from a file."""
    file = io.BytesIO()
    np.savez(file, **state)
    file.seek(0)
    with np.load(file, allow_pickle=False) as arrays:
        return dict(arrays)


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
    train = finetune.train

    def spy(parts: Any, unet: Any, *rest: Any) -> np.ndarray:
        losses = train(parts, unet, *rest)
        trained.update({n: w.detach().clone() for n, w in unet.named_parameters()})
        return losses

    monkeypatch.setattr(finetune, "train", spy)
    generator = make(tune="full")
    state = generator.customize(SUPPORT, {})
    assert state["loss"].shape == (6,)
    assert {v.dtype for k, v in state.items() if k != "loss"} == {np.dtype(np.float16)}
    own = dict(model.load_unet(base, "cpu").named_parameters())
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
    bare, unet = model.load_unet(base, "cpu"), model.load_unet(base, "cpu")
    generator._loaded()
    unet.load_lora_adapter(adapter, prefix=None)
    z = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    text = generator._conditions(1)[1]
    with torch.inference_mode():
        expected, got, plain = (
            u(z, 300, encoder_hidden_states=text).sample for u in (unet, generator._unet, bare)
        )
    assert torch.allclose(got, expected, atol=1e-5)
    assert not torch.allclose(got, plain, atol=1e-3)


def test_adapters_on_all_layers_reach_convolutions(make: Make, base: str) -> None:
    generator = make(tune="lora", rank=2, targets="all", train_steps=2)
    state = generator.customize(SUPPORT, {})
    assert "conv_in.lora_A.weight" in state
    layers = {n.rsplit(".lora_", 1)[0] for n in state if ".lora_" in n}
    unet = model.load_unet(base, "cpu")
    kinds = (torch.nn.Linear, torch.nn.Conv2d)
    assert layers == {n for n, m in unet.named_modules() if isinstance(m, kinds)}
    adapter = {n: torch.from_numpy(w).float() for n, w in state.items() if n != "loss"}
    unet.load_lora_adapter(adapter, prefix=None)
    z = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    text = generator._conditions(1)[1]
    with torch.inference_mode():
        expected, got = (
            u(z, 9, encoder_hidden_states=text).sample for u in (unet, generator._unet)
        )
    assert torch.allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize("tune", ["lora", "full"])
def test_the_base_is_itself_again_after_every_model(make: Make, base: str, tune: str) -> None:
    generator = make(tune=tune, rank=2)
    before = generator.prepare("metal nut", 0)
    generator.customize(SUPPORT, before)
    assert np.array_equal(generator.prepare("metal nut", 0)["latents"], before["latents"])
    own = model.load_unet(base, "cpu").state_dict()
    assert own.keys() == generator._unet.state_dict().keys()
    assert all(torch.equal(w, own[n]) for n, w in generator._unet.state_dict().items())


@pytest.mark.parametrize("tune", ["lora", "full"])
def test_a_worker_that_seals_what_plugins_share_lets_them_customize(base: str, tune: str) -> None:
    """The UNet changes in turns, by those who share it; whatever else is shared stays sealed."""
    seals = Seals()
    memory = FeatureMemory(1 << 28, seals=seals)
    states = {}
    for name in ("one", "two"):
        use = PluginUse("generator", "dreambooth", {}, name)
        seals.begin(use)
        generator = DreamBooth(**{"base": base, **FAST, "tune": tune, "rank": 2})
        generator.setup("cpu", memory)
        states[name] = generator.customize(SUPPORT, {})
        seals.check()
        seals.begin(use)
        generator.load(states[name], SUPPORT)
        generator.generate(1, 0)
        seals.check()
    assert all(np.array_equal(states["one"][k], states["two"][k]) for k in states["one"])


@pytest.mark.parametrize("tune", ["lora", "full"])
def test_generators_of_a_base_share_its_unet(make: Make, base: str, tune: str) -> None:
    one, two = make(tune=tune, rank=2), make(tune=tune, rank=2, prompts=1)
    assert one._unet is two._unet
    states = [one.customize(SUPPORT, {}), one.customize(Support(QUERIES, "nut"), {})]
    alone = []
    for state in states:
        one.load(state, SUPPORT)
        alone.append(np.stack([*one.generate(2, 0), *one.personalize(QUERIES[:1], 0).images]))
    assert not np.array_equal(*alone)
    # In turns, each with its own change, and the base's own weights when something is prepared.
    one.load(states[0], SUPPORT)
    two.load(states[1], SUPPORT)
    pool = one.generate(2, 0)
    two.generate(1, 0)
    kept = one.personalize(QUERIES[:1], 0).images
    np.testing.assert_array_equal(np.stack([*pool, *kept]), alone[0])
    two.prepare("metal nut", 0)
    own = model.load_unet(base, "cpu").state_dict()
    assert all(torch.equal(w, own[n]) for n, w in one._unet.state_dict().items())
    np.testing.assert_array_equal(one.generate(2, 0), pool)


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


@pytest.mark.usefixtures("every_warning")
def test_read_only_arrays_will_do(make: Make) -> None:
    """The store hands out prior and state read-only, datasets their pixels."""

    def locked(arrays: Arrays) -> Arrays:
        copies = {name: array.copy() for name, array in arrays.items()}
        for array in copies.values():
            array.flags.writeable = False
        return copies

    def learned(prior: Arrays, support: Support) -> tuple[np.ndarray, np.ndarray]:
        generator = make(tune="lora", rank=2, train_steps=2, prompts=1)
        state = generator.customize(support, prior)
        generator.load(locked(state), support)
        return state["loss"], generator.personalize(QUERIES[:1], 0).images

    pixels = locked({image.key: image.pixels for image in SUPPORT.images})
    support = tuple(Image(key, array) for key, array in pixels.items())
    prior = {"latents": np.ones((3, 4, 8, 8), np.float16)}
    expected = learned(prior, SUPPORT)
    from_locked = learned(locked(prior), Support(support, SUPPORT.object_name, SUPPORT.seed))
    assert all(np.array_equal(a, b) for a, b in zip(from_locked, expected, strict=True))


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_a_step_too_large_for_the_memory_goes_in_turns(make: Make, where: str) -> None:
    """Loss and gradients are those of the whole step, whatever a failed pass left behind."""
    prior = make().prepare("metal nut", 0)
    states, largest = [], []
    for room in (100, 1):
        generator = make(tune="full", train_batch=2, train_steps=3, learning_rate=1e-4)

        def refuse(_: Any) -> None:
            raise torch.OutOfMemoryError("out of memory")

        def tight(module: Any, inputs: Any, output: torch.Tensor, room: int = room) -> None:
            largest.append(len(output))
            if len(output) > room:
                if where == "forward":
                    refuse(None)
                output.register_hook(refuse)  # when most gradients are there already

        generator._unet.conv_in.register_forward_hook(tight)
        try:
            states.append(generator.customize(SUPPORT, prior))
        finally:
            generator._unet.conv_in._forward_hooks.clear()
    # whole, whole with activations recomputed, then in turns
    assert largest == [4, 4, 4] + [4, 4, 2] + [1] * 12
    whole, turns = states
    assert np.allclose(whole["loss"], turns["loss"], rtol=1e-5)
    for name in whole:
        # AdamW's first steps are near the sign of the gradient: tiny ones may differ
        assert np.mean(np.abs(whole[name] - turns[name]) > 1e-5) < 0.02


def test_activations_are_recomputed_once_memory_asks_for_it(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """The numbers are those of a step with room, and the UNet is as before afterwards."""
    asked: list[bool] = []

    def tight(module: Any, inputs: Any, output: torch.Tensor) -> None:
        asked.append(unet.is_gradient_checkpointing)
        if not asked[-1]:
            raise torch.OutOfMemoryError("out of memory")

    roomy = make(tune="full", learning_rate=1e-4, train_steps=2)
    roomy_state = roomy.customize(SUPPORT, {})
    unet = roomy._unet
    hook = unet.conv_in.register_forward_hook(tight)
    try:
        spared = roomy.customize(SUPPORT, {})
        with pytest.raises(MemoryError, match="does not fit"):
            make(tune="full", checkpointing=False).customize(SUPPORT, {})
    finally:
        hook.remove()
    assert asked == [False, True, True, False]
    assert np.array_equal(spared["loss"], roomy_state["loss"])
    assert all(np.array_equal(spared[name], roomy_state[name]) for name in roomy_state)
    assert not unet.is_gradient_checkpointing
    assert not unet.training
    assert "customizing metal nut: out of GPU memory, recomputing activations" in caplog.text


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


def test_textual_inversion_shares_its_unet_and_finds_it_bare(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.getbasetemp()
    pair, learned = adp_fixtures.pair_below(folder), adp_fixtures.learned_on(folder)
    generator = pair.generator()
    booth = DreamBooth(base=pair.base, tune="lora", rank=2, train_steps=2, prior_images=0, copies=1)
    booth.setup("cpu", pair.memory)
    assert booth._unet is generator._unet
    booth.load(booth.customize(adp_fixtures.SUPPORT, {}), adp_fixtures.SUPPORT)
    generator.load(learned[1], adp_fixtures.SUPPORT)
    mixed = generator.personalize(QUERIES[:1], 3).images  # the other one's change was on it
    assert np.array_equal(mixed, learned[0].personalize(QUERIES[:1], 3).images)
    booth.generate(1, 0)
    state = generator.customize(adp_fixtures.SUPPORT, {})
    assert np.array_equal(state["losses_normal"], learned[1]["losses_normal"])


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
    rebuilt = half.personalize(QUERIES, 5).images.astype(float)
    assert np.abs(rebuilt - customized[0].personalize(QUERIES, 5).images).mean() < 6

"""Customization that shows damaged copies of the support and asks for the sound ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from methods._diffusion import finetune, model
from methods._o2n import training_images
from tests.dreambooth_fixtures import QUERIES, SUPPORT, Make, base_below, maker

Pair = tuple[torch.Tensor, torch.Tensor]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    return maker(base_below(tmp_path_factory.getbasetemp()))


class Steps:
    """What each step of a training was shown, and the noise that it asked for."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.seen: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
        self.asked: list[Pair] = []
        noised, target = model.noised, model.target

        def show(parts: Any, z: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            self.seen.append((z, noised(parts, z, noise, t), t))
            return self.seen[-1][1]

        def ask(parts: Any, z: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            self.asked.append((z, noise))
            return target(parts, z, noise, t)

        patch.setattr(model, "noised", show)
        patch.setattr(model, "target", ask)

    def damaged(self) -> list[bool]:
        return [
            not torch.equal(seen[0], clean[0])
            for seen, clean in zip(self.seen, self.asked, strict=True)
        ]


@pytest.mark.parametrize(("share", "expected"), [(0.0, {False}), (1.0, {True}), (0.5, {0, 1})])
def test_the_noise_asked_for_leads_to_the_sound_image(
    make: Make, monkeypatch: pytest.MonkeyPatch, share: float, expected: set[bool]
) -> None:
    generator = make(tune="lora", rank=2, damaged=share, prior_images=0, train_steps=12)
    with monkeypatch.context() as patch:
        steps = Steps(patch)
        generator.customize(SUPPORT, {})
    assert len(steps.seen) == 12
    assert set(steps.damaged()) == expected
    abar = torch.as_tensor(generator._parts.abar, dtype=torch.float64)
    for (_, noisy, t), (sound, noise) in zip(steps.seen, steps.asked, strict=True):
        a = abar[t].view(-1, 1, 1, 1)
        # x0 by the definition of the forward process
        reached = (noisy.double() - (1 - a).sqrt() * noise.double()) / a.sqrt()
        torch.testing.assert_close(reached, sound.double(), atol=1e-3, rtol=1e-3)


def test_none_damaged_is_the_papers_customization(make: Make) -> None:
    """To the bit, however the parameter is given."""
    states = [make(tune="lora", rank=2, **more).customize(SUPPORT, {}) for more in ({}, NONE)]
    for name, array in states[0].items():
        np.testing.assert_array_equal(states[1][name], array)
    other = make(tune="lora", rank=2, damaged=1.0).customize(SUPPORT, {})
    assert any(not np.array_equal(other[name], array) for name, array in states[0].items())


NONE = {"damaged": 0.0}


def test_prior_images_are_never_damaged(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = make(tune="lora", rank=2, damaged=1.0)
    prior = generator.prepare("metal nut", 0)
    with monkeypatch.context() as patch:
        steps = Steps(patch)
        generator.customize(SUPPORT, prior)
    for (seen, _, _), (sound, _) in zip(steps.seen, steps.asked, strict=True):
        changed = (seen != sound).flatten(1).any(1).tolist()
        assert changed == [True, False], "the support's, then the prior's"


def test_errors_of_damaged_copies_weigh_as_errors_of_the_picture(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the loss of the first step, in which an adapter changes nothing yet."""
    generator = make(tune="lora", rank=2, damaged=1.0, prior_images=0, train_steps=1)
    with monkeypatch.context() as patch:
        steps = Steps(patch)
        state = generator.customize(SUPPORT, {})
    ((_, noisy, t),), ((_, noise),) = steps.seen, steps.asked
    generator._restore()
    words = model.embed(generator._parts, ["a photo of normal metal nut"])
    with torch.no_grad():
        predicted = generator._unet(noisy, t, encoder_hidden_states=words).sample
    a = float(generator._parts.abar[int(t)])
    weight = min(1.0, finetune.CAP * (1 - a) / a)
    error = float((predicted - noise).square().mean())
    assert float(state["loss"][0]) == pytest.approx(weight * error, rel=1e-4)


def test_damage_is_drawn_by_key_and_leaves_the_rest_alone() -> None:
    sound = torch.stack([model.to_tensor(query.pixels, 64, "cpu") for query in QUERIES[:3]])
    damaged = training_images.with_defects(sound, 1, "a")
    changed = (damaged != sound).any(1).flatten(1).float().mean(1)
    assert ((changed > 0) & (changed < 0.5)).all(), changed
    torch.testing.assert_close(training_images.with_defects(sound, 1, "a"), damaged)
    assert not torch.equal(training_images.with_defects(sound, 2, "a"), damaged)
    assert float(damaged.min()) >= 0
    assert float(damaged.max()) <= 1

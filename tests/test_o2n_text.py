"""The linear layers of the text branch: their loss, their training and what they say."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.surfaces import Surfaces
from harness.data.images import decode_mask
from harness.interface import Auxiliary, AuxiliaryCategory, Image
from harness.results.metrics import pixel_auroc
from methods._o2n import text as o2n_text
from methods._o2n.text import Recipe, TextLayers, map_loss, train
from methods._ops.prompts import unit
from methods.o2n import O2n
from tests.clip_fixtures import SIZE, memory, write_config


def random_masks(n: int, side: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random((n, side, side)) < 0.3)


def enlarge_by_hand(grid: np.ndarray, side: int) -> np.ndarray:
    """Bilinear about pixel centres, one axis after the other."""

    def along(values: np.ndarray) -> np.ndarray:
        n = len(values)
        places = ((np.arange(side) + 0.5) * n / side - 0.5).clip(0, n - 1)
        return np.stack([np.interp(places, np.arange(n), c) for c in values.T], axis=1)

    return along(along(grid).T).T


def test_loss_equals_focal_and_dice_pixel_by_pixel() -> None:
    random = torch.Generator().manual_seed(0)
    levels = [torch.randn(2, 2, s, s, generator=random, dtype=torch.float64) for s in (3, 5)]
    masks = random_masks(2, 7)
    expected = 0.0
    for level in levels:
        focal, dice = [], []
        for logits, mask in zip(level.numpy(), masks.numpy(), strict=True):
            big = [enlarge_by_hand(channel, 7) for channel in logits]
            inside = total = 0.0
            for y in range(7):
                for x in range(7):
                    a, b = (math.exp(channel[y, x]) for channel in big)
                    p = b / (a + b)
                    hot = (1e-5, 1 - 1e-5) if mask[y, x] else (1 - 1e-5, 1e-5)
                    pt = hot[0] * (1 - p) + hot[1] * p + 1e-5
                    focal.append(-((1 - pt) ** 2) * math.log(pt))
                    inside += p * mask[y, x]
                    total += p + mask[y, x]
            dice.append(1 - (2 * inside + 1) / (total + 1))
        expected += sum(focal) / len(focal) + sum(dice) / len(dice)
    assert float(map_loss(levels, masks)) == pytest.approx(expected, rel=1e-6)


def test_a_right_map_costs_less_than_a_wrong_one() -> None:
    masks = random_masks(2, 6)
    sure = 8 * (2 * masks.double() - 1)
    right = map_loss([torch.stack([-sure, sure], dim=1)], masks)
    wrong = map_loss([torch.stack([sure, -sure], dim=1)], masks)
    assert float(right) < 0.01 < 1 < float(wrong)


def test_fresh_layers_have_the_shapes_and_bounds_of_linear_layers() -> None:
    torch.manual_seed(0)
    layers = TextLayers.fresh([16, 64], 24, seed=3, device="cpu")
    for width, weight, bias in zip((16, 64), layers.weights, layers.biases, strict=True):
        like = torch.nn.Linear(width, 24)
        assert (weight.shape, bias.shape) == (like.weight.shape, like.bias.shape)
        bound = width**-0.5
        assert 0.9 * bound < float(weight.detach().abs().max()) <= bound
        assert float(weight.detach().std()) == pytest.approx(
            float(like.weight.detach().std()), rel=0.1
        )
    again = TextLayers.fresh([16, 64], 24, seed=3, device="cpu")
    other = TextLayers.fresh([16, 64], 24, seed=4, device="cpu")
    assert torch.equal(layers.weights[1], again.weights[1])
    assert not torch.equal(layers.weights[1], other.weights[1])


def test_layers_come_back_from_their_arrays() -> None:
    layers = TextLayers.fresh([5, 7, 6, 9, 4, 8, 3, 5, 6, 4, 7], 6, seed=0, device="cpu")
    back = TextLayers.of(layers.arrays(), "cpu")
    for one, other in zip(layers.weights + layers.biases, back.weights + back.biases, strict=True):
        assert torch.equal(one, other)
        assert not other.requires_grad


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), scale=st.floats(1e-3, 1e3), temperature=st.floats(0.005, 1))
def test_probabilities_lie_in_0_to_1_whatever_the_features(
    seed: int, scale: float, temperature: float
) -> None:
    random = torch.Generator().manual_seed(seed)
    levels = [torch.randn(3, s, s, d, generator=random) * scale for s, d in ((4, 5), (2, 9))]
    text = unit(torch.randn(2, 6, generator=random))
    layers = TextLayers.of(TextLayers.fresh([5, 9], 6, seed, "cpu").arrays(), "cpu")
    probabilities = layers.probabilities(levels, text, temperature)
    assert [tuple(level.shape) for level in probabilities] == [(3, 4, 4), (3, 2, 2)]
    for level in probabilities:
        assert 0 <= float(level.min()) <= float(level.max()) <= 1
    swapped = layers.probabilities(levels, text.flip(0), temperature)
    torch.testing.assert_close(swapped[0], 1 - probabilities[0])
    alone = layers.probabilities([level[1:2] for level in levels], text, temperature)
    assert torch.equal(alone[0], probabilities[0][1:2])


def test_recipe_is_that_of_the_auxiliary_dataset() -> None:
    recipe = Recipe(240, 0.01)
    assert recipe.on(["bottle", "metal_nut"]) == (3, 0.2)
    assert recipe.on(["candle", "pcb1"]) == (15, 0.0)
    assert recipe.on(["bottle", "pcb1"]) == (15, 0.0)
    assert Recipe(240, 0.01, epochs=2, mosaic=0.0).on(["bottle"]) == (2, 0.0)


# Training, on features that a function of the pixels gives: the colour of each 4 x 4 block.

SIDE = 16
TEXTS = [unit(torch.tensor([[1.0, 0.0, 0.2, 0.0], [0.0, 1.0, 0.0, 0.2]]))]


class Encoded:
    def __init__(self, levels: tuple[torch.Tensor, ...]) -> None:
        self.levels = levels


def encode(images) -> list:
    encoded = []
    for image in images:
        pixels = torch.from_numpy(image.pixels.astype(np.float32)) / 255
        blocks = pixels.unflatten(0, (4, -1)).unflatten(2, (4, -1)).mean(dim=(1, 3))
        encoded.append(Encoded((blocks, blocks.repeat(1, 1, 2))))
    return encoded


def toy(n: int, masked: bool = True, name: str = "toy", seed: int = 0) -> AuxiliaryCategory:
    """Grey images; the second half has one reddish block, which is the defect."""
    rng = np.random.default_rng(seed)
    images, masks = [], []
    for i in range(n):
        pixels = rng.integers(90, 160, (SIDE, SIDE, 3), dtype=np.uint8)
        mask = np.zeros((SIDE, SIDE), dtype=bool)
        if i >= n // 2:
            y, x = 4 * rng.integers(0, 4, 2)
            pixels[y : y + 4, x : x + 4] = (200, 80, 80)
            mask[y : y + 4, x : x + 4] = True
        images.append(Image(f"{name}-{seed}-{i}", pixels))
        masks.append(mask)
    labels = (np.arange(n) >= n // 2).astype(np.int64)
    return AuxiliaryCategory(
        name, "toy", (), tuple(images), labels, lambda i: masks[i] if masked else None
    )


RECIPE = Recipe(SIDE, 0.05, epochs=30, batch=4, learning_rate=0.01, mosaic=0.0)


def toy_auroc(layers: TextLayers) -> float:
    held_out = toy(12, seed=9)
    levels = [torch.stack(x) for x in zip(*(e.levels for e in encode(held_out.test)), strict=True)]
    with torch.no_grad():
        first = layers.probabilities(levels, TEXTS[0], 0.05)[0]
    maps = first.repeat_interleave(4, 1).repeat_interleave(4, 2).numpy()
    return pixel_auroc(np.stack([held_out.masks(i) for i in range(12)]), maps)


def test_training_finds_the_defect_on_held_out_images() -> None:
    trained = train(Auxiliary((toy(24),), None, 0), encode, TEXTS, RECIPE, "cpu")
    fresh = TextLayers.fresh([3, 6], 4, 0, "cpu")
    assert toy_auroc(trained) > 0.98
    assert toy_auroc(trained) > toy_auroc(fresh)


def test_training_also_works_on_mosaics() -> None:
    recipe = Recipe(SIDE, 0.05, 40, 4, 0.01, mosaic=0.5)
    # A quarter of a mosaic has blocks of half the size, so cells mix; still it learns.
    assert toy_auroc(train(Auxiliary((toy(24),), None, 0), encode, TEXTS, recipe, "cpu")) > 0.9


def test_training_is_a_function_of_the_seed() -> None:
    states = [
        train(Auxiliary((toy(8),), None, seed), encode, TEXTS, RECIPE, "cpu").arrays()
        for seed in (5, 5, 6)
    ]
    assert all(np.array_equal(states[0][name], states[1][name]) for name in states[0])
    assert not np.array_equal(states[0]["weight.0"], states[2]["weight.0"])


def test_an_auxiliary_dataset_without_masks_is_refused() -> None:
    with pytest.raises(ValueError, match="no auxiliary image has a defect mask to learn from, in"):
        train(Auxiliary((toy(8, masked=False),), None, 0), encode, TEXTS, RECIPE, "cpu")


def test_anomalous_images_without_a_mask_teach_nothing() -> None:
    """They would pass for normal ones: half of the images here lack a mask, and nothing changes."""
    marked, unmarked = toy(8), toy(8, masked=False, name="bare", seed=3)
    images = marked.test + unmarked.test[4:]
    labels = np.concatenate([marked.labels, np.ones(4, np.int64)])
    both = AuxiliaryCategory(
        "toy", "toy", (), images, labels, lambda i: marked.masks(i) if i < 8 else None
    )
    learned = [
        train(Auxiliary((category,), None, 0), encode, TEXTS, RECIPE, "cpu").arrays()
        for category in (marked, both)
    ]
    assert all(np.array_equal(learned[0][name], learned[1][name]) for name in learned[0])


def test_mosaic_puts_images_and_masks_in_the_same_quarters() -> None:
    category = toy(8)
    four = [0, 5, 2, 7]
    image = o2n_text._mosaic([category.test[i] for i in four], SIDE)
    mask = o2n_text._quartered([category.masks(i) for i in four], SIDE)
    half = SIDE // 2
    assert image.pixels.shape == (SIDE, SIDE, 3)
    assert not mask[:half, :half].any()
    assert not mask[half:, :half].any()
    for rows in (slice(0, half), slice(half, None)):
        quarter = mask[rows, half:]
        assert quarter.sum() == 4
        red = image.pixels[rows, half:].astype(int)
        assert (red[..., 0] - red[..., 1])[quarter].min() > 60


def auxiliary_surfaces(n_test: int, categories: list[str], size: int = SIZE) -> Auxiliary:
    dataset = Surfaces(n_train=2, n_test=n_test, size=size, categories=categories)
    surfaces = []
    for name in dataset.categories():
        samples = dataset.test(name)
        images = tuple(Image(s.name, dataset.open(s.image)) for s in samples)
        masks = [None if s.mask is None else decode_mask(dataset.open(s.mask)) for s in samples]
        labels = np.array([s.label for s in samples])
        words = dataset.object_name(name)
        surfaces.append(AuxiliaryCategory(name, words, (), images, labels, masks.__getitem__))
    return Auxiliary(tuple(surfaces), None, 0)


def test_trained_layers_mark_defects_better_than_untrained_ones(tmp_path: Path) -> None:
    """On the auxiliary data itself, as there is no telling what a random CLIP carries over."""
    categories = Surfaces().categories()[:2]
    auxiliary = auxiliary_surfaces(24, categories)
    method = O2n(
        encoder={"model": write_config(tmp_path), "weights": "random:0"},
        size=SIZE,
        epochs=25,
    )
    method.setup("cpu", memory())
    trained = TextLayers.of(method.train(auxiliary), "cpu")
    fresh = TextLayers.fresh([32, 32, 32], 24, auxiliary.seed, "cpu")

    def auroc(layers: TextLayers) -> float:
        maps, masks = [], []
        for category in auxiliary.categories:
            encodings = method._encode(category.test)
            levels = [torch.stack(x) for x in zip(*(e.levels for e in encodings), strict=True)]
            with torch.no_grad():
                text = method._prototypes(category.object_name)
                mean_map = torch.stack(layers.probabilities(levels, text, 0.01)).mean(dim=0)
            maps.append(torch.nn.functional.interpolate(mean_map[None], (SIZE, SIZE))[0].numpy())
            found_masks = [category.masks(i) for i in range(len(category.test))]
            masks += [np.zeros((SIZE, SIZE), bool) if m is None else m for m in found_masks]
        return pixel_auroc(np.stack(masks), np.concatenate(maps))

    assert auroc(trained) > 0.65
    assert auroc(trained) > auroc(fresh) + 0.15

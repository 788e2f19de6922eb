from __future__ import annotations

import pytest
import torch

from methods._diffusion import augment


def picture(height: int = 32, width: int = 32) -> torch.Tensor:
    """A smooth picture without symmetry."""
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    return torch.stack([x, 0.5 * y + 0.2, (x * y + x**2) / 2]) * 0.8 + 0.1


def copies(operations: tuple[str, ...], n: int = 40, seed: int = 0) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    return augment.augmented(picture(), n, operations, random)


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("metal nut", augment.OPERATIONS),
        ("handwritten digit three", ("translate", "colour")),
        ("transistor", ("translate", "colour")),
        ("cable", ("translate", "colour")),
        ("printed circuit board", ("translate", "colour")),
        ("retinal OCT", ("translate", "colour")),
        ("brain MRI", ("hflip", "translate", "colour")),
        ("head CT", ("hflip", "translate", "colour")),
        ("horse", ("translate", "colour")),
        ("catheter", augment.OPERATIONS),  # only whole words count
    ],
)
def test_what_keeps_an_image_normal_depends_on_the_object(
    name: str, allowed: tuple[str, ...]
) -> None:
    assert augment.operations_for("auto", name) == allowed
    upright = ("translate", "colour") if allowed == augment.OPERATIONS else allowed
    assert augment.operations_for("auto", name, orientation=True) == upright
    assert augment.operations_for("all", name) == augment.OPERATIONS
    assert augment.operations_for("none", name) == ()
    assert augment.operations_for(["vflip"], name) == ("vflip",)


def test_unknown_operation() -> None:
    with pytest.raises(ValueError, match=r"made of auto, all, none, hflip.*Got 'shear'"):
        augment.operations_for(["hflip", "shear"], "nut")


def test_the_first_copy_is_the_image_and_all_stay_in_range() -> None:
    augmented = copies(augment.OPERATIONS)
    assert augmented.shape == (40, 3, 32, 32)
    assert torch.equal(augmented[0], picture())
    assert augmented.min() >= 0
    assert augmented.max() <= 1
    assert len({tuple(one.flatten().tolist()) for one in augmented}) == 40


def test_same_seed_same_copies() -> None:
    assert torch.equal(copies(augment.OPERATIONS), copies(augment.OPERATIONS))
    assert not torch.equal(copies(augment.OPERATIONS), copies(augment.OPERATIONS, seed=1))


@pytest.mark.parametrize(("operation", "axis"), [("hflip", -1), ("vflip", -2)])
def test_flips_are_exact(operation: str, axis: int) -> None:
    image, augmented = picture(), copies((operation,))
    same = [torch.allclose(one, image, atol=1e-4) for one in augmented]
    flipped = [torch.allclose(one, image.flip(axis), atol=1e-4) for one in augmented]
    assert all(a != b for a, b in zip(same, flipped, strict=True))
    assert 10 < sum(flipped) < 30


def test_translations_move_by_whole_pixels_up_to_a_tenth() -> None:
    image, augmented = picture(), copies(("translate",), n=60)
    seen = set()
    for one in augmented:
        moves = [
            (dy, dx)
            for dy in range(-3, 4)
            for dx in range(-3, 4)
            if torch.allclose(
                one[:, 4:-4, 4:-4],
                image[:, 4 + dy : 28 + dy, 4 + dx : 28 + dx],
                atol=1e-4,
            )
        ]
        assert len(moves) == 1
        seen.add(moves[0])
    assert len(seen) > 15


def test_rotations_turn_about_the_centre_and_keep_shapes() -> None:
    disc = torch.zeros(3, 41, 61)
    y, x = torch.meshgrid(torch.arange(41.0), torch.arange(61.0), indexing="ij")
    disc[:, (y - 20) ** 2 + (x - 30) ** 2 < 100] = 1
    augmented = augment.augmented(disc, 20, ("rotate",), torch.Generator().manual_seed(0))
    assert (augmented - disc).abs().mean() < 0.005  # a disc stays a disc, on an oblong image too
    bar = torch.zeros(3, 41, 41)
    bar[:, 19:22, 5:36] = 1
    augmented = augment.augmented(bar, 20, ("rotate",), torch.Generator().manual_seed(0))
    # second moments give the bar's direction
    y, x = torch.meshgrid(torch.arange(41.0) - 20, torch.arange(41.0) - 20, indexing="ij")
    mass = augmented.mean(1)
    angle = 0.5 * torch.atan2(
        2 * (mass * x * y).sum((1, 2)), (mass * x * x).sum((1, 2)) - (mass * y * y).sum((1, 2))
    )
    assert angle.abs().max() <= torch.deg2rad(torch.tensor(23.0))
    assert angle.abs().max() > torch.deg2rad(torch.tensor(10.0))
    assert 4 <= (angle.abs() < 1e-3).sum() <= 16


def test_colour_changes_by_at_most_the_jitter() -> None:
    image, augmented = picture(), copies(("colour",))
    brightness = augmented.mean((1, 2, 3)) / image.mean()
    assert ((brightness > 0.88) & (brightness < 1.12)).all()
    assert brightness.std() > 0.01


def test_switching_an_operation_off_leaves_the_others_alone() -> None:
    both, one = copies(("hflip", "colour")), copies(("hflip",))
    lit = [float(x[0, 0, -1] > x[0, 0, 0]) for x in both]
    assert lit == [float(x[0, 0, -1] > x[0, 0, 0]) for x in one]

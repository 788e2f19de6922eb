"""Augmented copies of the few normal images a generator is customized on.

Which changes keep an image normal depends on the object: a mirrored digit is another thing, a
rotated transistor is misplaced. ``operations_for`` holds that table (PROTOCOL: flips, rotations of
+-22.5 degrees, translations of 0.1, colour jitter of 0.1).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch

OPERATIONS = ("hflip", "vflip", "rotate", "translate", "colour")
UPRIGHT = ("translate", "colour")  # those that neither flip nor rotate
#: words of object names whose orientation is part of being normal, and what is still allowed
ORIENTED: dict[str, tuple[str, ...]] = {
    "digit": ("translate", "colour"),
    "transistor": ("translate", "colour"),
    "cable": ("translate", "colour"),
    "printed circuit board": ("translate", "colour"),
    "OCT": ("translate", "colour"),
    "brain MRI": ("hflip", "translate", "colour"),
    "head CT": ("hflip", "translate", "colour"),
    # classes of CIFAR-10
    **dict.fromkeys(
        ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        ("translate", "colour"),
    ),
}
ANGLE = 22.5  # degrees
SHIFT = 0.1  # of the side
JITTER = 0.1  # of brightness, contrast and saturation


def operations_for(
    augment: str | Sequence[str], object_name: str, orientation: bool = False
) -> tuple[str, ...]:
    """What may be done to images of an object.

    Parameters
    ----------
    augment : "auto" (by the object's words), "all", "none", or names out of ``OPERATIONS``
    object_name : such as "metal nut"
    orientation : whether a flip or rotation makes an image of the dataset abnormal, which ``auto``
        goes by where no word of the object's says more

    Raises
    ------
    ValueError
        A name that is no operation.
    """
    if augment == "auto":
        words = f" {object_name} "
        for words_kept_upright, allowed in ORIENTED.items():
            if f" {words_kept_upright} " in words:
                return allowed
        return UPRIGHT if orientation else OPERATIONS
    if isinstance(augment, str):
        chosen: Iterable[str] = {"all": OPERATIONS, "none": ()}.get(augment, (augment,))
    else:
        chosen = augment
    chosen = tuple(chosen)
    for name in chosen:
        if name not in OPERATIONS:
            known = ", ".join(("auto", "all", "none", *OPERATIONS))
            raise ValueError(f"augment must be made of {known}. Got {name!r} instead.")
    return chosen


def augmented(
    image: torch.Tensor, copies: int, operations: Sequence[str], generator: torch.Generator
) -> torch.Tensor:
    """Copies of an image, the first of them unchanged.

    Flips happen to half of the copies, rotations to half, with the angle uniform in +-22.5 degrees;
    translations, uniform and by whole pixels, and colour jitter happen to all. What comes in over
    the border is mirrored.

    Parameters
    ----------
    image : float tensor of shape (3, H, W) in [0, 1]
    copies : how many to return, at least 1
    operations : names out of ``OPERATIONS``
    generator : on the CPU; source of all randomness

    Returns
    -------
    float tensor of shape (copies, 3, H, W) in [0, 1]
    """
    n = copies - 1
    # drawn whether used or not: switching one operation off leaves the others' draws alone
    coin = torch.rand((n, 3), generator=generator) < 0.5
    spread = torch.rand((n, 6), generator=generator) * 2 - 1
    if n == 0 or not operations:
        return image.expand(copies, *image.shape).clone()
    height, width = image.shape[-2:]
    angle = torch.where(coin[:, 2], spread[:, 0] * math.radians(ANGLE), torch.zeros(n))
    angle = angle if "rotate" in operations else torch.zeros(n)
    move = spread[:, 1:3] * SHIFT if "translate" in operations else torch.zeros(n, 2)
    side = torch.tensor([width, height])
    move = (move * side).round() * 2 / side  # in grid_sample's unit: half a side
    mirror = torch.ones(n, 2)
    mirror[:, 0] -= 2.0 * (coin[:, 0] & ("hflip" in operations))
    mirror[:, 1] -= 2.0 * (coin[:, 1] & ("vflip" in operations))
    cos, sin = torch.cos(angle), torch.sin(angle)
    # where each output pixel comes from: flip after rotation, rotation in pixels and not in sides
    rows = [
        torch.stack([cos * mirror[:, 0], sin * mirror[:, 1] * height / width, move[:, 0]], 1),
        torch.stack([-sin * mirror[:, 0] * width / height, cos * mirror[:, 1], move[:, 1]], 1),
    ]
    source = torch.nn.functional.affine_grid(
        torch.stack(rows, 1), [n, *image.shape], align_corners=False
    )
    changed = torch.nn.functional.grid_sample(
        image.cpu().expand(n, *image.shape),
        source,
        mode="bicubic",
        padding_mode="reflection",
        align_corners=False,
    )
    if "colour" in operations:
        gain = 1 + JITTER * spread[:, 3:6].view(n, 3, 1, 1, 1)
        changed = changed * gain[:, 0]
        mean = changed.mean((1, 2, 3), keepdim=True)
        changed = mean + (changed - mean) * gain[:, 1]
        grey = changed.mean(1, keepdim=True)
        changed = grey + (changed - grey) * gain[:, 2]
    changed = changed.clamp(0, 1).to(image.device)
    return torch.cat([image[None], changed])

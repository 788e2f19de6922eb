"""Images that a generator is customized on: the support, augmented, and damaged copies of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from harness.interface import Image
from methods._diffusion import model
from methods._diffusion.augment import augmented
from methods._o2n import defects


def versions(
    images: Sequence[Image], side: int, operations: Sequence[str], copies: int, seed: int
) -> Iterator[torch.Tensor]:
    """For each image float32 (copies, 3, side, side) in [0, 1], the first unchanged; one alone
    where there are no operations.
    """
    for image in images:
        random = model.generator_of("augment", seed, image.key)
        pixels = model.to_tensor(image.pixels, side, "cpu")
        yield augmented(pixels, copies if operations else 1, operations, random)


def with_defects(sound: torch.Tensor, *key: str | int) -> torch.Tensor:
    """Images (n, 3, H, W) in [0, 1], each with a synthetic defect (``defects``), kinds in turn.

    Parameters
    ----------
    sound : float32 tensor of shape (n, 3, H, W), in [0, 1]
    key : what the random draw depends on
    """
    random = np.random.default_rng(model.seed_of("damage", *key))
    pixels = model.to_pixels(sound)
    kinds = [defects.KINDS[i % len(defects.KINDS)] for i in range(len(pixels))]
    drawn = [defects.damaged(one, kind, random)[0] for one, kind in zip(pixels, kinds, strict=True)]
    # where nothing was drawn the two differ by nothing, not by the rounding of pixels
    stacked = torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2)
    same = stacked == torch.from_numpy(pixels).permute(0, 3, 1, 2)
    return torch.where(same, sound, stacked.float() / 255)

"""Synthetic defects on normal pictures, to see on a support alone what finds damage.

CutPaste and its scar (Li et al., "CutPaste", CVPR 2021), and a smooth blob of another shade. They
are no model of real damage: a branch that does not even see them is not to be trusted.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

KINDS = ("cutpaste", "scar", "blob")


def damaged(
    pixels: NDArray[np.uint8], kind: str, random: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """A damaged copy, and where it is damaged.

    Parameters
    ----------
    pixels : uint8 ndarray of shape (H, W, 3), H and W at least 16
    kind : str
        ``cutpaste``: a rectangle of 2 to 10 % of the area, aspect 0.3 to 3.3, its colours slightly
        changed, pasted elsewhere. ``scar``: a thin strip, 1 to 4 % of the side wide and 10 to 30 %
        long, pasted at any angle. ``blob``: a smooth spot 5 to 15 % of the side in radius, lighter
        or darker by 15 to 35 % of the range.
    random : numpy Generator

    Returns
    -------
    uint8 ndarray of shape (H, W, 3) and bool ndarray of shape (H, W)

    Raises
    ------
    ValueError
        Another kind.
    """
    if kind not in KINDS:
        raise ValueError(f"kind of synthetic defect must be one of {', '.join(KINDS)}, got {kind}")
    height, width = pixels.shape[:2]
    rows, columns = np.mgrid[:height, :width].astype(float)
    middle = np.array([height, width]) * random.uniform(0.2, 0.8, 2)
    side = math.sqrt(height * width)
    if kind == "blob":
        radius = side * random.uniform(0.05, 0.15)
        distance = np.hypot(rows - middle[0], columns - middle[1])
        grain = ndimage.gaussian_filter(random.standard_normal((height, width)), radius / 2)
        edge = radius * (1 + 0.3 * grain / (grain.std() + 1e-12))
        share = np.clip((edge - distance) / (0.3 * radius), 0, 1)[..., None]
        shade = random.choice([-1, 1]) * random.uniform(0.15, 0.35) * 255
        tint = shade * random.uniform(0.7, 1.0, 3)
        changed = pixels + share * tint
        mask = share[..., 0] > 0.1
    else:
        if kind == "cutpaste":
            area, aspect = random.uniform(0.02, 0.10), math.exp(random.uniform(-1.2, 1.2))
            size = side * math.sqrt(area) * np.array([aspect**-0.5, aspect**0.5])
            angle = 0.0
        else:
            size = side * np.array([random.uniform(0.01, 0.04), random.uniform(0.10, 0.30)])
            angle = random.uniform(0, math.pi)
        size = np.maximum(size, 2)
        along = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        offset = np.stack([rows - middle[0], columns - middle[1]], -1) @ along
        mask = (np.abs(offset) <= size / 2).all(-1)
        # the pasted piece: what lies elsewhere, some of it mirrored at the border
        shift = random.uniform(0.15, 0.5, 2) * (height, width) * random.choice([-1, 1], 2)
        piece = ndimage.shift(pixels.astype(float), (*shift, 0), order=0, mode="grid-wrap")
        piece = piece * random.uniform(0.9, 1.1, 3) + random.uniform(-25, 25)
        changed = np.where(mask[..., None], piece, pixels)
    return np.clip(np.round(changed), 0, 255).astype(np.uint8), mask

"""Procedural pictures of surfaces and objects, sound and damaged: vectorised numpy, no files.

A *family* (wood, gear, ...) is a function of two generators: ``style`` fixes what all items of a
category share (colours, spacing, proportions), ``item`` what differs between them (position, grain,
wear). A defect is drawn on the bare colours, before light and sensor noise, so that the damaged
picture and its clean counterpart are the same picture outside the mask, bit for bit.

``EVALUATION`` families make up the ``surfaces`` dataset and are never trained on; ``TRAINING``
families feed the embedded micro models.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from datasets._rendering import evaluation, objects, textures
from datasets._rendering.base import Colour, Plane, bilinear_noise
from datasets._rendering.defects import DEFECTS, Damage

Family = Callable[[np.random.Generator, np.random.Generator, int], Plane]

#: family -> (function, words for prompts); rendered by the dataset, kept away from training
EVALUATION: dict[str, tuple[Family, str]] = evaluation.FAMILIES
#: families the micro models are trained on
TRAINING: dict[str, tuple[Family, str]] = {**textures.FAMILIES, **objects.FAMILIES}

VERSION = 1  # raise when the same seed gives other pixels
VISIBLE = 16.0  # grey levels: least mean change inside the mask for a defect to count as drawn
ATTEMPTS = 8


@dataclass(frozen=True)
class Rendering:
    """One picture.

    Attributes
    ----------
    pixels : uint8 (H, W, 3), RGB, with the defect if there is one
    clean : uint8 (H, W, 3), the same picture without the defect
    mask : bool (H, W), where a defect was drawn; all False without one
    defect : its kind, "good" without one
    """

    pixels: NDArray[np.uint8]
    clean: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    defect: str = "good"


def generator(*keys: int | str) -> np.random.Generator:
    """A random generator that depends on the keys alone, the same in every process."""
    return np.random.default_rng(
        [zlib.crc32(k.encode()) if isinstance(k, str) else k for k in keys]
    )


def render(
    family: str,
    style: tuple[int | str, ...],
    item: tuple[int | str, ...],
    size: int,
    defect: str = "good",
) -> Rendering:
    """Draw one picture of a family.

    Parameters
    ----------
    family : name in ``TRAINING`` or ``EVALUATION``
    style, item : keys of the two random streams; equal keys, equal pixels
    size : side in pixels
    defect : kind of defect in ``DEFECTS``, or "good"
    """
    draw = (TRAINING.get(family) or EVALUATION[family])[0]
    plane = draw(generator(*style, family, "style"), generator(*item, family, "item"), size)
    light, grain = _camera(generator(*item, family, "camera"), size)
    clean = _expose(plane.colour, light, grain)
    if defect == "good":
        return Rendering(clean, clean, np.zeros((size, size), dtype=bool))
    # A defect that happens to look like its surroundings is no defect: draw another of the kind,
    # and keep the most visible if none is visible enough.
    best: tuple[float, NDArray[np.uint8], NDArray[np.bool_]] | None = None
    for attempt in range(ATTEMPTS):
        damage: Damage = DEFECTS[defect](generator(*item, family, defect, attempt), plane, size)
        mask = damage.mask
        if mask.sum() < 12 * (size / 128) ** 2:
            continue
        damaged = np.where(mask[..., None], _expose(damage.colour, light, grain), clean)
        change = np.abs(damaged[mask].astype(np.float32) - clean[mask]).mean()
        if best is None or change > best[0]:
            best = (float(change), damaged, mask)
        if change >= VISIBLE:
            break
    if best is None:
        raise RuntimeError(
            f"No {defect} could be drawn on {family} of {size} pixels with {item!r}."
        )
    return Rendering(best[1], clean, best[2], defect)


def _camera(rng: np.random.Generator, size: int) -> tuple[Colour, Colour]:
    """Light falling across the picture, (S, S, 1), and sensor noise, (S, S, 1)."""
    light = 1.0 + 0.05 * rng.uniform(-1, 1) + 0.08 * bilinear_noise(rng, size, 1, 1)
    grain = rng.standard_normal((size, size), dtype=np.float32) * rng.uniform(0.004, 0.009)
    return light[..., None].astype(np.float32), grain[..., None].astype(np.float32)


def _expose(colour: Colour, light: Colour, grain: Colour) -> NDArray[np.uint8]:
    exposed: NDArray[np.uint8] = (np.clip(colour * light + grain, 0, 1) * 255 + 0.5).astype(
        np.uint8
    )
    return exposed

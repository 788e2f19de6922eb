"""What is doubtful about a category's masks, in lines for people."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image as Picture

from harness.data.contents import Stamps, naming
from harness.data.images import mask_values
from harness.interface import Sample

#: Values up to here are taken for numbers of classes or palettes' indices, not for greys.
CLASSES = 32
#: A defect that fills more than this share of an image is unusual; its ground does.
MOST = 0.5


def remarks(stamps: Stamps, samples: Sequence[Sample]) -> list[str]:
    """One line for each kind of trouble with the masks of these samples, nothing where all is well.

    Masks are looked at whole, not tile by tile, and only once: what is found is remembered.

    Raises
    ------
    DataError
        A mask or an image is missing or damaged.
    """
    image_of = {s.mask: s.image for s in samples if s.mask is not None and s.label}
    if not image_of:
        return []
    dataset = stamps.dataset
    threshold = dataset.threshold

    def look(source: str) -> dict[str, Any]:
        with naming(dataset, source):
            values = mask_values(dataset.open(source))
        marked = values if values.dtype == np.bool_ else values > threshold
        top = int(values.max())
        inner = np.unique(values[values > 0])
        return {
            "size": values.shape[::-1],
            "levels": len(inner) if top > CLASSES else min(1, len(inner)),
            "share": float(marked.mean()),
            "half": float((values > top / 2).mean()) if top else 0.0,
        }

    def size(source: str) -> tuple[int, int]:
        with naming(dataset, source):
            contents = dataset.open(source)
            if isinstance(contents, np.ndarray):
                return contents.shape[1], contents.shape[0]
            with Picture.open(io.BytesIO(contents)) as picture:
                return picture.size

    masks = stamps.facts(f"mask 1 {threshold} ", {mask: mask for mask in image_of}, look)
    sizes = stamps.facts("size 1 ", {image: image for image in image_of.values()}, size)
    grey = [m for m, fact in masks.items() if fact["levels"] > 1 and not threshold]
    most = [m for m, fact in masks.items() if fact["share"] > MOST]
    empty = [m for m, fact in masks.items() if not fact["share"]]
    other = [m for m, fact in masks.items() if list(fact["size"]) != list(sizes[image_of[m]])]
    lines = []
    if grey:
        ratios = [masks[m]["share"] / masks[m]["half"] for m in grey]
        lines.append(
            f"{_of(grey, masks)} not two-valued (such as {grey[0]}): what is above 0 counts as "
            f"defect, up to {max(ratios):.2f} times what is above half; set the parameter threshold"
        )
    if most:
        lines.append(
            f"{_of(most, masks)} marking more than half of the image: inverted? ({most[0]})"
        )
    if other:
        ours, theirs = masks[other[0]]["size"], sizes[image_of[other[0]]]
        lines.append(
            f"{_of(other, masks)} of another size than their image ({other[0]}: {_times(ours)}, "
            f"not {_times(theirs)})"
        )
    if empty:
        lines.append(f"{_of(empty, masks)} marking nothing ({empty[0]})")
    return lines


def _of(some: Sequence[str], masks: Any) -> str:
    return f"{len(some)} of {len(masks)} masks {'is' if len(some) == 1 else 'are'}"


def _times(size: Sequence[int]) -> str:
    return f"{size[0]} x {size[1]}"

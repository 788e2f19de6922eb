"""Procedural surfaces and objects: exact masks, and a clean counterpart of each damaged image."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from datasets._rendering.defects import DEFECTS
from datasets._rendering.render import EVALUATION, VERSION, Rendering, render
from harness.interface import Dataset, Sample


class Surfaces(Dataset):
    """Five textures and five objects, rendered when opened: nothing is read or stored.

    A category is one style of its family (colours, spacing, layout), fixed by ``seed``; its images
    differ in position, grain and light. Defects are of eleven kinds, in turn. The image of a
    defect and its clean counterpart (``clean``) are equal outside the mask, bit for bit. The
    embedded micro models were never trained on these ten families; the kinds of defect, drawn on
    other families, they have seen.

    Parameters
    ----------
    n_train : int
        Normal images to draw supports from, per category.
    n_test : int
        Queries per category: half of them, rounded up, normal.
    size : int
        Side of the images in pixels, 32 to 1024.
    seed : int
        Other seeds give other styles and other images.
    categories : list of str, optional
        Which of the ten; all by default.
    """

    domain: ClassVar[str] = "industrial"
    licence: ClassVar[str] = "Apache-2.0"
    homepage: ClassVar[str] = ""

    def __init__(
        self,
        n_train: Annotated[int, Field(ge=1, le=100_000)] = 40,
        n_test: Annotated[int, Field(ge=2, le=100_000)] = 60,
        size: Annotated[int, Field(ge=32, le=1024)] = 128,
        seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0,
        categories: Sequence[str] | None = None,
    ) -> None:
        chosen = list(EVALUATION) if categories is None else list(categories)
        for category in chosen:
            _known(category)
        self.n_train, self.n_test, self.size, self.seed = n_train, n_test, size, seed
        self._categories = sorted(set(chosen))
        self._last: tuple[tuple[str, str, str, int], Rendering] | None = None

    def categories(self) -> list[str]:
        """Names of the categories, sorted."""
        return list(self._categories)

    def train(self, category: str) -> list[Sample]:
        """``n_train`` normal images."""
        _known(category)
        return [Sample(f"{category}/train/good/{i:05d}") for i in range(self.n_train)]

    def test(self, category: str) -> list[Sample]:
        """Normal queries, then damaged ones, the kinds of defect in turn."""
        _known(category)
        damaged = self.n_test // 2
        samples = [Sample(f"{category}/test/good/{i:05d}") for i in range(self.n_test - damaged)]
        kinds = list(DEFECTS)
        for i in range(damaged):
            kind = kinds[i % len(kinds)]
            source = f"{category}/test/{kind}/{i:05d}"
            mask = f"{category}/mask/{kind}/{i:05d}"
            samples.append(Sample(source, label=1, mask=mask, defect=kind))
        return samples

    def clean(self, sample: Sample) -> Sample:
        """The same picture without its defect; a normal sample is its own counterpart."""
        category, _, kind, index = self._parse(sample.image)
        if kind == "good":
            return sample
        return Sample(f"{category}/clean/{kind}/{index:05d}")

    def object_name(self, category: str) -> str:
        """Words for prompts."""
        _known(category)
        return EVALUATION[category][1]

    def open(self, source: str) -> NDArray[Any]:
        """Render a source: uint8 (size, size, 3), or for a mask (size, size) of 0 and 255."""
        category, part, kind, index = self._parse(source)
        key = (category, part if kind == "good" else "test", kind, index)
        # an image, its mask and its clean counterpart are one rendering, often asked for in turn
        if self._last is None or self._last[0] != key:
            drawn = render(category, (self.seed,), (self.seed, key[1], index), self.size, kind)
            self._last = key, drawn
        drawn = self._last[1]
        if part == "mask":
            return drawn.mask.astype(np.uint8) * np.uint8(255)
        return (drawn.clean if part == "clean" else drawn.pixels).copy()

    def stamp(self, source: str) -> str:
        """The renderer's version and all that the source's pixels depend on."""
        return f"{VERSION}-{self.size}-{self.seed}-{source}"

    def _parse(self, source: str) -> tuple[str, str, str, int]:
        parts = source.split("/")
        well_formed = len(parts) == 4 and parts[1] in ("train", "test", "mask", "clean")
        if (
            not well_formed
            or not (parts[2] == "good" or parts[2] in DEFECTS)
            or not parts[3].isdecimal()
        ):
            raise FileNotFoundError(
                f"surfaces has no source {source!r}: expected "
                "CATEGORY/{train,test,mask,clean}/DEFECT/NUMBER."
            )
        _known(parts[0])
        return parts[0], parts[1], parts[2], int(parts[3])


def _known(category: str) -> None:
    if category not in EVALUATION:
        close = get_close_matches(str(category), list(EVALUATION), n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(
            f"surfaces has no category {category!r}.{hint} Available: {', '.join(EVALUATION)}."
        )

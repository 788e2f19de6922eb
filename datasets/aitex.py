"""AITEX fabric images (AFID), cut into square tiles."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from datasets._listed import Level, Masked, Partition, child, folders, images, three_quarters
from datasets._pictures import marked, size
from harness.interface import Sample

_TILE = 256  # pixels
_BOTH = "|"  # joins the sources of a defect drawn in two masks
_DEFECTS = {
    "002": "Broken_end",
    "006": "Broken_yarn",
    "010": "Broken_pick",
    "016": "Weft_curling",
    "019": "Fuzzyball",
    "022": "Cut_selvage",
    "023": "Crease",
    "025": "Warp_ball",
    "027": "Knots",
    "029": "Contamination",
    "030": "Nep",
    "036": "Weft_crack",
}


class AITEX(Masked):
    """The AITEX fabric image database, in the official packaging or the mirror's nested one.

    Silvestre-Blanes et al., "A Public Fabric Database for Defect Detection Methods and Results",
    Autex Research Journal 2019. Partition of DRA and InCTRL: clean strips are cut into 16 tiles of
    256 pixels, split 75/25; of defective strips only the tiles that a mask touches are kept. Two
    masks of one strip are united; a defective strip without a mask is left out.

    Parameters
    ----------
    root : str or Path
        Folder of ``NODefect_images``, ``Defect_images`` and ``Mask_images``.
    split : {"published", "source"}
        "published" splits clean tiles whatever strip they are of: nearly every strip is on both
        sides. "source" splits clean strips, 75/25 within each fabric.
    threshold : int
        A mask marks what is above it; 0 for the masks as they are published.
    """

    folders = ("aitex", "afid", "aitex_fabric", "aitex fabric image database")
    domain = "industrial"
    licence = "none stated"
    homepage = "https://www.aitex.es/afid/"
    layout = "NODefect_images/<fabric>, Defect_images and Mask_images"
    counts: ClassVar = {"aitex": (1692, 564, 183)}
    objects: ClassVar = {"aitex": "fabric"}

    def __init__(
        self,
        root: str | Path,
        split: Literal["published", "source"] = "published",
        threshold: Level = 0,
    ) -> None:
        super().__init__(root, threshold)
        self.split = split
        self.shares_groups = split == "published"
        self._unmarked: list[str] = []

    def _recognises(self, folder: Path) -> bool:
        return all(
            child(folder, name) for name in ("NODefect_images", "Defect_images", "Mask_images")
        )

    def remarks(self, category: str) -> list[str]:
        """Defective strips left out because nothing says where their defect is."""
        self._listed(category)
        if not self._unmarked:
            return super().remarks(category)
        return [
            *super().remarks(category),
            f"{len(self._unmarked)} defective strips have no mask and are left out: "
            f"{', '.join(self._unmarked)}",
        ]

    def file(self, source: str) -> Path | None:
        """The file of a strip or a mask; none for two masks joined by "|"."""
        return None if _BOTH in source else super().file(source)

    def open(self, source: str) -> bytes | np.ndarray:
        """Contents of a strip or a mask; two masks joined by "|" come as their union."""
        if _BOTH not in source:
            return super().open(source)
        first, *rest = (marked(self.base / part, self.threshold) for part in source.split(_BOTH))
        for other in rest:
            if other.shape != first.shape:
                raise ValueError(f"{source}: expected masks of one size under {self.base}")
            first = first | other
        return first

    def _folder(self, name: str) -> str:
        """Where the pictures are, relative to the base: the mirror repeats the folder's name."""
        folder = child(self.base, name)
        while folder and (nested := child(folder, name)):
            folder = nested
        return folder.relative_to(self.base).as_posix() if folder else name

    def _partition(self, category: str) -> Partition:
        strips = self._clean()
        if self.split == "published":
            train, test = three_quarters([tile for strip in strips for tile in strip])
        else:
            train, test = _by_strip(strips)
        return train, test + self._defective()

    def _clean(self) -> list[list[Sample]]:
        """Tiles of every clean strip: folders and files by their bytes, tiles from the left."""
        base = self._folder("NODefect_images")
        places = [base, *(f"{base}/{name}" for name in folders(self.base / base))]
        strips: list[list[Sample]] = []
        for place in places:
            for name in images(self.base / place):
                source = f"{place}/{name}"
                group = source.removeprefix(f"{base}/")
                boxes = self._boxes(source)
                strips.append([Sample(source, group=group, box=box) for box in boxes])
        return strips

    def _boxes(self, source: str) -> list[tuple[int, int, int, int]]:
        """Boxes of a strip's tiles; the last may be narrower."""
        width, height = size(self.base / source)
        return [
            (left, 0, min(left + _TILE, width), min(_TILE, height))
            for left in range(0, width, _TILE)
        ]

    def _defective(self) -> list[Sample]:
        """Tiles that a mask touches."""
        place, drawn = self._folder("Defect_images"), self._folder("Mask_images")
        masks = {Path(name).stem.lower(): name for name in images(self.base / drawn)}
        self._unmarked = []
        tiles: list[Sample] = []
        for name in images(self.base / place):
            source, stem = f"{place}/{name}", Path(name).stem.lower()
            drawn_masks = [
                masks[m] for end in ("", "1", "2") if (m := f"{stem}_mask{end}") in masks
            ]
            if not drawn_masks:
                self._unmarked.append(name)
                continue
            mask = _BOTH.join(f"{drawn}/{file}" for file in drawn_masks)
            contents = self.open(mask)
            region = marked(contents, self.threshold) if isinstance(contents, bytes) else contents
            width, height = size(self.base / source)
            if region.shape != (height, width):
                raise ValueError(
                    f"{self.base / drawn / drawn_masks[0]}: expected the size of its image, "
                    f"{width} x {height}. Got {region.shape[1]} x {region.shape[0]}."
                )
            code = f"{stem}__".split("_")[1]
            tiles += [
                Sample(source, 1, mask, _DEFECTS.get(code, code or "defect"), name, box)
                for box in self._boxes(source)
                if region[box[1] : box[3], box[0] : box[2]].any()
            ]
        return tiles


def _by_strip(strips: list[list[Sample]]) -> Partition:
    """Split strips 75/25 within each fabric; two files of one image number stay together."""
    fabrics: dict[str, dict[str, list[Sample]]] = {}
    for strip in strips:
        for tile in strip:
            fabric, _, file = tile.group.rpartition("/")
            number = file.split("_")[0]
            fabric = fabric or Path(file).stem.rpartition("_")[2]  # no folders: the fabric's code
            fabrics.setdefault(fabric, {}).setdefault(number, []).append(tile)
    train: list[Sample] = []
    test: list[Sample] = []
    for numbers in fabrics.values():
        kept, tested = three_quarters(list(numbers))
        train += [tile for number in kept for tile in numbers[number]]
        test += [tile for number in tested for tile in numbers[number]]
    return train, test

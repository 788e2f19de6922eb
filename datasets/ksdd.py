"""KolektorSDD: surfaces of electrical commutators, cut into three bands."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import ClassVar, Literal

from datasets._listed import Level, Masked, Partition, folders, images, three_quarters
from datasets._pictures import marked, size
from harness.interface import Sample

_BANDS = 3


class KSDD(Masked):
    """The first KolektorSDD, with fine masks or with boxes; not KolektorSDD2.

    Tabernik et al., "Segmentation-based deep-learning approach for surface-defect detection",
    Journal of Intelligent Manufacturing 2020. Partition of DRA and InCTRL: every surface is cut at
    a third and two thirds of its height; a band is anomalous if its part of the mask marks
    anything, and the clean bands of defective surfaces count as normal. The published counts are
    those of the fine masks.

    Parameters
    ----------
    root : str or Path
        Folder of ``kos01`` ... ``kos50``.
    split : {"published", "item"}
        "published" splits normal bands 75/25 whatever surface they are of, so that bands of a
        surface and surfaces of a commutator are on both sides. "item" draws supports from a
        quarter of the commutators and tests on all bands of the others; nearly every commutator
        has a defect, so those of the first quarter are not tested.
    threshold : int
        A mask marks what is above it; 0 for the masks as they are published.
    """

    folders = ("ksdd", "kolektorsdd", "kolektorsdd-boxes", "kolektor", "sdd")
    domain = "industrial"
    licence = "CC BY-NC-SA 4.0"
    homepage = "https://www.vicos.si/resources/kolektorsdd/"
    layout = "kos01/Part0.jpg and kos01/Part0_label.bmp, up to kos50"
    counts: ClassVar = {"ksdd": (857, 286, 54)}
    objects: ClassVar = {"ksdd": "commutator surface"}

    def __init__(
        self,
        root: str | Path,
        split: Literal["published", "item"] = "published",
        threshold: Level = 0,
    ) -> None:
        super().__init__(root, threshold)
        self.split = split
        self.shares_groups = split == "published"
        self._unmarked: list[str] = []

    def _recognises(self, folder: Path) -> bool:
        return any(
            name.lower().endswith("_label.bmp")
            for item in _items(folder)
            for name in images(folder / item)
        )

    def remarks(self, category: str) -> list[str]:
        """Surfaces without a mask, which are taken as clean."""
        self._listed(category)
        if not self._unmarked:
            return super().remarks(category)
        return [
            *super().remarks(category),
            f"{len(self._unmarked)} surfaces have no mask and count as clean: "
            f"{', '.join(self._unmarked[:5])}",
        ]

    def _partition(self, category: str) -> Partition:
        bands = self._bands()
        if self.split == "published":
            train, test = three_quarters([band for band in bands if not band.label])
            tested = {band.name for band in test} | {band.name for band in bands if band.label}
            return train, [band for band in bands if band.name in tested]
        _, kept = three_quarters(_items(self.base))
        train = [band for band in bands if band.group in kept and not band.label]
        return train, [band for band in bands if band.group not in kept]

    def _bands(self) -> list[Sample]:
        """Bands of all surfaces: items and files by their bytes, bands from the top."""
        self._unmarked = []
        bands: list[Sample] = []
        for item in _items(self.base):
            names = images(self.base / item)
            masks = {Path(name).stem.lower(): name for name in names}
            for name in names:
                stem = Path(name).stem.lower()
                if stem.endswith("_label"):
                    continue
                source = f"{item}/{name}"
                width, height = size(self.base / source)
                region = masks.get(f"{stem}_label")
                mask = f"{item}/{region}" if region else None
                drawn = None
                if mask is None:
                    self._unmarked.append(source)
                else:
                    drawn = marked(self.base / mask, self.threshold)
                    if drawn.shape != (height, width):
                        raise ValueError(
                            f"{self.base / mask}: expected the size of its image, "
                            f"{width} x {height}. Got {drawn.shape[1]} x {drawn.shape[0]}."
                        )
                cuts = [band * height // _BANDS for band in range(_BANDS + 1)]
                for top, bottom in pairwise(cuts):
                    box = (0, top, width, bottom)
                    if drawn is not None and drawn[top:bottom].any():
                        bands.append(Sample(source, 1, mask, "defect", item, box))
                    else:
                        bands.append(Sample(source, group=item, box=box))
        return bands


def _items(folder: Path) -> list[str]:
    """Folders of commutators."""
    return [name for name in folders(folder) if name.lower().startswith("kos")]

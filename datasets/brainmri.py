"""Brain MRI slices with and without a tumour."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from datasets._listed import Listed, Partition, child, images, three_quarters
from datasets._pictures import opened
from harness.data.thumbnails import alike, joined, thumbnail, unit
from harness.interface import Sample


class BrainMRI(Listed):
    """The Kaggle set by N. Chakrabarty: ``no`` (normal) and ``yes`` (tumour).

    Partition of DRA and InCTRL: normals split 75/25 in the order of their names, every tumour
    tested. The set repeats itself: about a fifth of the images are near copies of another.

    Parameters
    ----------
    root : str or Path
        Folder of ``no`` and ``yes``.
    split : {"published", "deduplicated"}
        "deduplicated" first keeps one image, the first by name, of each set of near duplicates
        (thumbnails correlated above 0.995, chains joined), in ``no`` and in ``yes``.
    """

    folders = (
        "brainmri",
        "brain_mri",
        "brain-mri",
        "brain_tumor_dataset",
        "brain-mri-images-for-brain-tumor-detection",
    )
    domain = "medical"
    licence = "unclear"
    homepage = "https://www.kaggle.com/datasets/navoneel/brain-mri-images-for-brain-tumor-detection"
    layout = "no/ and yes/ with pictures"
    counts: ClassVar = {"brainmri": (73, 25, 155)}
    objects: ClassVar = {"brainmri": "brain MRI"}
    orientation = True
    near_duplicates = True  # supports that look like a test image are rejected by default

    def __init__(
        self,
        root: str | Path,
        split: Literal["published", "deduplicated"] = "published",
    ) -> None:
        super().__init__(root)
        self.split = split

    def _recognises(self, folder: Path) -> bool:
        halves = [child(folder, "no"), child(folder, "yes")]
        return all(each is not None and images(each) for each in halves)

    def _partition(self, category: str) -> Partition:
        normal, tumour = self._names("no"), self._names("yes")
        train, test = three_quarters([Sample(name) for name in normal])
        return train, test + [Sample(name, 1, None, "tumour") for name in tumour]

    def _names(self, folder: str) -> list[str]:
        place = child(self.base, folder)
        assert place is not None  # the tree was recognised
        names = [f"{place.name}/{name}" for name in images(place)]
        if self.split == "published":
            return names
        rows = unit(np.stack([thumbnail(opened(self.base / name)) for name in names]))
        clusters = np.arange(len(rows))
        for first, second in alike(rows):
            clusters = joined(clusters, first, second)
        _, firsts = np.unique(clusters, return_index=True)
        return [names[index] for index in sorted(firsts)]

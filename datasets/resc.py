"""RESC: slices of retinal OCT volumes with and without oedema."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from datasets._listed import Masked, Partition, images, pictured
from harness.interface import Sample

_MASKS = ("anomaly_mask", "label", "mask")


class RESC(Masked):
    """The retinal edema segmentation challenge (AI Challenger 2018), as BMAD arranges it.

    Bao et al., "BMAD: Benchmarks for Medical Anomaly Detection", 2023. Supports come from
    ``train``; the validation folder shares its volumes with ``test`` and is left out.

    Parameters
    ----------
    root : str or Path
        Folder of ``train/good`` and ``test/<good|Ungood>``, each with its pictures in ``img`` and
        the masks in ``anomaly_mask`` or ``label``.
    threshold : int
        A mask marks what is above it; 0 for the masks as they are published.
    """

    folders = ("resc", "retina_resc_ad", "retina_resc")
    domain = "medical"
    licence = "none stated; research use"
    homepage = "https://github.com/DorisBao/BMAD"
    layout = "train/good/img, test/good/img, test/Ungood/img and test/Ungood/anomaly_mask"
    counts: ClassVar = {"resc": (4297, 1041, 764)}
    objects: ClassVar = {"resc": "retinal OCT"}
    orientation = True

    def _recognises(self, folder: Path) -> bool:
        return all(
            pictured(folder, (part,), (kind,)) is not None
            for part, kind in (("train", "good"), ("test", "good"), ("test", "Ungood"))
        ) and bool(pictured(folder, ("test",), ("Ungood",), _MASKS))

    def _partition(self, category: str) -> Partition:
        train = self._samples("train", "good")
        return train, self._samples("test", "good") + self._samples("test", "Ungood")

    def _samples(self, part: str, kind: str) -> list[Sample]:
        """Slices, called <volume>_<slice>; volumes of train and of test are numbered apart."""
        place = pictured(self.base, (part,), (kind,))
        assert place is not None  # the tree was recognised
        prefix = place.relative_to(self.base).as_posix()
        drawn = pictured(self.base, (part,), (kind,), _MASKS) if kind != "good" else None
        masks: dict[str, str] = {}
        if drawn is not None:
            folder = drawn.relative_to(self.base).as_posix()
            masks = {Path(name).stem: f"{folder}/{name}" for name in images(drawn)}
        samples: list[Sample] = []
        for name in images(place):
            stem = Path(name).stem
            volume = stem.rpartition("_")[0]
            group = f"{part} {volume}" if volume else ""
            source = f"{prefix}/{name}"
            if kind == "good":
                samples.append(Sample(source, group=group))
            else:
                mask = masks.get(stem) or masks.get(f"{stem}_mask")
                samples.append(Sample(source, 1, mask, "oedema", group))
        return samples

"""OCT2017: retinal scans of healthy and of three kinds of diseased eyes."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from datasets._listed import Listed, Partition, images, pictured
from harness.interface import Sample

_DISEASES = ("CNV", "DME", "DRUSEN")


class OCT2017(Listed):
    """Retinal OCT of Kermany et al. (Cell 2018), or BMAD's arrangement of it.

    Supports come from ``train/NORMAL``; all of ``test`` is tested, 242 images per class in the
    Kaggle copy (the published 968) and 250 in the Mendeley releases. The 32 images of ``val`` stem
    from the original test set and are left out.

    Parameters
    ----------
    root : str or Path
        Folder of ``train`` and ``test``, with ``NORMAL``, ``CNV``, ``DME``, ``DRUSEN`` (Kaggle,
        Mendeley) or ``good``, ``Ungood`` (BMAD).
    split : {"patient", "published"}
        "patient" leaves out of train every patient who appears in test, under any class.
        "published" keeps them: a support may show an eye that is tested, and is counted then.
    """

    folders = ("oct2017", "kermany2018", "zhanglabdata", "cellData", "retina_oct2017_ad")
    domain = "medical"
    licence = "CC BY 4.0"
    homepage = "https://www.kaggle.com/datasets/paultimothymooney/kermany2018"
    layout = "train/NORMAL and test/<NORMAL|CNV|DME|DRUSEN>, or train/good and test/<good|Ungood>"
    counts: ClassVar = {"oct2017": (26315, 242, 726)}
    objects: ClassVar = {"oct2017": "retinal OCT"}
    orientation = True

    def __init__(
        self,
        root: str | Path,
        split: Literal["patient", "published"] = "patient",
    ) -> None:
        super().__init__(root)
        self.split = split
        self.shares_groups = split == "published"
        self._dropped = 0

    def _recognises(self, folder: Path) -> bool:
        if all(pictured(folder, (part,), ("NORMAL",)) for part in ("train", "test")):
            return True
        train = pictured(folder, ("train",), ("good",))
        if train is None or pictured(folder, ("test",), ("Ungood",)) is None:
            return False
        # BMAD arranges other sets in the same way; only scans of this one are named so.
        return any(len(_parts(name)) == 3 for name in images(train)[:1])

    def remarks(self, category: str) -> list[str]:
        """How many scans the split by patient left out."""
        self._listed(category)
        left_out = f"{self._dropped:,} train scans left out: their patient is in test"
        return super().remarks(category) + [f"{left_out} (split: published keeps them)"] * bool(
            self._dropped
        )

    def _partition(self, category: str) -> Partition:
        train = self._samples("train", ("NORMAL", "good"), "good")
        test = self._samples("test", ("NORMAL", "good"), "good")
        for disease in _DISEASES:
            if pictured(self.base, ("test",), (disease,)):
                test += self._samples("test", (disease,), disease)
        if pictured(self.base, ("test",), ("Ungood",)):
            test += self._samples("test", ("Ungood",), "")
        if not any(sample.label for sample in test):
            raise ValueError(
                f"OCT2017: no diseased scans in {self.base / 'test'}; expected "
                f"{', '.join(_DISEASES)} or Ungood"
            )
        if self.split == "patient":
            tested = {sample.group for sample in test if sample.group}
            kept = [sample for sample in train if sample.group not in tested]
            self._dropped = len(train) - len(kept)
            train = kept
        return train, test

    def _samples(self, part: str, names: tuple[str, ...], defect: str) -> list[Sample]:
        """Scans of a folder, called <CLASS>-<patient>-<number>; "" takes the defect from there."""
        place = pictured(self.base, (part,), names)
        assert place is not None  # the caller looked
        prefix = place.relative_to(self.base).as_posix()
        samples: list[Sample] = []
        for name in images(place):
            parts = _parts(name)
            kind = defect or (parts[0] if parts[0] in _DISEASES else "Ungood")
            patient = parts[1] if len(parts) == 3 else ""
            source = f"{prefix}/{name}"
            samples.append(Sample(source, int(kind != "good"), None, kind, patient))
        return samples


def _parts(name: str) -> list[str]:
    """Class, patient and number."""
    return Path(name).stem.split("-")

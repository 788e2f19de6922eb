"""MVTec AD: fifteen objects and textures, in the official folders."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from datasets._listed import Partition, folders
from datasets._tree import Tree


class MVTec(Tree):
    """MVTec AD as its archive unpacks; any subset of the fifteen categories will do.

    Bergmann et al., "MVTec AD - A Comprehensive Real-World Dataset for Unsupervised Anomaly
    Detection", CVPR 2019. The partition is the official one, masks included.

    Parameters
    ----------
    root : str or Path
        Folder that holds ``bottle``, ``cable``, ...
    threshold : int
        A mask marks what is above it; 127 for copies whose masks were saved as JPEG.
    """

    folders = ("mvtec", "mvtec_ad", "mvtec-ad", "mvtecad", "mvtec_anomaly_detection")
    domain = "industrial"
    licence = "CC BY-NC-SA 4.0"
    homepage = "https://www.mvtec.com/company/research/datasets/mvtec-ad"
    layout = "<category>/train/good, <category>/test/<good|defect> for a category such as bottle"
    counts: ClassVar = {
        "bottle": (209, 20, 63),
        "cable": (224, 58, 92),
        "capsule": (219, 23, 109),
        "carpet": (280, 28, 89),
        "grid": (264, 21, 57),
        "hazelnut": (391, 40, 70),
        "leather": (245, 32, 92),
        "metal_nut": (220, 22, 93),
        "pill": (267, 26, 141),
        "screw": (320, 41, 119),
        "tile": (230, 33, 84),
        "toothbrush": (60, 12, 30),
        "transistor": (213, 60, 40),
        "wood": (247, 19, 60),
        "zipper": (240, 32, 119),
    }

    def _recognises(self, folder: Path) -> bool:
        return any((folder / name / "train" / "good").is_dir() for name in self.counts)

    def categories(self) -> list[str]:
        """Those of the fifteen that are here."""
        return [name for name in folders(self.base) if name in self.counts]

    def _partition(self, category: str) -> Partition:
        return self._tree(self._prefix(category))

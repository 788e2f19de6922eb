"""ELPV: electroluminescence images of solar cells, by default from the package on PyPI."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import ClassVar

from datasets._listed import Listed, Partition, three_quarters
from harness.interface import Sample


class ELPV(Listed):
    """Cells labelled 0 (functional) against cells labelled 1 (defective); the rest is left out.

    Buerhop-Lutz et al., "A Benchmark for Visual Identification of Defective Solar Cells in
    Electroluminescence Imagery", EU PVSEC 2018; Deitsch et al., 2019. Partition of DRA and InCTRL:
    the 1,508 cells of probability 0 are split 75/25 in the order of ``labels.csv``, the 715 of
    probability 1 are all tested, the 401 between are dropped. Cells come from 44 modules which the
    labels do not name, so cells of one module may be on both sides.

    Parameters
    ----------
    root : str or Path, optional
        Folder of ``labels.csv`` and ``images/``; the data of the installed package
        ``elpv-dataset`` when left out.
    """

    folders = ("elpv", "elpv-dataset", "elpv_dataset")
    domain = "industrial"
    licence = "CC BY-NC-SA 4.0"
    homepage = "https://github.com/zae-bayern/elpv-dataset"
    layout = "labels.csv and images/cell0001.png ..."
    counts: ClassVar = {"elpv": (1131, 377, 715)}
    objects: ClassVar = {"elpv": "solar cell"}

    def __init__(self, root: str | Path | None = None) -> None:
        super().__init__(_packaged() if root is None else root)

    def _recognises(self, folder: Path) -> bool:
        return (folder / "labels.csv").is_file() and (folder / "images").is_dir()

    def _locate(self) -> Path:
        clone = self.root / "src" / "elpv_dataset" / "data"  # deeper than the search goes
        return clone if self._recognises(clone) else super()._locate()

    def _partition(self, category: str) -> Partition:
        normal: list[Sample] = []
        defective: list[Sample] = []
        table = self.base / "labels.csv"
        for number, line in enumerate(table.read_text(encoding="utf-8").splitlines(), 1):
            if not line.strip():
                continue
            try:
                source, probability, kind = line.replace(",", " ").split()
                value = float(probability)
            except ValueError:
                raise ValueError(
                    f"{table}:{number}: expected a path, a probability and mono or poly. "
                    f"Got {line!r}."
                ) from None
            if value == 0:
                normal.append(Sample(source))
            elif value == 1:
                defective.append(Sample(source, 1, None, kind))
        train, test = three_quarters(normal)
        return train, test + defective


def _packaged() -> Path:
    """Return the data folder of the installed package, found without importing it."""
    spec = importlib.util.find_spec("elpv_dataset")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(
            "ELPV: no root was given and the package elpv-dataset is not installed; "
            "give a root or install it"
        )
    return Path(spec.submodule_search_locations[0]) / "data"

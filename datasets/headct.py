"""Head CT slices with and without a haemorrhage."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import ClassVar

from datasets._listed import Listed, Partition, child, images, three_quarters
from harness.interface import Sample


class HeadCT(Listed):
    """The Kaggle set by F. Kitamura: 100 slices with a haemorrhage, 100 without.

    Partition of DRA and InCTRL: normals split 75/25 in the order of ``labels.csv``, every
    haemorrhage tested. Slices 188 (tested) and 189 (train) are near duplicates; patients are
    unknown.

    Parameters
    ----------
    root : str or Path
        Folder of ``labels.csv`` and ``head_ct``.
    """

    folders = ("headct", "head-ct", "head-ct-hemorrhage")  # head_ct is also a folder inside
    domain = "medical"
    licence = "unclear"
    homepage = "https://www.kaggle.com/datasets/felipekitamura/head-ct-hemorrhage"
    layout = "labels.csv and head_ct/head_ct/000.png ..."
    counts: ClassVar = {"headct": (75, 25, 100)}
    objects: ClassVar = {"headct": "head CT"}
    orientation = True
    near_duplicates = True  # supports that look like a test image are rejected by default

    def _recognises(self, folder: Path) -> bool:
        return (folder / "labels.csv").is_file() and child(folder, "head_ct") is not None

    def _partition(self, category: str) -> Partition:
        place = child(self.base, "head_ct")
        assert place is not None  # the tree was recognised
        place = child(place, "head_ct") or place
        numbered = {Path(name).stem: name for name in images(place)}
        prefix = place.relative_to(self.base).as_posix()
        normal: list[Sample] = []
        bleeding: list[Sample] = []
        for number, label in _labels(self.base / "labels.csv"):
            name = numbered.get(f"{number:03d}")
            if name is None:
                raise FileNotFoundError(
                    f"HeadCT: labels.csv lists {number}, but there is no "
                    f"{place / f'{number:03d}.png'}"
                )
            if label:
                bleeding.append(Sample(f"{prefix}/{name}", 1, None, "hemorrhage"))
            else:
                normal.append(Sample(f"{prefix}/{name}"))
        train, test = three_quarters(normal)
        return train, test + bleeding


def _labels(path: Path) -> list[tuple[int, int]]:
    """Numbers and labels of a table with the header "id, hemorrhage", in its order."""
    with path.open(newline="", encoding="utf-8-sig") as lines:
        rows = [row for row in csv.reader(lines, skipinitialspace=True) if any(row)]
    try:
        pairs = [(int(number), int(label)) for number, label in rows[1:]]
        if rows[0][0].strip().isdigit() or not {label for _, label in pairs} <= {0, 1}:
            raise ValueError
    except (ValueError, IndexError):
        raise ValueError(
            f"{path}: expected a header, then a number and a label 0 or 1 in each row"
        ) from None
    return pairs

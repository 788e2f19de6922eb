"""VisA: twelve objects, split by the official table."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import ClassVar

from datasets._listed import Masked, Partition, child
from harness.interface import Sample

_TABLE = "split_csv/1cls.csv"


class VisA(Masked):
    """VisA as its archive unpacks, split by ``split_csv/1cls.csv``; a subset of objects will do.

    Zou et al., "SPot-the-Difference Self-Supervised Pre-training for Anomaly Detection and
    Segmentation", ECCV 2022. Masks hold numbers of classes; anything above 0 is defect.

    Parameters
    ----------
    root : str or Path
        Folder of ``split_csv`` and the objects' folders.
    threshold : int
        A mask marks what is above it; 0 for the masks as they are published.
    """

    folders = ("visa", "visa_20220922")
    domain = "industrial"
    licence = "CC BY 4.0"
    homepage = "https://github.com/amazon-science/spot-diff"
    layout = f"{_TABLE} and <object>/Data/Images/<Normal|Anomaly>"
    counts: ClassVar = {
        "candle": (900, 100, 100),
        "capsules": (542, 60, 100),
        "cashew": (450, 50, 100),
        "chewinggum": (453, 50, 100),
        "fryum": (450, 50, 100),
        "macaroni1": (900, 100, 100),
        "macaroni2": (900, 100, 100),
        "pcb1": (904, 100, 100),
        "pcb2": (901, 100, 100),
        "pcb3": (905, 101, 100),
        "pcb4": (904, 101, 100),
        "pipe_fryum": (450, 50, 100),
    }
    objects: ClassVar = {
        "chewinggum": "chewing gum",
        "macaroni1": "macaroni",
        "macaroni2": "macaroni",
        "pcb1": "printed circuit board",
        "pcb2": "printed circuit board",
        "pcb3": "printed circuit board",
        "pcb4": "printed circuit board",
    }

    _table: dict[str, list[dict[str, str]]] | None = None

    def _recognises(self, folder: Path) -> bool:
        return (folder / _TABLE).is_file()

    def _rows(self) -> dict[str, list[dict[str, str]]]:
        """Rows of the table by object."""
        if self._table is None:
            path = self.base / _TABLE
            with path.open(newline="", encoding="utf-8-sig") as lines:
                reader = csv.DictReader(lines, skipinitialspace=True)
                columns = ["object", "split", "label", "image", "mask"]
                if not set(columns) <= set(reader.fieldnames or ()):
                    raise ValueError(
                        f"{path}: expected the columns {', '.join(columns)}. "
                        f"Got {', '.join(reader.fieldnames or ()) or 'an empty file'}."
                    )
                table: dict[str, list[dict[str, str]]] = {}
                for row in reader:
                    table.setdefault(row["object"], []).append(row)
            self._table = table
        return self._table

    def categories(self) -> list[str]:
        """Objects of the table whose folder is here."""
        return sorted(name for name in self._rows() if child(self.base, name))

    def _partition(self, category: str) -> Partition:
        parts: dict[str, list[Sample]] = {"train": [], "test": []}
        missing: list[str] = []
        rows = self._rows()[category]
        for row in rows:
            if row["split"] not in parts or row["label"] not in ("normal", "anomaly"):
                raise ValueError(
                    f"{self.base / _TABLE}: expected split train or test and label normal or "
                    f"anomaly for {row['image']}. Got {row['split']!r} and {row['label']!r}."
                )
            anomalous = row["label"] == "anomaly"
            mask = row["mask"] if anomalous and row["mask"] else None
            missing += [
                name for name in (row["image"], mask) if name and not (self.base / name).is_file()
            ]
            sample = Sample(row["image"], int(anomalous), mask, "anomaly" if anomalous else "good")
            parts[row["split"]].append(sample)
        if missing:
            raise FileNotFoundError(
                f"VisA: {len(missing)} of the files that {_TABLE} lists for {category} are not "
                f"under {self.base}, the first {missing[0]}"
            )
        if any(sample.label for sample in parts["train"]):
            raise ValueError(f"{self.base / _TABLE}: anomalies of {category} are marked train")
        return parts["train"], parts["test"]

"""A cell's per-query table and gallery of telling queries, as files of its sweep's folder.

No part of any key, as ``evaluation`` is: these files say what the artifact says.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import Any

import numpy as np

from harness.results.folder import integrity
from harness.results.folder.seal import no_formula
from harness.storage.store import Store


def publish(
    store: Store, cell: str, arrays: Mapping[str, Any], meta: Mapping[str, Any]
) -> dict[str, str]:
    """Write a cell's per-query table and gallery into a sweep's folder; their digests.

    Parameters
    ----------
    cell : "<sweep>/{}/<method>/<dataset>/<category>/k<shots>_s<seed>", {} standing for the folder
    """
    names = sorted(n for n in arrays if n.startswith("part."))
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["query", "label", "defect", "group", "score", *names])
    columns = [arrays["scores"], *(arrays[n] for n in names)]
    facts = (meta[fact] for fact in ("names", "labels", "defects", "groups"))
    for i, (name, label, defect, group) in enumerate(zip(*facts, strict=True)):
        words = no_formula(name), label, no_formula(defect), no_formula(group)
        writer.writerow([*words, *(_shortest(column[i]) for column in columns)])
    files = {"predictions": table.getvalue().encode(errors="backslashreplace")}
    # sorted: a file is the same whether its arrays were just made or are read
    shown = sorted(n for n in arrays if n.startswith("gallery."))
    gallery = {n.removeprefix("gallery."): arrays[n] for n in shown}
    if gallery:
        packed = io.BytesIO()
        np.savez_compressed(packed, **gallery)
        files["gallery"] = packed.getvalue()
    for kind, contents in files.items():
        store.write(cell.format(kind) + integrity.PUBLISHED[kind], contents)
    return {integrity.column(kind): integrity.digest(contents) for kind, contents in files.items()}


def _shortest(value: np.float32) -> str:
    """The shortest text that reads back as the same float32: "nan" and "inf" are said as such."""
    return repr(float(str(value)))

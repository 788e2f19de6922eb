"""What is doubtful about a category as it lies here, in lines for people."""

from __future__ import annotations

from harness.data import masks
from harness.data.contents import Stamps
from harness.interface import Dataset


def of_category(stamps: Stamps, category: str) -> list[str]:
    """All doubts about a category of a sweep.

    Raises
    ------
    DataError
        A mask or an image is missing or damaged.
    """
    test = stamps.dataset.test(category)
    # What a program draws would be drawn anew for each plan: nothing is remembered of it.
    drawn = masks.remarks(stamps, test) if stamps.hashes else []
    return [*of_copy(stamps.dataset, category), *drawn]


def of_copy(dataset: Dataset, category: str) -> list[str]:
    """What the dataset itself has to say of this copy: files left out, and why."""
    remarks = getattr(dataset, "remarks", None)
    return list(remarks(category)) if remarks else []

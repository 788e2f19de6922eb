"""What is doubtful about a category as it lies here and is asked for, in lines for people."""

from __future__ import annotations

from collections.abc import Sequence

from harness.data import masks
from harness.data.contents import Stamps
from harness.interface import Dataset, Sample
from harness.sweep import DatasetEntry, Subset


def of_category(stamps: Stamps, entry: DatasetEntry, category: str) -> list[str]:
    """All doubts about a category of a sweep.

    Raises
    ------
    DataError
        A mask or an image is missing or damaged.
    """
    test = stamps.dataset.test(category)
    short = of_subset(entry.queries, test) if isinstance(entry.queries, Subset) else []
    # What a program draws would be drawn anew for each plan: nothing is remembered of it.
    drawn = masks.remarks(stamps, test) if stamps.hashes else []
    return [*short, *of_copy(stamps.dataset, category), *drawn]


def of_copy(dataset: Dataset, category: str) -> list[str]:
    """What the dataset itself has to say of this copy: files left out, and why."""
    said = getattr(dataset, "remarks", None)
    return list(said(category)) if said else []


def of_subset(subset: Subset, test: Sequence[Sample]) -> list[str]:
    """Queries that were asked for and are not there."""
    anomalous = sum(sample.label for sample in test)
    kinds = (
        ("normal", subset.normal, len(test) - anomalous),
        ("anomalous", subset.anomalous, anomalous),
    )
    return [
        f"{asked:,} {kind} queries asked for, {number:,} there are: all of them are taken"
        for kind, asked, number in kinds
        if asked > number
    ]

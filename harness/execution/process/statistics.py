"""Trivial statistics of a category's queries, made once for all cells and kept in the store."""

from __future__ import annotations

from collections.abc import Sequence

from harness.data import shortcuts
from harness.execution.memory.cache import Memory
from harness.interface import Dataset, Image, Sample
from harness.keys import hashed
from harness.storage.store import Damaged, Store


def key_of(items: Sequence[tuple[Sample, str]]) -> str:
    """Key of the artifact that holds the statistics of these queries."""
    return hashed("statistics", shortcuts.VERSION, [key for _, key in items])


def of_queries(
    store: Store,
    memory: Memory,
    dataset: Dataset,
    items: Sequence[tuple[Sample, str]],
    images: Sequence[Image],
) -> list[shortcuts.Values]:
    """What ``harness.data.shortcuts`` says of each query.

    Parameters
    ----------
    memory : the worker's, of artifacts
    items : the N queries, each with the key of its image
    images : the same N
    """
    key = key_of(items)
    kept: list[shortcuts.Values] | None = memory.get(("statistics", key))
    if kept is None:
        try:
            kept = list(store.get("statistics", key)[1])
        except (FileNotFoundError, Damaged):
            kept = [
                shortcuts.of_pixels(image.pixels) | shortcuts.of_file(dataset, sample)
                for (sample, _), image in zip(items, images, strict=True)
            ]
            store.put("statistics", key, {}, kept)
        memory.put(("statistics", key), kept)
    return kept

"""Which queries and which supports, when the config says so: lists, stratified draws, files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness.config.sweep import DatasetEntry, Subset, plain
from harness.config.yaml_file import read_file
from harness.errors import InputError, Problem, suggest
from harness.interface import Dataset, Sample
from harness.keys import hashed


def queries(entry: DatasetEntry, test: Sequence[Sample], category: str) -> list[Sample]:
    """The category's test samples, or the subset of them that the entry asks for."""
    if entry.queries is None:
        return list(test)
    if isinstance(entry.queries, Subset):
        return stratified(test, entry.queries, f"{plain(entry.use)}/{category}")
    names = _names(test)
    chosen = {names[text] for text in entry.queries if text in names}
    return [s for s in test if s.name in chosen]


def check_queries(
    entry: DatasetEntry, dataset: Dataset, categories: Sequence[str], where: str
) -> None:
    """InputError when a query that the entry lists is in none of its categories."""
    if not isinstance(entry.queries, list):
        return
    known: dict[str, str] = {}
    for category in categories:
        known |= _names(dataset.test(category))
    unknown = [text for text in entry.queries if text not in known]
    if unknown:
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        example = next(iter(known.values()), "")
        message = f"{entry.use} has no test image {unknown[0]!r}{more}; a name is like {example!r}"
        raise InputError(Problem(where, message))


def stratified(test: Sequence[Sample], subset: Subset, name: str) -> list[Sample]:
    """A fixed draw of test samples: so many normal, so many anomalous evenly over the defects.

    Parameters
    ----------
    name : of the category, so that two categories draw differently

    Raises
    ------
    ValueError
        There are fewer: a smaller test than the one asked for would pass for it.
    """
    for kind, label, number in (("normal", 0, subset.normal), ("anomalous", 1, subset.anomalous)):
        present = sum(bool(s.label) == bool(label) for s in test)
        if number > present:
            raise ValueError(f"{name}: expected {number} {kind} queries, there are {present}")
    rng = np.random.default_rng([subset.seed, int(hashed(name)[:8], 16)])
    kinds: dict[tuple[int, str], list[Sample]] = {}
    for i in rng.permutation(len(test)):
        sample = test[int(i)]
        kinds.setdefault((sample.label, sample.defect if sample.label else ""), []).append(sample)
    chosen = kinds.get((0, ""), [])[: subset.normal]
    defects = [kinds[kind] for kind in sorted(kinds) if kind[0]]
    depth = max(map(len, defects), default=0)
    rounds = [group[i] for i in range(depth) for group in defects if i < len(group)]
    names = {s.name for s in [*chosen, *rounds[: subset.anomalous]]}
    return [s for s in test if s.name in names]


def support_file(entry: DatasetEntry, path: Path, where: str) -> dict[str, Any] | None:
    """Somebody's references, in the form of a sweep's support.json: category -> seed -> names.

    The file (JSON or YAML, named relative to the config) has the dataset's label above that.
    """
    if entry.support is None:
        return None
    file = path.parent / entry.support
    try:
        supports = read_file(file)  # JSON is YAML, too
    except InputError as error:
        raise InputError(*(Problem(where, str(p)) for p in error.problems)) from None
    of_dataset = supports.get(entry.label) if isinstance(supports, dict) else None
    if not isinstance(of_dataset, dict):
        message = f"{file}: expected {entry.label}: category: seed: [image names]"
        raise InputError(Problem(where, message))
    return of_dataset


def given_support(
    supports: Mapping[str, Any],
    train: Sequence[Sample],
    category: str,
    seed: int,
    most: int,
    where: str,
) -> list[Sample]:
    """The first ``most`` references that a support file names for a category and seed."""
    seeds = supports.get(category)
    names = seeds.get(str(seed), seeds.get(seed)) if isinstance(seeds, dict) else None
    if (
        not isinstance(names, list)
        or not all(isinstance(name, str) for name in names)
        or len(set(names[:most])) < most
    ):
        message = f"expected {most} different image names for {category}, seed {seed}"
        raise InputError(Problem(where, message))
    known = {s.name: s for s in train}
    for text in names[:most]:
        if text not in known:
            hint = suggest(str(text), list(known)[:5])
            raise InputError(Problem(where, f"{category} has no training image {text!r}.{hint}"))
    return [known[text] for text in names[:most]]


def _names(samples: Sequence[Sample]) -> dict[str, str]:
    """Accepted spelling -> name: the name itself, and its stem where no two samples share it."""
    stems: dict[str, list[str]] = {}
    for s in samples:
        stems.setdefault(Path(s.name).stem, []).append(s.name)
    return {stem: names[0] for stem, names in stems.items() if len(names) == 1} | {
        s.name: s.name for s in samples
    }

"""What a plan needs of one dataset: its queries, its supports and the keys of their images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from harness import plugins, syntax
from harness.config.sweep import DatasetEntry, Sweep, plain
from harness.data import doubts, duplicates, images, leaks, selection
from harness.data.contents import EMPTY, Stamps
from harness.data.opening import open_dataset
from harness.errors import InputError, Problem, one_line, suggest
from harness.interface import Dataset, Sample
from harness.keys import hashed
from harness.planning.graph import Category, Reference, draw_support


@dataclass(frozen=True)
class Listing:
    """What a plan needs of one dataset."""

    stamps: Stamps
    identity: str
    categories: list[Category]
    remarks: list[dict[str, str]]  # what is doubtful about it


def list_dataset(
    sweep: Sweep, entry: DatasetEntry, path: Path, where: str, data_root: str | None
) -> Listing:
    """Open a dataset and choose its queries and supports; InputError with all that is wrong."""
    most = max([*sweep.shots, *(k for m in sweep.methods for k in m.shots or ())])
    dataset = open_entry(entry, data_root, where)
    stamps = Stamps(dataset)
    identity = identity_of(entry, stamps)
    supports = selection.support_file(entry, path, f"{where}.support")
    names = categories_of(dataset, entry, where)
    selection.check_queries(entry, dataset, names, f"{where}.queries")
    problems: list[Problem] = []
    remarks: list[dict[str, str]] = []
    categories = []
    for name in names:
        try:
            new = _category(sweep, entry, stamps, identity, name, most, supports, where)
            remarks += _doubts(stamps, entry, name, where)
        except InputError as error:
            problems += error.problems
            continue
        categories.append(new)
    if problems:
        raise InputError(*problems)
    label = str(entry.label)
    if remark := leaks.remark(label, {c.name: c.leaks for c in categories}, most):
        remarks.append({"method": label, "note": remark})
    return Listing(stamps, identity, categories, remarks)


def open_entry(entry: DatasetEntry, data_root: str | None, where: str) -> Dataset:
    """The dataset of an entry; InputError where it is not to be had."""
    root = None if data_root is None else str(Path(data_root).absolute())
    try:
        return open_dataset(entry.use, entry.params, root)
    except (ValueError, OSError, ImportError) as error:
        raise InputError(Problem(where, one_line(error))) from None


def identity_of(entry: DatasetEntry, stamps: Stamps) -> str:
    """Hash of what pixels follow from besides their sources' stamps: of the code that decodes.

    Where stamps are hashes of contents that is all: neither a folder nor a name nor a parameter
    makes another image of the same bytes. Otherwise it counts who stamps, by which parameters.
    """
    reading = says(images)
    if stamps.hashes:
        return hashed(reading)
    cls = plugins.find("dataset", entry.use)
    return hashed(cls.__name__, entry.params, plugins.source(cls).digest, reading)


def categories_of(dataset: Dataset, entry: DatasetEntry, where: str) -> list[str]:
    """Categories that an entry wants; InputError where there are none such."""
    try:
        known = dataset.categories()
    except (ValueError, OSError) as error:
        raise InputError(Problem(where, one_line(error))) from None
    for name in known:
        if not name or name.startswith((".", "=", "+", "-", "@")) or set(name) & set("/\\{}\n\r\0"):
            message = f"{entry.use} has a category {name!r}, which is no plain name of a folder"
            raise InputError(Problem(where, message))
    chosen = known if entry.categories is None else entry.categories
    problems = [
        Problem(f"{where}.{key}", f"{entry.use} has no category {name!r}.{suggest(name, known)}")
        for key, some in (("categories", chosen), ("object_names", entry.object_names))
        for name in some
        if name not in known
    ]
    if problems:
        raise InputError(*problems)
    if entry.categories is None:
        return known
    return list(dict.fromkeys(entry.categories))


def _category(
    sweep: Sweep,
    entry: DatasetEntry,
    stamps: Stamps,
    identity: str,
    name: str,
    most: int,
    fixed: dict[str, Any] | None,
    where: str,
) -> Category:
    dataset = stamps.dataset
    try:
        train, test = dataset.train(name), dataset.test(name)
        near = getattr(dataset, "near_duplicates", False)
        stamps.learn(s.image for s in [*train, *test])
        shared = leaks.shared(stamps, name, train, test)
        reject = leaks.never_drawn(stamps, shared)
        identity_of = duplicates.twins_in_train(dataset, name, near, stamps)
        queries = selection.queries(entry, test, name)
        supports, leaking = {}, {}
        for seed in sweep.seeds:
            if fixed is not None:
                drawn = selection.given_support(fixed, train, name, seed, most, f"{where}.support")
            else:
                drawn = draw_support(
                    train,
                    most,
                    seed,
                    dataset=plain(entry.use),
                    category=name,
                    base=sweep.seed,
                    reject=reject,
                    identity=identity_of,
                )
            supports[seed] = tuple(_reference(stamps, identity, s) for s in drawn)
            leaking[seed] = leaks.drawn(drawn, shared, queries)
        references = [_reference(stamps, identity, s) for s in queries]
        stamps.learn(s.mask for s in queries if s.mask is not None)
        masks = [None if s.mask is None else stamps[s.mask] for s in queries]
    except (ValueError, OSError) as error:
        raise InputError(Problem(where, one_line(error))) from None
    # Tiles of one source lie side by side, so that a shard decodes it once; nothing else is told.
    order = sorted(
        zip(references, masks, strict=True), key=lambda rm: (hashed(rm[0].sample.image), rm[0].key)
    )
    # The names and groups too: they stand in the per-query table.
    facts = [(r.key, r.sample.name, r.sample.label, r.sample.defect, m) for r, m in order]
    truth = hashed(facts, [r.sample.group for r, _ in order], dataset.threshold)
    words = entry.object_names.get(name) or dataset.object_name(name)
    return Category(
        str(entry.label),
        name,
        words,
        tuple(r for r, _ in order),
        supports,
        truth,
        any(m is not None for m in masks),
        leaking,
    )


def _doubts(stamps: Stamps, entry: DatasetEntry, category: str, where: str) -> list[dict[str, str]]:
    """What is doubtful about a category, as notes of the report."""
    try:
        lines = doubts.of_category(stamps, category)
    except (ValueError, OSError) as error:
        raise InputError(Problem(where, one_line(error))) from None
    return [{"method": f"{entry.label}/{category}", "note": line} for line in lines]


def key_of(stamps: Stamps, identity: str, sample: Sample) -> str:
    """Key of an image: what it is, wherever it lies and whatever it is called."""
    stamp = stamps[sample.image]
    if stamp == EMPTY:
        raise ValueError(f"{stamps.dataset.root or ''}/{sample.image}: the file is empty")
    return hashed(identity, stamp, sample.box)


def _reference(stamps: Stamps, identity: str, sample: Sample) -> Reference:
    key = key_of(stamps, identity, sample)
    return Reference(sample, key, f"{stamps[sample.image]} {sample.box}")


def says(module: ModuleType) -> str:
    """Hash of the code of a module of the engine."""
    return syntax.digest(Path(str(module.__file__)))

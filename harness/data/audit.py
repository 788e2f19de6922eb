"""What a dataset on disk holds, how that compares to what was published, and what leaks."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.data import doubts, masks, shortcuts, thumbnails
from harness.data.contents import Stamps, naming
from harness.data.duplicates import Rows, Seen, look, units
from harness.data.images import decode_mask
from harness.errors import DataError, amount
from harness.interface import Dataset, Sample

_NAMES = ("train normals", "test normals", "anomalies")  # as in Dataset.counts


@dataclass(frozen=True)
class Repeats:
    """Pairs of images that are equal, or alike, within and across the split."""

    train: int  # pairs
    test: int
    across: int
    train_images: int  # images in at least one pair within train
    test_images: int
    leaking: int  # train images with a partner in test
    leaked: int  # test images with a partner in train
    normals: int  # clusters that the normals of train and test fall into
    anomalies: int


@dataclass(frozen=True)
class CategoryAudit:
    """One category of a audit."""

    name: str
    object_name: str
    counts: tuple[int, int, int]  # train normals, test normals, anomalies
    published: tuple[int, int, int] | None  # None where the split is not the published one
    defects: Mapping[str, int]
    masks: int
    wrong_masks: tuple[str, ...]  # what is wrong with a mask, one line each
    sizes: Mapping[tuple[int, int], int]  # (width, height) -> images
    exact: Repeats
    near: Repeats
    groups: tuple[int, int, int]  # groups in train, in test, in both
    remarks: tuple[str, ...]
    shortcuts: Mapping[str, float]  # trivial statistic -> AUROC over the queries, NaN undefined
    fingerprint: str


@dataclass(frozen=True)
class Audit:
    """All there is to say of a dataset on disk."""

    name: str
    root: str
    domain: str
    licence: str
    homepage: str
    categories: tuple[CategoryAudit, ...]
    missing: tuple[str, ...]  # published categories that are not there
    extra: tuple[str, ...]  # categories that were never published
    fingerprint: str


def audit(dataset: Dataset, name: str) -> Audit:
    """Open every image and mask of a dataset once and say what is there.

    Fingerprints are sha256 over sorted lines of split, name, label and sha256 of the contents,
    parted by tabs; the dataset's is over its categories' names and fingerprints. Neither depends
    on where the files are.

    Parameters
    ----------
    dataset : Dataset
    name : str
        What to call it.

    Raises
    ------
    DataError
        An image or a mask is missing or damaged, or there are no training images at all.
    """
    names = dataset.categories()
    looked: dict[str, Seen] = {}  # categories may share images
    audited = tuple(_category(dataset, category, looked) for category in names)
    if not any(each.counts[0] for each in audited):
        raise DataError(f"{name}: no training images in any category below {dataset.root}")
    lines = "".join(f"{each.name}\t{each.fingerprint}\n" for each in audited)
    return Audit(
        name=name,
        root=str(getattr(dataset, "base", dataset.root) or ""),
        domain=dataset.domain,
        licence=dataset.licence,
        homepage=dataset.homepage,
        categories=audited,
        missing=tuple(sorted(set(dataset.counts) - set(names))),
        extra=tuple(each for each in names if dataset.counts and each not in dataset.counts),
        fingerprint=hashlib.sha256(lines.encode(errors="surrogateescape")).hexdigest(),
    )


def _category(dataset: Dataset, category: str, looked: dict[str, Seen]) -> CategoryAudit:
    train, test = dataset.train(category), dataset.test(category)
    looked |= look(dataset, [sample for sample in [*train, *test] if sample.name not in looked])
    split = [("train", sample) for sample in train] + [("test", sample) for sample in test]
    seen = [looked[sample.name] for _, sample in split]
    lines = sorted(
        f"{part}\t{sample.name}\t{sample.label}\t{one.contents}\n"
        for (part, sample), one in zip(split, seen, strict=True)
    )
    anomalies = [sample for sample in test if sample.label]
    parts = np.array([0] * len(train) + [2 if sample.label else 1 for sample in test], np.intp)
    groups = [{s.group for s in part if s.group} for part in (train, test)]
    standard = getattr(dataset, "split", "published") == "published"
    remarks = doubts.of_copy(dataset, category) + masks.remarks(Stamps(dataset), test)
    queries = shortcuts.table(looked[sample.name].statistics for sample in test)
    return CategoryAudit(
        name=category,
        object_name=dataset.object_name(category),
        counts=(len(train), len(test) - len(anomalies), len(anomalies)),
        published=dataset.counts.get(category) if standard else None,
        defects=dict(sorted(Counter(sample.defect for sample in anomalies).items())),
        masks=sum(sample.mask is not None for sample in anomalies),
        wrong_masks=_wrong_masks(dataset, anomalies, looked),
        sizes=dict(Counter(one.size for one in seen).most_common()),
        exact=_equal([one.identity for one in seen], parts),
        near=_alike(units([one.thumbnail for one in seen]), parts),
        groups=(len(groups[0]), len(groups[1]), len(groups[0] & groups[1])),
        remarks=tuple(remarks),
        shortcuts=shortcuts.aurocs([sample.label for sample in test], queries),
        fingerprint=hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest(),
    )


def _wrong_masks(
    dataset: Dataset, anomalies: Sequence[Sample], looked: Mapping[str, Seen]
) -> tuple[str, ...]:
    """Masks that mark nothing, or whose size is not their image's."""

    def wrong(sample: Sample) -> str:
        assert sample.mask is not None
        with naming(dataset, sample.mask):
            region = decode_mask(dataset.open(sample.mask), dataset.threshold)
        if sample.box is not None:
            left, upper, right, lower = sample.box
            region = region[upper:lower, left:right]
        size = (region.shape[1], region.shape[0])
        if size != looked[sample.name].size:
            return f"mask {sample.mask} is {_times(size)}, not {_times(looked[sample.name].size)}"
        return "" if region.any() else f"mask {sample.mask} marks nothing of {sample.name}"

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        masked = [sample for sample in anomalies if sample.mask is not None]
        return tuple(message for message in pool.map(wrong, masked) if message)


class _Tally:
    """Counts pairs as they come; parts are 0 train, 1 test normals, 2 anomalies."""

    def __init__(self, parts: NDArray[np.intp]) -> None:
        self.parts = parts
        self.tested = (parts > 0).astype(np.intp)
        self.pairs = np.zeros((2, 2), np.int64)
        self.partner = np.zeros((2, len(parts)), np.bool_)  # in train, in test
        self.clusters = np.arange(len(parts))

    def add(self, first: NDArray[np.intp], second: NDArray[np.intp]) -> None:
        """Count pairs of indices, the first below the second."""
        np.add.at(self.pairs, (self.tested[first], self.tested[second]), 1)
        for one, other in ((first, second), (second, first)):
            self.partner[self.tested[other], one] = True
        same = (self.parts[first] == 2) == (self.parts[second] == 2)
        self.clusters = thumbnails.joined(self.clusters, first[same], second[same])

    def repeats(self) -> Repeats:
        """The sums."""
        train, test = self.tested == 0, self.tested == 1
        distinct = [
            len(np.unique(self.clusters[(self.parts == 2) == anomalous]))
            for anomalous in (False, True)
        ]
        return Repeats(
            train=int(self.pairs[0, 0]),
            test=int(self.pairs[1, 1]),
            across=int(self.pairs[0, 1] + self.pairs[1, 0]),
            train_images=int((self.partner[0] & train).sum()),
            test_images=int((self.partner[1] & test).sum()),
            leaking=int((self.partner[1] & train).sum()),
            leaked=int((self.partner[0] & test).sum()),
            normals=distinct[0],
            anomalies=distinct[1],
        )


def _equal(identities: Sequence[str], parts: NDArray[np.intp]) -> Repeats:
    tally = _Tally(parts)
    members: dict[str, list[int]] = {}
    for index, identity in enumerate(identities):
        members.setdefault(identity, []).append(index)
    for group in members.values():
        if len(group) > 1:
            first, second = np.triu_indices(len(group), 1)
            indices = np.array(group, np.intp)
            tally.add(indices[first], indices[second])
    return tally.repeats()


def _alike(rows: Rows, parts: NDArray[np.intp]) -> Repeats:
    tally = _Tally(parts)
    for first, second in thumbnails.alike(rows):
        tally.add(first, second)
    return tally.repeats()


def render(report: Audit) -> str:
    """A audit as plain text."""
    lines = [
        f"{report.name}  ({report.domain or 'no domain stated'})",
        f"  found in   {report.root}",
        f"  licence    {report.licence or 'not stated'}",
        f"  homepage   {report.homepage or 'not stated'}",
    ]
    for each in report.categories:
        lines += ["", *_rendered(each)]
    lines += ["", f"near duplicates: grey 16 x 16 thumbnails correlated above {thumbnails.ALIKE}"]
    if report.missing:
        lines.append(f"! missing categories: {', '.join(report.missing)}")
    if report.extra:
        lines.append(f"! categories that were never published: {', '.join(report.extra)}")
    total = [sum(each.counts[i] for each in report.categories) for i in range(3)]
    lines.append(
        amount(len(report.categories), "category", "categories")
        + ", "
        + ", ".join(f"{count:,} {name}" for count, name in zip(total, _NAMES, strict=True))
    )
    return "\n".join([*lines, f"fingerprint {report.fingerprint}"])


def _rendered(each: CategoryAudit) -> list[str]:
    lines = [f'{each.name}  (prompts say "{each.object_name}")']
    for index, name in enumerate(_NAMES):
        verdict = (
            "" if each.published is None else _verdict(each.counts[index], each.published[index])
        )
        lines.append(f"  {name:<16}{each.counts[index]:>8,}{verdict}")
    lines += [f"    {defect:<20}{count:>6,}" for defect, count in each.defects.items()]
    lines.append(f"  {'masks':<16}{each.masks:>8,}  of {each.counts[2]:,} anomalies")
    lines += [f"    ! {message}" for message in _few(each.wrong_masks)]
    sizes = [f"{_times(size)} ({count:,})" for size, count in each.sizes.items()]
    lines.append(f"  image sizes     {len(sizes):>8,}  {', '.join(_few(sizes))}")
    lines += _repeated("exact duplicates", each.exact, each.counts)
    lines += _repeated("near duplicates", each.near, each.counts)
    if each.groups[0] or each.groups[1]:
        lines.append(
            f"  items           {each.groups[0]:>8,}  in train, {each.groups[1]:,} in test, "
            f"{each.groups[2]:,} in both"
        )
    lines += [f"  ! {remark}" for remark in each.remarks]
    lines += _trivial(each.shortcuts)
    return [*lines, f"  fingerprint     {each.fingerprint}"]


def _trivial(strengths: Mapping[str, float]) -> list[str]:
    """AUROC of what tells anomalous from normal without looking, the strongest marked."""
    known = {name: value for name, value in strengths.items() if value == value}
    if not known:
        return []
    best = max(known, key=lambda name: known[name])
    shown = [f"{name} {value:.3f}{'*' if name == best else ''}" for name, value in known.items()]
    return [
        f"  trivial AUROC   {', '.join(shown)}",
        f"    * a method that does not beat {known[best]:.3f} has shown nothing here",
    ]


def _verdict(count: int, published: int) -> str:
    if count == published:
        return "  as published"
    much = f"{abs(count - published):,} {'extra' if count > published else 'missing'}"
    return f"  ! published {published:,}: {much}"


def _repeated(name: str, repeats: Repeats, counts: tuple[int, int, int]) -> list[str]:
    total = repeats.train + repeats.test + repeats.across
    if not total:
        return [f"  {name:<17}   none"]
    normals, anomalies = counts[0] + counts[1], counts[2]
    lines = [
        f"  {name:<17}{total:>7,}  pairs; normals are {repeats.normals:,} distinct of {normals:,}, "
        f"anomalies {repeats.anomalies:,} of {anomalies:,}",
        f"    within train        {repeats.train:>10,}  pairs of {repeats.train_images:,} images",
        f"    within test         {repeats.test:>10,}  pairs of {repeats.test_images:,} images",
        f"    across the split    {repeats.across:>10,}  pairs: {repeats.leaking:,} train and "
        f"{repeats.leaked:,} test images",
    ]
    if name.startswith("near") and 2 * repeats.normals < normals:
        lines.append(
            "    (an object that always lies the same way looks alike without being a copy)"
        )
    return lines


def _few(items: Sequence[str], most: int = 5) -> list[str]:
    rest = len(items) - most
    return [*items[:most], f"and {rest:,} more"] if rest > 0 else list(items)


def _times(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"

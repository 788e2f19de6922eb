"""What a train image may share with a tested one, so that a support drawn of it would leak."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from harness.data import duplicates
from harness.data.contents import Stamps
from harness.interface import Sample

TWIN = "shows the same as a test image"
GROUP = "is of an item, patient or strip that is tested too"


def shared(
    stamps: Stamps, category: str, train: Sequence[Sample], test: Sequence[Sample]
) -> dict[str, str]:
    """Name of each train image that shares something with a test image -> what.

    Near duplicates count where the dataset says that they are copies (``near_duplicates``).
    """
    near = bool(getattr(stamps.dataset, "near_duplicates", False))
    groups = grouped(train, test)
    twins = duplicates.twins_in_test(stamps.dataset, category, near, stamps)
    return dict.fromkeys(groups, GROUP) | dict.fromkeys(twins, TWIN)


def grouped(train: Iterable[Sample], test: Iterable[Sample]) -> set[str]:
    """Names of train images whose group is among the test images' groups."""
    tested = {sample.group for sample in test} - {""}
    return {sample.name for sample in train if sample.group in tested}


def never_drawn(stamps: Stamps, leaks: Mapping[str, str]) -> set[str]:
    """Names that no support may hold: all that leak, save by a group that the dataset shares.

    Parameters
    ----------
    leaks : of ``shared``
    """
    keep = stamps.dataset.shares_groups
    return {name for name, how in leaks.items() if how is not GROUP or not keep}


def drawn(
    support: Iterable[Sample], leaks: Mapping[str, str], queries: Collection[Sample]
) -> tuple[str, ...]:
    """What each image of a support shares with the queries of a result, "" for nothing.

    Of groups those of the queries count, of twins those of the whole test split.
    """
    support = list(support)
    touched = grouped(support, queries)
    return tuple(
        GROUP if s.name in touched else TWIN if leaks.get(s.name) is TWIN else "" for s in support
    )


def remark(label: str, leaking: Mapping[str, Mapping[int, tuple[str, ...]]], most: int) -> str:
    """One line on the leaks of a dataset's supports, "" where there are none.

    Parameters
    ----------
    leaking : category -> seed -> ``drawn``
    most : the largest number of shots
    """
    hit = {
        (category, seed): how
        for category, seeds in leaking.items()
        for seed, how in seeds.items()
        if any(how)
    }
    if not hit:
        return ""
    worst = max(sum(map(bool, how)) for how in hit.values())
    kinds = sorted({kind for how in hit.values() for kind in how if kind})
    total = sum(map(len, leaking.values()))
    return (
        f"{len(hit)} of {total} supports leak: up to {worst} of {most} images, each of which "
        f"{' or '.join(kinds)}; column support_leaks"
    )

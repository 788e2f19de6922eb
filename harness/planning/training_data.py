"""What methods train on, and what their weights were trained on: never what is tested."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import plugins
from harness.config.sweep import DatasetEntry, Sweep, plain
from harness.data.contents import Stamps
from harness.errors import InputError, Problem, shortened, suggest
from harness.keys import hashed
from harness.planning.graph import Category, Code
from harness.planning.listing import categories_of, identity_of, key_of, open_entry
from harness.tasks.references import AuxiliaryUse, DatasetUse


def mistakes(
    entries: Mapping[int, DatasetEntry], path: Path, data_root: str | None
) -> list[Problem]:
    """What is wrong with auxiliary datasets, by their places in the sweep."""
    problems: list[Problem] = []
    for i, entry in entries.items():
        where = f"{path}: auxiliary[{i}]"
        try:
            categories_of(open_entry(entry, data_root, where), entry, where)
        except InputError as error:
            problems += error.problems
    return problems


class Seen:
    """Whether methods' weights have seen what is tested: by its name, and by what images hold.

    Parameters
    ----------
    sweep, path, data_root : as for ``inputs.collect_inputs``
    categories : those that are tested
    opened : label of a tested dataset -> its stamps and identity
    """

    def __init__(
        self,
        sweep: Sweep,
        path: Path,
        data_root: str | None,
        categories: Sequence[Category],
        opened: Mapping[str, tuple[Stamps, str]],
    ) -> None:
        self._sweep, self._path, self._data_root = sweep, path, data_root
        self._categories = categories
        self._unhashed = {label for label, (stamps, _) in opened.items() if not stamps.hashes}
        self._known: dict[str, tuple[set[str], str]] = {}
        self.remarks: list[dict[str, str]] = []  # on what cannot be checked

    def complaints(self, number: int, code: Code) -> list[Problem]:
        """That the weights of the method of this number have seen what is tested, or that nobody
        knows the dataset that they were trained on.
        """
        use = self._sweep.methods[number].use
        where = f"{self._path}: methods[{number}].params.trained_on"
        known = plugins.names("dataset")
        problems = []
        for name in code.trained_on:
            if name not in known and ":" not in name:
                problems.append(Problem(where, f"no dataset {name!r}.{suggest(name, known)}"))
                continue
            cls = plugins.find("dataset", name)
            tested = [d for d in self._sweep.datasets if plugins.find("dataset", d.use) is cls]
            problems += [
                Problem(where, f"{use} was trained on {name}, which datasets test as {d.label!r}")
                for d in tested
            ]
            if not tested:
                problems += [Problem(where, f"{use} {each}") for each in self._copies(number, name)]
        return problems

    def _copies(self, number: int, name: str) -> list[str]:
        """Tested categories whose images a dataset of another name holds; a remark on those of
        which nobody can tell.
        """
        if name not in self._known:
            self._known[name] = self._images(name)
        keys, doubt = self._known[name]
        labels = dict.fromkeys(c.dataset for c in self._categories)
        if not doubt:
            labels = {label: None for label in labels if label in self._unhashed}
            doubt = f"the adapter of {', '.join(labels)} does not know images by what they hold"
        if labels:
            note = (
                f"was trained on {name}: whether that holds images of {', '.join(labels)} that are "
                f"tested cannot be checked by content: {doubt}"
            )
            self.remarks.append({"method": str(self._sweep.methods[number].label), "note": note})
        counts = [(c, sum(query.key in keys for query in c.queries)) for c in self._categories]
        return [
            f"was trained on {name}, which holds {twice} of {len(c.queries)} images of "
            f"{c.dataset}/{c.name} that are tested"
            for c, twice in counts
            if twice
        ]

    def _images(self, name: str) -> tuple[set[str], str]:
        """Keys of a dataset's images, and why they are not, or may not be, all of them."""
        cls = plugins.find("dataset", name)
        entries = [e for e in self._sweep.auxiliary if plugins.find("dataset", e.use) is cls]
        entry = (entries or [DatasetEntry(use=name)])[0].model_copy(update={"categories": None})
        try:
            stamps = Stamps(open_entry(entry, self._data_root, ""))
            names = categories_of(stamps.dataset, entry, "")
            if not stamps.hashes:
                return set(), f"the adapter of {name} does not know images by what they hold"
            keys = _fingerprint(stamps, identity_of(entry, stamps), names, entry)[1]
        except (InputError, OSError, ValueError):
            return set(), f"{name} cannot be opened here"
        every = stamps.dataset.counts
        missing = len(set(every) - set(names))
        return keys, f"{missing} of its {len(every)} categories are not here" if missing else ""


def chosen(
    sweep: Sweep,
    path: Path,
    data_root: str | None,
    categories: list[Category],
    methods: list[Code],
    opened: dict[str, tuple[Stamps, str]],
) -> tuple[
    dict[tuple[str, str, str], tuple[str, str]], dict[str, AuxiliaryUse], list[dict[str, str]]
]:
    """Which auxiliary data each method gets for each category, never the tested category; and
    remarks on tested images that it holds nevertheless.
    """
    trained_on: dict[tuple[str, str], list[str]] = {}
    data: dict[tuple[str, str, str], tuple[str, str]] = {}
    uses: dict[str, AuxiliaryUse] = {}
    entries = {str(d.label): d for d in sweep.datasets}
    digests: dict[tuple[str, tuple[str, ...]], tuple[str, set[str]]] = {}
    others: dict[str, tuple[Stamps, str]] = {}
    for m, code in zip(sweep.methods, methods, strict=True):
        if not code.auxiliary:
            continue
        for category in categories:
            tested = entries[category.dataset]
            if m.auxiliary == "leave-one-out":
                entry, name = tested, f"{category.dataset}-without-{category.name}"
                stamps, identity = opened[category.dataset]
                names = [n for n in categories_of(stamps.dataset, tested, "") if n != category.name]
            else:
                cls = plugins.find("dataset", tested.use)
                allowed = [a for a in sweep.auxiliary if plugins.find("dataset", a.use) is not cls]
                if not allowed:
                    message = f"{m.use} tests {tested.use}: no auxiliary dataset other than it"
                    raise InputError(Problem(f"{path}: auxiliary", message))
                entry, name = allowed[0], plain(allowed[0].use)
                if name not in others:
                    at = f"{path}: auxiliary"
                    stamps = Stamps(open_entry(entry, data_root, at))
                    others[name] = (stamps, identity_of(entry, stamps))
                stamps, identity = others[name]
                names = categories_of(stamps.dataset, entry, f"{path}: auxiliary")
            if not names:
                message = f"{m.use} has nothing to train on for {category.dataset}/{category.name}"
                raise InputError(Problem(f"{path}: auxiliary", message))
            at_key = (name, tuple(names))
            if at_key not in digests:
                digests[at_key] = _fingerprint(stamps, identity, names, entry)
            digest, keys = digests[at_key]
            twice = sum(query.key in keys for query in category.queries)
            if twice and m.auxiliary == "leave-one-out":  # as where categories share a test set
                share = f"{category.name} ({twice} of {len(category.queries)})"
                trained_on.setdefault((str(m.label), category.dataset), []).append(share)
            elif twice:  # the same pictures by another name
                message = (
                    f"{m.use} would train on {twice} of {len(category.queries)} images of "
                    f"{category.dataset}/{category.name} that are tested: {entry.use} holds them"
                )
                raise InputError(Problem(f"{path}: auxiliary", message))
            data[str(m.label), category.dataset, category.name] = (name, digest)
            uses[name] = AuxiliaryUse(
                digest,
                DatasetUse(entry.use, entry.params),
                tuple(names),
                entry.object_names,
                category.name if m.auxiliary == "leave-one-out" else "",
            )
    leaks = [
        {
            "method": label,
            "note": f"leave-one-out trains on tested images of {dataset}, "
            f"which other categories hold too: {shortened(', '.join(shares), 200)}",
        }
        for (label, dataset), shares in trained_on.items()
    ]
    return data, uses, leaks


def _fingerprint(
    stamps: Stamps, identity: str, names: list[str], entry: DatasetEntry
) -> tuple[str, set[str]]:
    """Hash of all that training on these categories depends on, and the keys of their images."""
    parts: list[Any] = []
    keys: set[str] = set()
    dataset = stamps.dataset
    for name in names:
        words = entry.object_names.get(name) or dataset.object_name(name)
        for part in (dataset.train(name), dataset.test(name)):
            masks = [s.mask for s in part if s.mask is not None]
            stamps.learn([*(s.image for s in part), *masks])
            parts.append((name, words))
            of_part = [key_of(stamps, identity, s) for s in part]
            keys.update(of_part)
            parts += [
                (key, s.label, stamps[s.mask] if s.mask else None)
                for key, s in zip(of_part, part, strict=True)
            ]
    return hashed(parts, dataset.threshold), keys

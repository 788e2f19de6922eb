"""What the disk and the code have to say to a plan: samples, their keys, supports, hashes of code.

The only part of planning that reads files: folder listings, and what files hold, which is
remembered (``harness.data.contents``).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from harness import config, plugins
from harness.config import Draft
from harness.config.parameters import parameters
from harness.config.sweep import DatasetEntry, Sweep, plain
from harness.data import images, shortcuts
from harness.data.contents import Stamps
from harness.errors import InputError, Problem, one_line, shortened, suggest
from harness.keys import Cell, hashed
from harness.planning.graph import Category, Code, PlanInputs
from harness.planning.listing import (
    categories_of,
    identity_of,
    key_of,
    list_dataset,
    open_entry,
    says,
)
from harness.results import evaluation, metrics
from harness.tasks.kinds import Generate, Personalize
from harness.tasks.references import AuxiliaryUse, DatasetUse

#: Tasks of a customized model that may read parameters of their own.
READERS = (Generate.kind, Personalize.kind)


@dataclass(frozen=True)
class SweepInputs:
    """PlanInputs of a plan, and what payloads and records need besides."""

    plan_inputs: PlanInputs
    #: name of auxiliary data -> what a worker needs to open it
    auxiliary: dict[str, AuxiliaryUse]
    #: dataset label -> category -> seed -> names of the drawn images, largest shots
    supports: dict[str, dict[str, dict[str, list[str]]]]
    notes: list[dict[str, str]]  # caveats of methods and generators, for the report
    remarks: list[dict[str, str]]  # what is doubtful about the data, said likewise

    def doubts(self) -> list[str]:
        """The remarks as lines for a terminal."""
        return [f"! {each['method']}: {each['note']}" for each in self.remarks]

    def support_leaks(self, cell: Cell) -> int:
        """How many images of a cell's support share something with a query: see ``data.leaks``."""
        seeds = self._leaks[cell.dataset, cell.category]
        return sum(map(bool, seeds[cell.seed][: cell.shots]))

    @cached_property
    def _leaks(self) -> dict[tuple[str, str], Mapping[int, tuple[str, ...]]]:
        return {(c.dataset, c.name): c.leaks for c in self.plan_inputs.categories}


def collect_inputs(
    sweep: Sweep,
    path: Path,
    data_root: str | None,
    only: Mapping[str, Collection[str]] | None = None,
) -> SweepInputs:
    """List datasets, choose queries, draw supports, hash code.

    Parameters
    ----------
    sweep, path : the config and where it is
    data_root : folder of the datasets
    only : as ``config.only``; a dataset that it leaves out may be missing

    Raises
    ------
    InputError
        With every mistake found: missing data, unknown categories, too few normals, ...
    """
    problems: list[Problem] = []
    remarks: list[dict[str, str]] = []
    categories: list[Category] = []
    supports: dict[str, dict[str, dict[str, list[str]]]] = {}
    opened: dict[str, tuple[Stamps, str]] = {}
    for i, entry in enumerate(sweep.datasets):
        try:
            listing = list_dataset(sweep, entry, path, f"{path}: datasets[{i}]", data_root)
        except InputError as error:
            if str(entry.label) in (only or {}).get("dataset", [entry.label]):
                problems += error.problems
            continue
        label = str(entry.label)
        opened[label] = (listing.stamps, listing.identity)
        categories += listing.categories
        remarks += listing.remarks
        supports[label] = {
            c.name: {str(s): [r.sample.name for r in drawn] for s, drawn in c.supports.items()}
            for c in listing.categories
        }
    methods, notes = [], []
    for i, m in enumerate(sweep.methods):
        try:
            code, note = _code("method", m.use, m.params)
        except (OSError, ValueError) as error:  # weights that are not where they should be
            problems.append(Problem(f"{path}: methods[{i}].params", one_line(error)))
            continue
        problems += _seen(sweep, i, code, path)
        methods.append(code)
        if note:
            notes.append({"method": str(m.label), "note": note})
    generators = {}
    for name, g in sweep.generators.items():
        try:
            generators[name], note = _code("generator", g.use, g.params)
        except (OSError, ValueError) as error:
            problems.append(Problem(f"{path}: generators.{name}.params", one_line(error)))
            continue
        users = [str(m.label) for m in sweep.methods if m.generator == name]
        notes += [{"method": label, "note": note} for label in users if note]
    if problems:
        if any(code.auxiliary for code in methods):
            problems += _auxiliary_mistakes(dict(enumerate(sweep.auxiliary)), path, data_root)
        raise InputError(*config.brief(problems))
    chosen, auxiliary, twice = _auxiliary(sweep, path, data_root, categories, methods, opened)
    remarks += twice
    judges = {m.__name__: says(m) for m in (metrics, evaluation, images, shortcuts)}
    plan_inputs = PlanInputs(
        tuple(categories), tuple(methods), generators, chosen, hashed(judges), judges
    )
    return SweepInputs(plan_inputs, auxiliary, supports, notes, remarks)


def checked_sweep(path: Path, overrides: Sequence[str], data_root: str | None) -> Sweep:
    """Read and check a config and, where there is a mistake in it, its data as well; the sweep.

    Raises
    ------
    InputError
        With every mistake. Without one in the config the data are left to ``collect_inputs``.
    """
    draft = config.read(path, overrides)
    if not draft.problems:
        return draft.sweep
    raise InputError(*config.brief([*draft.problems, *mistakes_in_data(draft, path, data_root)]))


def mistakes_in_data(draft: Draft, path: Path, data_root: str | None) -> list[Problem]:
    """What the disk has to object to those entries of a config that are right in themselves."""
    problems: list[Problem] = []
    for i, entry in zip(draft.datasets, draft.sweep.datasets, strict=True):
        try:
            list_dataset(draft.sweep, entry, path, f"{path}: datasets[{i}]", data_root)
        except InputError as error:
            problems += error.problems
    users: list[tuple[str, str, str, dict[str, Any]]] = [
        (f"methods[{i}]", "method", m.use, {**m.params, **{k: v[0] for k, v in m.grid.items()}})
        for i, m in zip(draft.methods, draft.sweep.methods, strict=True)
    ]
    users += [
        (f"generators.{name}", "generator", g.use, g.params)
        for name, g in draft.sweep.generators.items()
    ]
    for where, kind, use, params in users:
        try:
            for file in config.build(kind, use, params).files():
                file.stat()
        except (OSError, ValueError) as error:  # weights that are not where they should be
            problems.append(Problem(f"{path}: {where}.params", one_line(error)))
    entries = dict(zip(draft.auxiliary, draft.sweep.auxiliary, strict=True))
    return problems + _auxiliary_mistakes(entries, path, data_root)


def _auxiliary_mistakes(
    entries: Mapping[int, DatasetEntry], path: Path, data_root: str | None
) -> list[Problem]:
    problems: list[Problem] = []
    for i, entry in entries.items():
        where = f"{path}: auxiliary[{i}]"
        try:
            categories_of(open_entry(entry, data_root, where), entry, where)
        except InputError as error:
            problems += error.problems
    return problems


def _code(kind: str, use: str, params: dict[str, Any]) -> tuple[Code, str]:
    """Hash and declarations of a method or generator, and its caveat."""
    cls = plugins.find(kind, use)
    plugin = config.build(kind, use, params)
    weights = [(p.name, _contents(p)) for p in plugin.files()]
    values = _effective(cls, params)
    # ``sampling_parameters`` and ``later`` are what generators of before call what both uses read.
    both = {*getattr(plugin, "sampling_parameters", ()), *getattr(plugin, "later", ())}
    generate, personalize = ({*getattr(plugin, f"{use}_parameters", ()), *both} for use in READERS)
    source = plugins.source(cls)

    def digest(unread: Collection[str] = ()) -> str:
        read = {name: value for name, value in values.items() if name not in unread}
        return hashed(cls.__name__, read, source.digest, weights)

    parts = {"": {"class": cls.__name__}}
    parts[""] |= {f"source {name}": says for name, says in source.files.items()}
    for name, contents in weights:  # several may have one name, in folders of their own
        number = sum(part.startswith("file ") for part in parts[""])
        again = f" ({number + 1})" if f"file {name}" in parts[""] else ""
        parts[""][f"file {name}{again}"] = contents
    for name, value in values.items():
        readers = [
            use for use, read in zip(READERS, (generate, personalize), strict=True) if name in read
        ]
        for reader in readers or [""]:
            parts.setdefault(reader, {})[f"parameter {name}"] = json.dumps(
                value, sort_keys=True, default=str
            )

    training = ("auxiliary", "auxiliary_per_shots", "auxiliary_per_seed", "trained_on")
    names = ("gpus", "personalized", "prior", *training)
    declared = {n: getattr(plugin, n) for n in names if hasattr(plugin, n)}
    made_of = Code(
        digest(),
        state=digest(generate | personalize),
        generate=digest(personalize - generate),
        personalize=digest(generate - personalize),
        parts=parts,
        **declared,
    )
    return made_of, str(getattr(plugin, "note", ""))


def _effective(cls: type, params: Mapping[str, Any]) -> dict[str, Any]:
    """Values of all parameters: one that is the default, said or unsaid, is the same plug-in."""
    plain = (str, int, float, list, tuple, dict, type(None))
    values: dict[str, Any] = {}
    for name, parameter in parameters(cls).items():
        value = parameter.read(params[name]) if name in params else parameter.default
        if isinstance(value, plain):
            values[name] = value
        elif name in params:
            values[name] = params[name]
    return values


def _seen(sweep: Sweep, number: int, code: Code, path: Path) -> list[Problem]:
    """Complaints that a method's weights have seen what the sweep tests, or nobody knows what."""
    use, where = sweep.methods[number].use, f"{path}: methods[{number}].params.trained_on"
    known = plugins.names("dataset")
    problems = []
    for name in code.trained_on:
        if name not in known and ":" not in name:
            problems.append(Problem(where, f"no dataset {name!r}.{suggest(name, known)}"))
            continue
        cls = plugins.find("dataset", name)
        tested = [d for d in sweep.datasets if plugins.find("dataset", d.use) is cls]
        problems += [
            Problem(where, f"{use} was trained on {name}, which datasets test as {d.label!r}")
            for d in tested
        ]
    return problems


def _contents(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _auxiliary(
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
    chosen: dict[tuple[str, str, str], tuple[str, str]] = {}
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
            chosen[str(m.label), category.dataset, category.name] = (name, digest)
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
    return chosen, uses, leaks


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

"""What the disk and the code have to say to a plan: samples, their keys, supports, hashes of code.

The only part of planning that reads files: folder listings, and what files hold, which is
remembered (``harness.data.contents``).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

from harness import config, plugins, syntax
from harness.config import DatasetEntry, Sweep, plain
from harness.data import doubts, duplicates, images, leaks, selection, shortcuts
from harness.data.contents import EMPTY, Stamps
from harness.data.opening import open_dataset
from harness.errors import InputError, Problem, one_line, suggest
from harness.interface import Dataset, Sample
from harness.keys import Cell, hashed
from harness.parameters import parameters
from harness.planning.graph import Category, Code, PlanInputs, Reference, draw_support
from harness.planning.references import AuxiliaryUse, DatasetUse
from harness.results import evaluation, metrics


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


def collect_inputs(sweep: Sweep, path: Path, data_root: str | None) -> SweepInputs:
    """List datasets, choose queries, draw supports, hash code.

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
    most = max([*sweep.shots, *(k for m in sweep.methods for k in m.shots or ())])
    for i, entry in enumerate(sweep.datasets):
        where = f"{path}: datasets[{i}]"
        try:
            dataset = _open(entry, data_root, where)
            label = str(entry.label)
            stamps = Stamps(dataset)
            identity = _identity(entry, stamps)
            opened[label] = (stamps, identity)
            given = selection.support_file(entry, path, f"{where}.support")
            names = _categories(dataset, entry, where)
            selection.check_queries(entry, dataset, names, f"{where}.queries")
            for name in names:
                new = _category(sweep, entry, stamps, identity, name, most, given, where)
                remarks += _doubts(stamps, entry, name, where)
                categories.append(new)
                seeds = {
                    str(s): [r.sample.name for r in drawn] for s, drawn in new.supports.items()
                }
                supports.setdefault(label, {})[name] = seeds
            leaking = {c.name: c.leaks for c in categories if c.dataset == label}
            if remark := leaks.remark(label, leaking, most):
                remarks.append({"method": label, "note": remark})
        except InputError as error:
            problems += error.problems
    methods, notes = [], []
    for i, m in enumerate(sweep.methods):
        try:
            code, note = _code("method", m.use, m.params)
        except (OSError, ValueError) as error:  # weights that are not where they should be
            problems.append(Problem(f"{path}: methods[{i}].params", one_line(error)))
            continue
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
        raise InputError(*problems)
    chosen, auxiliary = _auxiliary(sweep, path, data_root, categories, methods, opened)
    judges = {m.__name__: _says(m) for m in (metrics, evaluation, images, shortcuts)}
    plan_inputs = PlanInputs(
        tuple(categories), tuple(methods), generators, chosen, hashed(judges), judges
    )
    return SweepInputs(plan_inputs, auxiliary, supports, notes, remarks)


def _open(entry: DatasetEntry, data_root: str | None, where: str) -> Dataset:
    try:
        return open_dataset(entry.use, entry.params, data_root)
    except (ValueError, OSError, ImportError) as error:
        raise InputError(Problem(where, one_line(error))) from None


def _identity(entry: DatasetEntry, stamps: Stamps) -> str:
    """Hash of what pixels follow from besides their sources' stamps: of the code that decodes.

    Where stamps are hashes of contents that is all: neither a folder nor a name nor a parameter
    makes another image of the same bytes. Otherwise it counts who stamps, by which parameters.
    """
    reading = _says(images)
    if stamps.hashes:
        return hashed(reading)
    cls = plugins.find("dataset", entry.use)
    return hashed(cls.__name__, entry.params, plugins.source(cls).digest, reading)


def _categories(dataset: Dataset, entry: DatasetEntry, where: str) -> list[str]:
    try:
        known = dataset.categories()
    except (ValueError, OSError) as error:
        raise InputError(Problem(where, one_line(error))) from None
    for name in known:
        if not name or name.startswith(".") or set(name) & set("/\\{}\n\r\0"):
            message = f"{entry.use} has a category {name!r}, which is no plain name of a folder"
            raise InputError(Problem(where, message))
    if entry.categories is None:
        return known
    for name in entry.categories:
        if name not in known:
            message = f"{entry.use} has no category {name!r}.{suggest(name, known)}"
            raise InputError(Problem(f"{where}.categories", message))
    return list(dict.fromkeys(entry.categories))


def _category(
    sweep: Sweep,
    entry: DatasetEntry,
    stamps: Stamps,
    identity: str,
    name: str,
    most: int,
    given: dict[str, Any] | None,
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
            if given is not None:
                drawn = selection.given_support(given, train, name, seed, most, f"{where}.support")
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
            supports[seed] = tuple(Reference(s, _key(stamps, identity, s)) for s in drawn)
            leaking[seed] = leaks.drawn(drawn, shared, queries)
        found = [Reference(s, _key(stamps, identity, s)) for s in queries]
        stamps.learn(s.mask for s in queries if s.mask is not None)
        masks = [None if s.mask is None else stamps[s.mask] for s in queries]
    except (ValueError, OSError) as error:
        raise InputError(Problem(where, one_line(error))) from None
    # Tiles of one source lie side by side, so that a shard decodes it once; nothing else is told.
    order = sorted(
        zip(found, masks, strict=True), key=lambda rm: (hashed(rm[0].sample.image), rm[0].key)
    )
    # The names too: they stand in the per-query table.
    told = [(r.key, r.sample.name, r.sample.label, r.sample.defect, m) for r, m in order]
    truth = hashed(told, dataset.threshold)
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
        lines = doubts.of_category(stamps, entry, category)
    except (ValueError, OSError) as error:
        raise InputError(Problem(where, one_line(error))) from None
    return [{"method": f"{entry.label}/{category}", "note": line} for line in lines]


def _key(stamps: Stamps, identity: str, sample: Sample) -> str:
    """Key of an image: what it is, wherever it lies and whatever it is called."""
    stamp = stamps[sample.image]
    if stamp == EMPTY:
        raise ValueError(f"{stamps.dataset.root or ''}/{sample.image}: the file is empty")
    return hashed(identity, stamp, sample.box)


def _code(kind: str, use: str, params: dict[str, Any]) -> tuple[Code, str]:
    """Hash and declarations of a method or generator, and its caveat."""
    cls = plugins.find(kind, use)
    made = config.build(kind, use, params)
    weights = [(p.name, _contents(p)) for p in made.files()]
    values = _effective(cls, params)
    # ``sampling_parameters`` and ``later`` are what generators of before call what both uses read.
    both = {*getattr(made, "sampling_parameters", ()), *getattr(made, "later", ())}
    generate, personalize = (
        {*getattr(made, f"{use}_parameters", ()), *both} for use in ("generate", "personalize")
    )
    source = plugins.source(cls)

    def digest(unread: Collection[str] = ()) -> str:
        read = {name: value for name, value in values.items() if name not in unread}
        return hashed(cls.__name__, read, source.digest, weights)

    parts = {"": {"class": cls.__name__}}
    parts[""] |= {f"source {name}": says for name, says in source.files.items()}
    parts[""] |= {f"file {name}": contents for name, contents in weights}
    for name, value in values.items():
        readers = [
            use
            for use, read in (("generate", generate), ("personalize", personalize))
            if name in read
        ]
        for reader in readers or [""]:
            parts.setdefault(reader, {})[f"parameter {name}"] = json.dumps(value, default=str)

    names = ("gpus", "auxiliary", "auxiliary_per_shots", "auxiliary_per_seed", "personalized")
    declared = {n: getattr(made, n) for n in (*names, "prior") if hasattr(made, n)}
    made_of = Code(
        digest(),
        state=digest(generate | personalize),
        generate=digest(personalize - generate),
        personalize=digest(generate - personalize),
        parts=parts,
        **declared,
    )
    return made_of, str(getattr(made, "note", ""))


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


def _says(module: ModuleType) -> str:
    """Hash of the code of a module of the engine."""
    return syntax.digest(Path(str(module.__file__)))


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
) -> tuple[dict[tuple[str, str, str], tuple[str, str]], dict[str, AuxiliaryUse]]:
    """Which auxiliary data each method gets for each category, never the tested category."""
    chosen: dict[tuple[str, str, str], tuple[str, str]] = {}
    uses: dict[str, AuxiliaryUse] = {}
    entries = {str(d.label): d for d in sweep.datasets}
    digests: dict[tuple[str, tuple[str, ...]], str] = {}
    others: dict[str, tuple[Stamps, str]] = {}
    for m, code in zip(sweep.methods, methods, strict=True):
        if not code.auxiliary:
            continue
        for category in categories:
            tested = entries[category.dataset]
            if m.auxiliary == "leave-one-out":
                entry, name = tested, f"{category.dataset}-without-{category.name}"
                stamps, identity = opened[category.dataset]
                names = [n for n in _categories(stamps.dataset, tested, "") if n != category.name]
            else:
                cls = plugins.find("dataset", tested.use)
                allowed = [a for a in sweep.auxiliary if plugins.find("dataset", a.use) is not cls]
                if not allowed:
                    message = f"{m.use} tests {tested.use}: no auxiliary dataset other than it"
                    raise InputError(Problem(f"{path}: auxiliary", message))
                entry, name = allowed[0], plain(allowed[0].use)
                if name not in others:
                    at = f"{path}: auxiliary"
                    stamps = Stamps(_open(entry, data_root, at))
                    others[name] = (stamps, _identity(entry, stamps))
                stamps, identity = others[name]
                names = _categories(stamps.dataset, entry, f"{path}: auxiliary")
            if not names:
                message = f"{m.use} has nothing to train on for {category.dataset}/{category.name}"
                raise InputError(Problem(f"{path}: auxiliary", message))
            at_key = (name, tuple(names))
            if at_key not in digests:
                digests[at_key] = _fingerprint(stamps, identity, names, entry)
            chosen[str(m.label), category.dataset, category.name] = (name, digests[at_key])
            uses[name] = AuxiliaryUse(
                digests[at_key],
                DatasetUse(entry.use, entry.params),
                tuple(names),
                entry.object_names,
            )
    return chosen, uses


def _fingerprint(stamps: Stamps, identity: str, names: list[str], entry: DatasetEntry) -> str:
    """Hash of all that training on these categories depends on."""
    parts: list[Any] = []
    dataset = stamps.dataset
    for name in names:
        words = entry.object_names.get(name) or dataset.object_name(name)
        for part in (dataset.train(name), dataset.test(name)):
            masks = [s.mask for s in part if s.mask is not None]
            stamps.learn([*(s.image for s in part), *masks])
            parts.append((name, words))
            parts += [
                (_key(stamps, identity, s), s.label, stamps[s.mask] if s.mask else None)
                for s in part
            ]
    return hashed(parts, dataset.threshold)

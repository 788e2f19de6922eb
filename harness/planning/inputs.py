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
from harness.config.sweep import Sweep
from harness.data import images, shortcuts
from harness.data.contents import Stamps
from harness.errors import InputError, Problem, one_line
from harness.keys import Cell, hashed
from harness.planning import training_data
from harness.planning.graph import Category, Code, PlanInputs
from harness.planning.listing import (
    list_dataset,
    says,
)
from harness.results import evaluation, metrics
from harness.tasks.kinds import Generate, Personalize
from harness.tasks.references import AuxiliaryUse

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
    seen = training_data.Seen(sweep, path, data_root, categories, opened)
    methods, notes = [], []
    for i, m in enumerate(sweep.methods):
        try:
            code, note = _code("method", m.use, m.params)
        except (OSError, ValueError) as error:  # weights that are not where they should be
            problems.append(Problem(f"{path}: methods[{i}].params", one_line(error)))
            continue
        problems += seen.complaints(i, code)
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
            problems += training_data.mistakes(dict(enumerate(sweep.auxiliary)), path, data_root)
        raise InputError(*config.brief(problems))
    chosen, auxiliary, twice = training_data.chosen(
        sweep, path, data_root, categories, methods, opened
    )
    remarks += seen.remarks + twice
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
    return problems + training_data.mistakes(entries, path, data_root)


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


def _contents(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()

"""Finds and removes what a faulty plug-in may have touched: the next run makes it anew.

Touched is what the plug-in made, what a process made in which it had run before, what went into a
table from there, and all that was made of these. Of what does not say who made it, as artifacts of
before that was recorded, nothing is known: it is counted, and removed only on request.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from harness.keys import Cell
from harness.results.aggregate import CELL
from harness.results.folder import accounting, repetition
from harness.results.folder.integrity import MANIFEST
from harness.storage.lock import Lock
from harness.storage.store import PURGED, Store, artifact
from harness.tasks.kinds import Evaluate

#: What a sweep's folder has of its results as a whole: made anew by the next run, or at a look.
DERIVED = (MANIFEST, "summary.csv", "costs.csv", "sharing.csv", "report.html", repetition.FILE)

Name = tuple[str, str]  # kind and key of an artifact
Maker = Mapping[str, Any]


@dataclass(frozen=True)
class Suspect:
    """A plug-in that is not to be trusted."""

    role: str  # "method" or "generator"
    use: str  # as a config names it

    def __str__(self) -> str:
        return f"{self.role} {self.use}"


@dataclass
class Touched:
    """What a faulty plug-in may have touched."""

    #: by how many steps lie between it and the plug-in
    artifacts: list[list[Name]] = field(default_factory=list)
    rows: dict[str, list[Cell]] = field(default_factory=dict)  # sweep -> cells with a result
    failures: dict[str, list[Cell]] = field(default_factory=dict)  # sweep -> cells without
    unknown: int = 0  # artifacts that do not say who made them, and stay

    def lines(self, gone: str) -> list[str]:
        """What there is of it, for people; ``gone`` is what becomes of it, a verb."""
        kinds = Counter(kind for names in self.artifacts for kind, _ in names)
        lines = [f"{gone} {count:>7,}  {kind} artifacts" for kind, count in sorted(kinds.items())]
        for noun, sweeps in (("rows", self.rows), ("failures", self.failures)):
            lines += [
                f"{gone} {len(c):>7,}  {noun} of {name}" for name, c in sorted(sweeps.items())
            ]
        return lines or ["nothing was touched"]


def find(
    store: Store, suspects: Sequence[Suspect], after: str = "", unknown: bool = False
) -> Touched:
    """Look through a storage for what the suspects may have touched.

    Parameters
    ----------
    after : only what they did from this moment on, as ``accounting.moment`` writes it
    unknown : take what does not say who made it for touched as well
    """
    makers = _makers(store)
    steps = spread(makers, suspects, after, unknown)
    reached = {name for names in steps for name in names}
    touched = Touched(steps, unknown=sum(not m and n not in reached for n, m in makers.items()))
    evaluations = {key for kind, key in makers if kind == Evaluate.kind}
    bad = {key for kind, key in reached if kind == Evaluate.kind}
    for sweep in store.folders("results.csv"):
        users = _users(store, sweep, suspects)
        copied = _copied(store, sweep, after) if users else set()
        rows = []
        for cell, timing in _rows(store, f"{sweep}/timings.csv"):
            key = timing.get("key", "")
            late = timing.get("ended", "") >= after
            lost = key not in evaluations and cell.method in users and late
            if key in bad or key in copied or lost:
                rows.append(cell)
        failed = [c for c, _ in _rows(store, f"{sweep}/failures.csv") if c.method in users]
        touched.rows |= {sweep: rows} if rows else {}
        touched.failures |= {sweep: failed} if failed else {}
    return touched


def spread(
    makers: Mapping[Name, Maker], suspects: Sequence[Suspect], after: str, unknown: bool = False
) -> list[list[Name]]:
    """Artifacts that the suspects may have touched: at once, through one other artifact, ...

    Parameters
    ----------
    makers : of each artifact, who made it; see ``Maker.record`` of ``execution.process.provenance``
    """
    users: dict[str, list[Name]] = defaultdict(list)  # key -> what was made of it
    for name, maker in makers.items():
        for need in maker.get("needs", ()):
            users[need].append(name)
    step = [n for n, m in makers.items() if (_by(m, suspects, after) if m else unknown)]
    steps, seen = [], set(step)
    while step:
        steps.append(step)
        further = dict.fromkeys(user for _, key in step for user in users[key])
        step = [name for name in further if name not in seen]
        seen |= set(step)
    return steps


def remove(store: Store, touched: Touched) -> None:
    """Remove it, what was made of it first, so that a purge that is killed can be done again.

    Raises
    ------
    InputError
        A run works in one of the storage's sweeps.
    """
    with contextlib.ExitStack() as locks:
        for sweep in store.folders("sweep.yaml"):
            locks.enter_context(Lock(store, sweep))
        for sweep in {*touched.rows, *touched.failures}:
            _clear(store, sweep, touched.rows.get(sweep, []), touched.failures.get(sweep, []))
        store.write_text(PURGED, uuid.uuid4().hex)
        for names in reversed(touched.artifacts):
            for kind, key in names:
                store.delete(artifact(kind, key))


def seen(store: Store, role: str) -> set[str]:
    """Plug-ins of a role that made something in a storage, ran before that, or are in a sweep."""
    names: set[str] = set()
    for maker in _makers(store).values():
        words = [_of(maker), *maker.get("earlier", {})]
        names |= {word.partition(" ")[2] for word in words if word.startswith(f"{role} ")}
    for sweep in store.folders("sweep.yaml"):
        methods, generators = _entries(store, sweep)
        entries = methods if role == "method" else generators.values()
        names |= {entry["use"] for entry in entries}
    return names


def _makers(store: Store) -> dict[Name, Maker]:
    makers: dict[Name, Maker] = {}
    for kind in store.kinds():
        keys = sorted(store.keys(kind))
        makers |= {(kind, k): m for k, m in zip(keys, store.makers(kind, keys), strict=True)}
    return makers


def _by(maker: Maker, suspects: Iterable[Suspect], after: str) -> bool:
    """Whether a suspect made it, or ran before in the process that did."""
    earlier = maker.get("earlier", {})
    own = _of(maker) if maker.get("date", "") >= after else ""
    return any(
        own == name or (name in earlier and earlier[name] >= after) for name in map(str, suspects)
    )


def _of(maker: Maker) -> str:
    plugin = maker.get("plugin") or {}
    return f"{plugin.get('role')} {plugin.get('use')}"


def _users(store: Store, sweep: str, suspects: Iterable[Suspect]) -> set[str]:
    """Labels of a sweep's methods that are suspects, or use a generator that is one."""
    wrong = set(map(str, suspects))
    methods, generators = _entries(store, sweep)
    bad = {name for name, entry in generators.items() if f"generator {entry['use']}" in wrong}
    return {
        str(entry.get("label"))
        for entry in methods
        if f"method {entry['use']}" in wrong or entry.get("generator") in bad
    }


def _entries(store: Store, sweep: str) -> tuple[list[Any], dict[str, Any]]:
    """Methods and generators of a sweep's config; none where it is damaged: artifacts tell."""
    try:
        config = yaml.safe_load(store.read_text(f"{sweep}/sweep.yaml") or "")
        generators = dict(config.get("generators") or {})
        methods = list(config["methods"])
        if all("use" in entry for entry in [*methods, *generators.values()]):
            return methods, generators
    except (yaml.YAMLError, ValueError, KeyError, TypeError, AttributeError):
        pass
    return [], {}


def _copied(store: Store, sweep: str, after: str) -> set[str]:
    """Keys of results that a sweep copied from an artifact that was there, in whatever process."""
    text = store.read_text(f"{sweep}/tasks.csv") or ""
    with contextlib.suppress(KeyError, TypeError, ValueError):
        return {
            record["key"]
            for record in accounting.read_tasks(text)
            if record["kind"] == Evaluate.kind
            and record["status"] == "reused"
            and record["started"] >= after
        }
    return set()


def _rows(store: Store, name: str) -> list[tuple[Cell, dict[str, str]]]:
    """Rows of a table of cells, as far as they can be read."""
    rows = []
    for row in csv.DictReader(io.StringIO(store.read_text(name) or "", newline="")):
        with contextlib.suppress(KeyError, TypeError, ValueError):
            rows.append((_cell(row), row))
    return rows


def _cell(row: Mapping[str, str]) -> Cell:
    return Cell(row["method"], row["dataset"], row["category"], int(row["shots"]), int(row["seed"]))


def _clear(store: Store, sweep: str, rows: Iterable[Cell], failures: Iterable[Cell]) -> None:
    """Take cells out of a sweep's folder, with all that rests on them."""
    gone = {tuple(map(str, cell)) for cell in rows}
    for name in DERIVED:
        store.delete(f"{sweep}/{name}")
    for name, cells in (
        ("timings.csv", gone),  # first: a row is nothing without its timing
        ("results.csv", gone),
        ("failures.csv", {tuple(map(str, cell)) for cell in failures}),
    ):
        text = store.read_text(f"{sweep}/{name}")
        if text is not None:
            store.write_text(f"{sweep}/{name}", without(text, cells))
    for cell in gone:
        method, dataset, category, shots, seed = cell
        stem = f"{method}/{dataset}/{category}/k{shots}_s{seed}"
        store.delete(f"{sweep}/predictions/{stem}.csv")
        store.delete(f"{sweep}/gallery/{stem}.npz")
    _forget_runs(store, sweep, gone)


def without(text: str, cells: set[tuple[str, ...]]) -> str:
    """A table without the rows of these cells; each other row as it is."""
    header, *rows = [*csv.reader(io.StringIO(text, newline=""))] or [[]]
    at = [header.index(name) for name in CELL if name in header]
    kept = [row for row in rows if tuple(row[i] for i in at if i < len(row)) not in cells]
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([header, *kept])
    return out.getvalue()


def _forget_runs(store: Store, sweep: str, cells: Iterable[tuple[str, ...]]) -> None:
    """Have the next run delete the cells' runs from its tracking server, and log them anew."""
    name = f"{sweep}/mlflow.json"
    with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
        note = json.loads(store.read_text(name) or "{}")
        runs = [note["cells"].pop("|".join(c))[0] for c in cells if "|".join(c) in note["cells"]]
        note["purged"] = sorted({*note.get("purged", ()), *runs})
        note.pop("closed", None)
        store.write_text(name, json.dumps(note, indent=1))

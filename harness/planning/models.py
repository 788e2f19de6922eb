"""Which networks a sweep's methods and generators stand on, where their weights are, and caveats.

A plug-in says so by convention: an attribute ``encoder``, a mapping with model and weights, and
``base``, a diffusion model by hub id, folder or "micro".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from harness import config
from harness.config.sweep import Sweep

#: models that come with the project or in a package: with one of them a sweep is of profile micro
SMALL = ("micro", "tf_efficientnet_lite0")


class Known(Protocol):
    """A set of public or embedded weights, as ``python -m harness models`` lists them."""

    name: str
    where: str  # a path when found, else the source
    complete: bool


@dataclass(frozen=True)
class Network:
    """A network that a plug-in of the sweep stands on.

    Attributes
    ----------
    user : label of the method, or name of the generator
    role : "encoder" or "base"
    name : model and weights in words
    where : where the weights are, or what is needed from where
    note : the plug-in's caveat, "" for none
    """

    user: str
    role: str
    name: str
    where: str
    note: str


def networks(sweep: Sweep, known: Callable[[], Iterable[Known]]) -> list[Network]:
    """Of every method and generator, in the sweep's order; a plug-in without any has one line.

    ``known`` lists public weights; it is asked when a network is neither embedded nor random.
    """
    users: list[tuple[str, str, Any]] = [("method", str(m.label), m) for m in sweep.methods]
    users += [("generator", name, entry) for name, entry in sweep.generators.items()]
    out = []
    for kind, label, entry in users:
        plugin = config.build(kind, entry.use, entry.params)
        note = str(getattr(plugin, "note", "") or "")
        stands = list(_of(plugin)) or [("encoder", "no network", "")]
        for role, name, weights in stands:
            words = f"{name} / {weights}" if weights else name
            where = "" if name == "no network" else _where(role, name, weights, known)
            out.append(Network(label, role, words, where, note))
    return out


def small(sweep: Sweep) -> bool:
    """Whether some method or generator stands on a small model instead of a paper's."""
    used = networks(sweep, lambda: ())
    return any(each.name.partition(" / ")[0] in SMALL for each in used)


def _of(plugin: Any) -> Iterator[tuple[str, str, str]]:
    """(role, model, weights) of what a plug-in names."""
    encoder = getattr(plugin, "encoder", None)
    if isinstance(encoder, dict) and "model" in encoder:
        yield "encoder", str(encoder["model"]), str(encoder.get("weights", ""))
    base = getattr(plugin, "base", None)
    if isinstance(base, str):
        yield "base", base, ""


def _where(role: str, name: str, weights: str, known: Callable[[], Iterable[Known]]) -> str:
    if weights.startswith("random:"):
        return "drawn at random"
    if name == "micro":
        return "embedded"
    path = Path(weights if role == "encoder" else name).expanduser()
    if path.exists():
        return f"found: {path}"
    stem, base = weights.partition("@")[0], name.partition("@")[0]  # without revisions
    for entry in known():
        if entry.name == f"{name} / {stem}" or (role == "base" and base in entry.where):
            return f"found: {entry.where}" if entry.complete else f"needed: {entry.where}"
    return "needed: not among the models that the project knows; a local file or hub has them"


def lines(used: Iterable[Network]) -> list[str]:
    """For a terminal: who stands on what, and from where; caveats below."""
    out = []
    for each in used:
        where = f" ({each.where})" if each.where else ""
        out.append(f"  {each.user}: {each.role} {each.name}{where}")
        if each.note:
            out.append(f"      {each.note}")
    return out

"""The record of a plan, read: which cells there were, and what their keys were made of."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from harness.planning import origins
from harness.planning.origins import Origins


@dataclass(frozen=True)
class Planned:
    """What a plan has of a method besides its code."""

    shots: tuple[int, ...]
    generator: str  # "" for none
    personalized: bool
    training: str  # "per-seed", "once", or "" for none
    auxiliary: Mapping[str, str] = field(default_factory=dict)  # category -> name of the data


class Record:
    """Origins, read as what was planned."""

    def __init__(self, parts: Origins) -> None:
        self.parts = parts
        self.seeds = set(json.loads(parts["cells"]["seeds"]))
        self.methods = {
            label: Planned(
                tuple(json.loads(cells["shots"])),
                cells["generator"],
                cells["personalized"] == "True",
                cells["training"],
                parts.get(origins.auxiliary_of(label), {}),
            )
            for label, cells in self._named(origins.cells_of(""))
        }
        self.generators = [name for name, _ in self._named(origins.pool(""))]
        self.words = {n: part["object name"] for n, part in self._named(origins.words(""))}
        self.shards = {n: part["shards"].split() for n, part in self._named(origins.queries(""))}

    def _named(self, prefix: str) -> Iterator[tuple[str, Mapping[str, str]]]:
        for group, parts in self.parts.items():
            if group.startswith(prefix):
                yield group.removeprefix(prefix), parts

    def users(self, generator: str, personalize: bool) -> dict[str, tuple[int, ...]]:
        """Methods for which a generator works, or personalizes, and at which shots."""
        return {
            label: tuple(k for k in m.shots if k)
            for label, m in self.methods.items()
            if m.generator == generator and (m.personalized or not personalize)
        }

    def content(self, category: str, seeds: Collection[int]) -> set[tuple[str, str]]:
        """What a category shows: hashes of its labelled queries, and of supports. Of queries alone
        others may have the same: all classes of a set that is split one against the rest.
        """
        truth = self.parts[origins.truth(category)]["labels and masks"]
        supports = (self.parts.get(origins.support(category, seed), {}) for seed in seeds)
        drawn = {(size, part) for each in supports for size, part in each.items()}
        return {("truth", truth), *drawn}

    def auxiliary_images(self, name: str) -> str | None:
        """Hash of auxiliary data; None where there are none of that name."""
        return self.parts.get(f"auxiliary data {name}", {}).get("images")

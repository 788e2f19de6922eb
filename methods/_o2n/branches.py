"""S_P and S_N of One-to-Normal, patch by patch, in the paper's reading and in others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch

from methods._o2n.compare import bank_distance, bank_distance_in_place, personalized_distance

Levels: TypeAlias = "list[torch.Tensor]"  # one tensor per level, vectors of length 1


@dataclass(frozen=True)
class Comparison:
    """How patches are compared; see the parameters of the same names of `O2n`."""

    against: str = "query"
    fusion: str = "sum"
    scope: str = "all"
    selection: str = "generator"
    search: int = 1

    def branches(
        self, queries: Levels, rebuilt: Levels | None, personalized: Sequence[Levels], bank: Levels
    ) -> dict[str, Levels]:
        """Distances (n, h, w) per level: ``S_P``, ``S_N``, and ``S_min`` and ``floor`` if asked.

        Parameters
        ----------
        queries : tensors of shape (n, h, w, d)
        rebuilt : tensors of shape (n, h, w, d), or None
            The queries' reconstructions by the autoencoder alone.
        personalized : one or several such lists
            The images of each prompt.
        bank : tensors of shape (b, h, w, d)
            Anomaly-free images.
        """
        direct = self._joined([self._in_place(queries, one) for one in personalized])
        normal = self._nearest(queries, bank)
        personal = direct
        floor = None if rebuilt is None else self._in_place(queries, rebuilt)
        if self.against == "reconstruction" and rebuilt is not None:
            personal = self._joined([self._in_place(rebuilt, one) for one in personalized])
        elif self.against == "excess" and floor is not None:
            personal = [d - f for d, f in zip(direct, floor, strict=True)]
        elif self.against == "bank":
            left = self._joined([self._nearest(one, bank) for one in personalized])
            personal = [n - p for n, p in zip(normal, left, strict=True)]
        branches = {"S_P": personal, "S_N": normal}
        if self.fusion == "min":
            branches["S_min"] = [torch.minimum(d, n) for d, n in zip(direct, normal, strict=True)]
        return branches if floor is None else {**branches, "floor": floor}

    def _in_place(self, one: Levels, other: Levels) -> Levels:
        return [personalized_distance(a, b, self.search) for a, b in zip(one, other, strict=True)]

    def _nearest(self, features: Levels, bank: Levels) -> Levels:
        levels = []
        for level, references in zip(features, bank, strict=True):
            flat = level.flatten(1, 2)
            if self.scope == "all":
                distances = bank_distance(flat, references.flatten(0, 2))
            else:
                distances = bank_distance_in_place(flat, references.flatten(1, 2))
            levels.append(distances.unflatten(1, level.shape[1:3]))
        return levels

    def _joined(self, of_prompts: Sequence[Levels]) -> Levels:
        """Per level, of the maps of all personalized images their mean or least."""
        stacked = [torch.stack(level) for level in zip(*of_prompts, strict=True)]
        if self.selection == "min":
            return [level.amin(dim=0) for level in stacked]
        return [level.mean(dim=0) for level in stacked]

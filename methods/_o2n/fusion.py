"""One score out of One-to-Normal's branches: Eq. 7, its variants, and weights that a support shows.

Branches are arrays of any equal shape: scores (N,) or maps (N, h, w).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Branches = Mapping[str, NDArray[np.float32]]
#: what weights chosen on a support may be: of S_P and of S_text; S_N's stays 1
STEPS = (0.0, 0.25, 0.5, 1.0, 2.0)


@dataclass(frozen=True)
class Weights:
    """Weights of S_P, S_N and S_text; (1, alpha, beta) in Eq. 7."""

    personal: float
    normal: float
    text: float


def fused(branches: Branches, weights: Weights, fusion: str) -> NDArray[np.float32]:
    """The weighted sum of the branches.

    Parameters
    ----------
    branches : mapping of str to ndarray
        ``S_P``, ``S_N``, ``S_text``; with ``min`` also ``S_min``.
    fusion : str
        ``sum`` (Eq. 7); ``min``: S_min, the distance from the nearest of the bank and the
        personalized image, stands for S_P and S_N and has the weight of S_N.
    """
    if fusion == "min":
        total = weights.normal * branches["S_min"] + weights.text * branches["S_text"]
    else:
        total = weights.personal * branches["S_P"] + weights.normal * branches["S_N"]
        total = total + weights.text * branches["S_text"]
    return np.asarray(total, dtype=np.float32)


def best_weights(
    branches: Branches, damaged: NDArray[np.bool_], fusion: str, margin: float
) -> Weights:
    """Weights that tell damaged from normal pictures best; S_N alone unless others beat it.

    Among all weights of ``STEPS`` the least S_P and S_text whose AUROC is within ``margin`` of the
    best: a few pictures do not show more.

    Parameters
    ----------
    branches : mapping of str to ndarray of shape (N,)
    damaged : bool ndarray of shape (N,)
    fusion : str
    margin : float
        In AUROC, 0 to 1.
    """
    from scipy import stats  # on import it looks for torch, which planning does without

    tried = []
    for personal, text in itertools.product((0.0,) if fusion == "min" else STEPS, STEPS):
        weights = Weights(personal, 1.0, text)
        scores = fused(branches, weights, fusion).astype(float)
        above = stats.mannwhitneyu(scores[damaged], scores[~damaged]).statistic
        tried.append((above / (damaged.sum() * (~damaged).sum()), weights))
    enough = max(area for area, _ in tried) - margin
    near = [weights for area, weights in tried if area >= enough - 1e-9]
    return min(near, key=lambda weights: (weights.personal + weights.text, weights.personal))

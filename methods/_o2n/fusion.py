"""One score out of One-to-Normal's branches: Eq. 7, its variants, and weights that a support shows.

Branches are arrays of any equal shape: scores (N,) or maps (N, h, w).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

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


def discounted_weights(
    branches: Branches, damaged: NDArray[np.bool_], fusion: str, trust: float
) -> Weights:
    """Weights by how well branches tell damaged from normal pictures, synthetic damage discounted.

    For branches whose errors are independent and normal the best sum weighs each by its separation
    (difference of the means of damaged and normal pictures) over its variance within them: in units
    of its own spread, by d' = separation / spread. Here S_N stays as it is, and S_P and S_text, in
    those units, get

        trust * min(1, d' / d' of S_N)

    of its spread. ``trust`` is below 1 because pasted damage is easier than real damage, most of
    all for sentences; the minimum, because S_N alone knows this object.

    Parameters
    ----------
    branches : mapping of str to ndarray of shape (N,)
    damaged : bool ndarray of shape (N,)
        At least one of either.
    fusion : str
        With ``min``, S_min stands for S_N and S_P has no weight of its own.
    trust : float
        0 to 1.
    """

    def separated(name: str) -> tuple[float, float]:
        groups = [np.asarray(branches[name], float)[which] for which in (~damaged, damaged)]
        variances = [((g - g.mean()) ** 2).sum() / max(1, len(g) - 1) for g in groups]
        return float(groups[1].mean() - groups[0].mean()), float(np.sqrt(np.mean(variances)))

    far, wide = separated("S_min" if fusion == "min" else "S_N")

    def weight(name: str) -> float:
        separation, spread = separated(name)
        if separation <= 0 or spread == 0:
            return 0.0
        if wide == 0:
            return trust  # nothing to measure in, and nothing to spoil
        # separation / spread, over the same of S_N, without dividing by what may be 0
        ratio = 1.0 if separation * wide >= far * spread else separation * wide / (far * spread)
        return trust * ratio * wide / spread

    return Weights(0.0 if fusion == "min" else weight("S_P"), 1.0, weight("S_text"))


#: choosers of weights by the name of the parameter ``weights`` of `O2n`: with ``synthetic`` S_P and
#: S_text must add 0.05 AUROC; with ``discounted`` they count for a quarter of S_N's spread at most
CHOICES = {
    "synthetic": partial(best_weights, margin=0.05),
    "discounted": partial(discounted_weights, trust=0.25),
}

"""What plug-ins return, held against what they promised."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.interface import Prediction


def checked(prediction: Prediction, n: int) -> Prediction:
    """The prediction with float32 arrays; ValueError when they are not those promised."""
    scores = _real(prediction.scores, "scores")
    if scores.shape != (n,):
        raise ValueError(f"predict returned scores of shape {scores.shape}, expected ({n},)")
    parts = {name: _real(v, f"part {name!r}") for name, v in prediction.parts.items()}
    for name, values in parts.items():
        if values.shape != (n,):
            raise ValueError(f"predict returned part {name!r} of shape {values.shape}, not ({n},)")
    maps = None if prediction.maps is None else _real(prediction.maps, "maps")
    part_maps = {name: _real(v, f"maps {name!r}") for name, v in prediction.part_maps.items()}
    for what, m in [("maps", maps), *part_maps.items()]:
        if m is not None and (m.ndim != 3 or len(m) != n or not m.size):
            raise ValueError(f"predict returned {what} of shape {m.shape}, expected ({n}, h, w)")
    return Prediction(scores, maps, parts, part_maps)


def _real(values: Any, what: str) -> NDArray[np.float32]:
    array = np.asarray(values)
    if np.iscomplexobj(array):
        raise ValueError(f"predict returned {what} that are not real numbers but {array.dtype}")
    return array.astype(np.float32, copy=False)

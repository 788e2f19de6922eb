"""What plug-ins return, held against what they promised."""

from __future__ import annotations

import numpy as np

from harness.interface import Prediction


def checked(prediction: Prediction, n: int) -> Prediction:
    """The prediction with float32 arrays; ValueError when its shapes are not those promised."""
    scores = np.asarray(prediction.scores, dtype=np.float32)
    if scores.shape != (n,):
        raise ValueError(f"predict returned scores of shape {scores.shape}, expected ({n},)")
    parts = {name: np.asarray(v, dtype=np.float32) for name, v in prediction.parts.items()}
    for name, values in parts.items():
        if values.shape != (n,):
            raise ValueError(f"predict returned part {name!r} of shape {values.shape}, not ({n},)")
    maps = None if prediction.maps is None else np.asarray(prediction.maps, dtype=np.float32)
    part_maps = {name: np.asarray(v, dtype=np.float32) for name, v in prediction.part_maps.items()}
    for what, m in [("maps", maps), *part_maps.items()]:
        if m is not None and (m.ndim != 3 or len(m) != n):
            raise ValueError(f"predict returned {what} of shape {m.shape}, expected ({n}, h, w)")
    return Prediction(scores, maps, parts, part_maps)

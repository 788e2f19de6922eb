"""A store on which a finished task is done again: what it makes is compared, never written."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from harness.interface import Arrays
from harness.storage.store import Store


class Repeats(Store):
    """As the store was before the task, for one who asks; what the task puts is held against what
    is there, to the last bit.

    Parameters
    ----------
    root, copied : see ``Store``
    kind, key : of the artifact that the task makes
    """

    def __init__(self, root: str, copied: Collection[str], kind: str, key: str) -> None:
        super().__init__(root, copied)
        self._target = kind, key
        self.differences = ["it made nothing"]  # until it has; in lines

    def has(self, kind: str, key: str) -> bool:
        """Whether the artifact is there; the task's own is not."""
        return (kind, key) != self._target and super().has(kind, key)

    def get(self, kind: str, key: str) -> tuple[Arrays, Any]:
        """Arrays and meta of an artifact; the task's own is not there."""
        if (kind, key) == self._target:
            raise FileNotFoundError(self.path(key))
        return super().get(kind, key)

    def put(self, kind: str, key: str, arrays: Mapping[str, np.ndarray], meta: Any = None) -> int:
        """Compare; ``differences`` has what is not the same."""
        if (kind, key) == self._target:
            before, old_meta = super().get(kind, key)
            self.differences = differences(before, arrays)
            if json.dumps(old_meta, sort_keys=True) != json.dumps(meta, sort_keys=True):
                self.differences.append(_words(old_meta, meta))
        return 0

    def write(self, name: str, contents: bytes) -> None:
        """Nothing: what is in sweeps' folders stays as it is."""


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """What two artifacts' arrays differ in, a line for each name; bytes count, -0.0 is not 0.0."""
    lines = []
    for name in sorted(before.keys() | after.keys()):
        if name not in before or name not in after:
            lines.append(f"{name}: only the {'first' if name in before else 'second'} time")
            continue
        old, new = np.asarray(before[name], order="C"), np.asarray(after[name], order="C")
        new = new.astype(new.dtype.newbyteorder("="), copy=False)
        if (old.dtype, old.shape) != (new.dtype, new.shape):
            lines.append(f"{name}: {old.dtype} {old.shape}, then {new.dtype} {new.shape}")
        elif old.tobytes() != new.tobytes():
            lines.append(f"{name}: {_gap(old, new)}")
    return lines


def _gap(old: np.ndarray, new: np.ndarray) -> str:
    """How far two arrays of one shape are apart."""
    size = old.dtype.itemsize
    apart = (_bytes(old, size) != _bytes(new, size)).any(axis=1)
    text = f"{np.count_nonzero(apart):,} of {apart.size:,} values differ"
    if old.dtype.kind not in "biuf":
        return text
    with np.errstate(invalid="ignore"):
        gaps = np.abs(old.astype(np.float64) - new.astype(np.float64))
    gaps = gaps[np.isfinite(gaps)]
    return f"{text}, by up to {gaps.max():.3g}" if gaps.size else text


def _bytes(array: np.ndarray, size: int) -> np.ndarray:
    return np.frombuffer(array.tobytes(), np.uint8).reshape(-1, size)


def _words(before: Any, after: Any) -> str:
    """The first name under which two metas differ, with both values."""
    name = "its metadata"
    while isinstance(before, dict) and isinstance(after, dict):
        apart = [n for n in sorted({*before, *after}) if before.get(n) != after.get(n)]
        if not apart:
            break
        name, before, after = apart[0], before.get(apart[0]), after.get(apart[0])
    return f"{name}: was {str(before)[:60]}, is {str(after)[:60]}"

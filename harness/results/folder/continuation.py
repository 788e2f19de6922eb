"""What a sweep's folder may go on with: more of the same, never something else under one name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

#: keys of a sweep that no result depends on
IDLE = ("description", "time_limit", "attempts", "keep_models", "memory")
#: keys whose values are lists that may grow, in a sweep and in its entries
GROWING = ("shots", "seeds", "categories", "auxiliary")

Config = Mapping[str, Any]


def refusals(old: Config, new: Config) -> list[str]:
    """Why a folder with results of one config cannot go on with another; empty where it can.

    More datasets, categories, methods, generators, shots and seeds are welcome: rows that are
    there stay valid, as their keys say. What is gone, or means something else, is refused, for the
    table would mix two sweeps.

    Parameters
    ----------
    old, new : configs as ``sweep.yaml`` has them
    """
    reasons: list[str] = []
    for key in dict.fromkeys([*old, *new]):
        before, after = old.get(key), new.get(key)
        if key in IDLE or before == after:
            continue
        if key in ("datasets", "methods"):
            reasons += _entries(key, _labelled(before), _labelled(after))
        elif key == "generators":
            reasons += _entries(key, before or {}, after or {})
        else:
            reasons += _value(key, before, after)
    return reasons


def _labelled(entries: Sequence[Config] | None) -> dict[str, Config]:
    return {str(entry.get("label") or entry.get("use")): entry for entry in entries or ()}


def _entries(key: str, old: Mapping[str, Config], new: Mapping[str, Config]) -> list[str]:
    reasons = []
    for name, before in old.items():
        if name not in new:
            reasons.append(f"{key}: {name!r} is gone")
            continue
        for part in dict.fromkeys([*before, *new[name]]):
            values = before.get(part), new[name].get(part)
            if values[0] != values[1]:
                reasons += _value(f"{key}: {part} of {name!r}", *values, grows=part in GROWING)
    return reasons


def _value(what: str, before: Any, after: Any, grows: bool | None = None) -> list[str]:
    grows = what in GROWING if grows is None else grows
    if grows and isinstance(before, list) and isinstance(after, list | None):
        lacking = [] if after is None else [value for value in before if value not in after]
        return [f"{what} lacks {', '.join(map(str, lacking))}"] if lacking else []
    return [f"{what} was {_shown(before)}, is {_shown(after)}"]


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."

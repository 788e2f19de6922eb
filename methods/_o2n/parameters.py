"""Which parameters `O2n` takes, alone and together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from methods.o2n import O2n

_SWITCHES = {
    "selection": ("generator", "mean", "min"),
    "against": ("query", "reconstruction", "excess", "bank"),
    "fusion": ("sum", "min"),
    "weights": ("fixed", "synthetic"),
    "bank": ("pool", "support"),
    "scope": ("all", "same-cell"),
    "maximum": ("per-level", "of-mean"),
    "text": ("adapter", "class-token"),
}
_LEAST = [("size", 1), ("batch", 1), ("epochs", 1), ("autoencoder_size", 1), ("rehearsals", 1)]
_LEAST += [("alpha", 0), ("beta", 0), ("sigma", 0)]


def check(method: O2n) -> None:
    """Refuse parameters that are wrong, alone or together.

    Raises
    ------
    ValueError
        With one line that names parameter, constraint and value.
    """
    for name, known in _SWITCHES.items():
        if getattr(method, name) not in known:
            raise _wrong(name, f"one of {', '.join(known)}", getattr(method, name))
    for name, least in _LEAST:
        value = getattr(method, name)
        if value is not None and not least <= value < float("inf"):
            raise _wrong(name, f"at least {least}, and finite", value)
    for name in ("temperature", "learning_rate"):
        if not 0 < getattr(method, name) < float("inf"):
            raise _wrong(name, "a finite number above 0", getattr(method, name))
    if method.mosaic is not None and not 0 <= method.mosaic <= 1:
        raise _wrong("mosaic", "between 0 and 1", method.mosaic)
    if method.search < 1 or method.search % 2 == 0:
        raise _wrong("search", "odd and at least 1", method.search)
    if method.levels is not None and (not method.levels or min(method.levels) < 1):
        raise _wrong("levels", "a list of blocks, counted from 1", list(method.levels))
    rebuilt = method.against in ("reconstruction", "excess")
    if method.autoencoder is None and (rebuilt or method.autoencoder_size):
        name = f"against: {method.against}" if rebuilt else "autoencoder_size"
        raise ValueError(f"o2n: {name} needs `autoencoder`, the generator's base")
    if (method.personalizer is None) != (method.weights == "fixed"):
        raise ValueError(
            "o2n: `weights: synthetic` and `personalizer`, the generator's parameters, belong "
            "together"
        )


def _wrong(name: str, constraint: str, value: Any) -> ValueError:
    return ValueError(f"The {name} parameter of o2n must be {constraint}. Got {value!r} instead.")

"""Takes what a worker keeps off its GPU, and puts it back where it was when it is asked for again.

Customizing a model needs most of a card. What other plug-ins left there meanwhile, encoders and
features, waits in the host's memory: the way back takes tenths of a second, making it anew minutes.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Mapping
from itertools import repeat
from typing import Any

HOST = "cpu"


def homes(value: Any) -> list[Any]:
    """Devices of a value's tensors, through containers and dataclasses, in their order."""
    out: list[Any] = []
    _placed(value, repeat(None), out)
    return out


def on_a_gpu(devices: list[Any]) -> bool:
    """Whether one of them is not the host."""
    return any(device.type != HOST for device in devices)


def moved(value: Any, devices: Iterator[Any]) -> Any:
    """A value with its tensors on these devices, one for each; what is no tensor is shared."""
    return _placed(value, devices, [])


def _placed(value: Any, devices: Iterator[Any], before: list[Any]) -> Any:
    def each(parts: Any) -> list[Any]:
        return [_placed(part, devices, before) for part in parts]

    if _is_tensor(value):
        before.append(value.device)
        device = next(devices)
        return value if device is None else value.to(device)
    if isinstance(value, Mapping):
        return dict(zip(value, each(value.values()), strict=True))
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*each(value))
    if isinstance(value, list | tuple):
        return type(value)(each(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [f.name for f in dataclasses.fields(value) if f.init]
        parts = each(getattr(value, name) for name in names)
        return dataclasses.replace(value, **dict(zip(names, parts, strict=True)))
    return value


def release() -> None:
    """Give back what torch keeps of a GPU for later."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _is_tensor(value: Any) -> bool:
    torch = sys.modules.get("torch")  # who holds a tensor has loaded it
    return torch is not None and isinstance(value, torch.Tensor)

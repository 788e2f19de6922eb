"""What plug-ins were handed stays what it was: checksums of all that a worker shares among them.

numpy's read-only flag keeps nobody out: ``torch.from_numpy`` ignores it, and tensors have none. So
each value that more than one plug-in may see is sealed with a checksum (xxh3, at the speed of
memory) before it is handed out. After a task the seals of what its plug-in had in its hands are
looked at; a broken one is an error of the task. What a plug-in kept from an earlier task and wrote
to later is found out before anybody else gets it.
"""

from __future__ import annotations

import dataclasses
import logging
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import repeat
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import xxhash

from harness.execution.memory import offload
from harness.tasks.references import PluginUse

CLOSED = (type, ModuleType, FunctionType, MethodType, BuiltinFunctionType, logging.Logger)
DEPTH = 200  # characters of a path, beyond which containers are not looked into
Seal = dict[str, int]  # path within a value -> checksum of what is there
SCALARS = (str, bytes, int, float, complex, bool, type(None))


class Altered(RuntimeError):
    """A plug-in wrote to what it was handed. The message names it."""


class Spoilt(RuntimeError):
    """What a task is to be handed was altered by an earlier one; this one is not to blame."""


class Kept:
    """A value that a worker keeps.

    Parameters
    ----------
    value : of any type; None once it is kept no longer
    size : bytes
    what : its name, for messages
    """

    __slots__ = ("home", "size", "value", "what")

    def __init__(self, value: Any, size: int = 0, what: str = "") -> None:
        self.value = value
        self.size = size
        self.what = what
        self.home: Any = None  # where it was on a GPU before it was taken off; None otherwise

    def unload(self) -> None:
        """Take it off its GPU, to the host; see ``reload``."""
        if self.home is None and offload.on_a_gpu(devices := offload.homes(self.value)):
            self.value = offload.moved(self.value, repeat(offload.HOST))
            self.home = devices

    def reload(self) -> None:
        """Put it back onto its GPU, if it was taken off."""
        if self.home is not None:
            self.value, self.home = offload.moved(self.value, iter(self.home)), None


class Sealed(Kept):
    """A record that is handed out: arrays, tensors and plain values, or containers of them."""

    __slots__ = ("checked", "seal")

    def __init__(self, value: Any, size: int = 0, what: str = "") -> None:
        super().__init__(value, size, what)
        self.checked = -1  # number of the task after which the seal was last looked at
        self.seal = self._sealed()

    def _sealed(self) -> Any:
        return sealed(self.value)

    def whole(self) -> bool:
        """Whether the value is what it was."""
        return bool(self._sealed() == self.seal)


class SealedModel(Sealed):
    """A model or the like: what it holds now is sealed, what it may come to hold later is not."""

    __slots__ = ("_members",)

    def __init__(self, value: Any, what: str) -> None:
        self._members = list(_members(value))
        super().__init__(value, 0, what)

    def unload(self) -> None:
        """Take the modules that it holds off their GPU; single tensors are small, and stay."""
        if self.home is None:
            modules = [data for _, _, data in self._members if _is_module(data)]
            first = [(m, next(iter((*m.parameters(), *m.buffers())), None)) for m in modules]
            homes = [(m, weight.device) for m, weight in first if weight is not None]
            self.home = [(m, d) for m, d in homes if offload.on_a_gpu([d])] or None
            for module, _ in self.home or ():
                module.to(offload.HOST)

    def reload(self) -> None:
        """Put its modules back."""
        for module, device in self.home or ():
            module.to(device)
        self.home = None

    def _sealed(self) -> list[Seal]:
        seals: list[Seal] = []
        for owner, name, data in self._members:
            seal: Seal = {}
            if _member(owner, name) is not data:
                seal["replaced"] = 1
            elif _is_module(data):
                _module(data, "", seal)
            else:
                _walk(data, "", seal)
            seals.append(seal)
        return seals


class Seals:
    """Whose hands hold what, and whether it is still what it was. For one worker, one thread."""

    def __init__(self) -> None:
        self.failure: Spoilt | None = None  # the last spoilt value met, as a plug-in may swallow it
        self._task = 0
        self._plugin = ""
        self._fitting = False
        self._handed: dict[int, Sealed] = {}  # in this task
        self._fitted: dict[str, dict[int, Sealed]] = {}  # plug-in -> handed while it was fitted
        self._shared: dict[str, dict[int, Sealed]] = {}  # plug-in -> models and the like
        self._lately: deque[str] = deque(maxlen=50)  # plug-ins of the last tasks

    def begin(self, plugin: PluginUse | None = None) -> None:
        """Another task begins, of this plug-in."""
        self.failure = None
        self._task += 1
        self._plugin = "" if plugin is None else plugin.id
        self._handed = {}
        self._lately.append("evaluation" if plugin is None else plugin.use)

    @contextmanager
    def fitting(self) -> Iterator[None]:
        """What is handed out meanwhile stays in the plug-in's hands until it is fitted again."""
        self._fitted[self._plugin] = {}
        self._fitting = True
        try:
            yield
        finally:
            self._fitting = False

    def hand(self, kept: Sealed, shared: bool = False) -> Any:
        """The value, for the plug-in of this task.

        Raises
        ------
        Spoilt
            It is not what it was.
        """
        kept.reload()
        if kept.checked < self._task - 1:
            if kept.checked >= 0 and not kept.whole():
                tasks = min(self._task - kept.checked, len(self._lately))
                suspects = dict.fromkeys(list(self._lately)[-tasks:])
                self.failure = Spoilt(f"{kept.what} was altered by one of: {', '.join(suspects)}")
                raise self.failure
            kept.checked = self._task - 1
        self._handed[id(kept)] = kept
        if shared:
            self._shared.setdefault(self._plugin, {})[id(kept)] = kept
        elif self._fitting:
            self._fitted[self._plugin][id(kept)] = kept
        return kept.value

    def shared_with(self, plugin: str) -> list[Sealed]:
        """Models and the like that a plug-in was handed."""
        return list(self._shared.get(plugin, {}).values())

    def check(self) -> None:
        """Look at the seals of all that this task's plug-in has in its hands.

        Raises
        ------
        Altered
            One of them is broken.
        Spoilt
            One was before the task began.
        """
        if self.failure is not None:
            raise self.failure
        held = self._fitted.get(self._plugin, {}) | self._shared.get(self._plugin, {})
        broken = []
        for kept in (held | self._handed).values():
            if kept.value is None or kept.home is not None:  # nobody has it, or will be handed it
                continue
            if not kept.whole():
                broken.append(kept.what)
            kept.checked = self._task
        if broken:
            more = f" and {len(broken) - 1} more" if len(broken) > 1 else ""
            raise Altered(f"it wrote to what it was handed: {broken[0]}{more}")


def sealed(value: Any) -> Seal:
    """Checksums of the arrays, tensors and plain values in a value, through containers.

    Anything else counts by its type alone.
    """
    seal: Seal = {}
    _walk(value, "", seal)
    return seal


def _walk(value: Any, path: str, seal: Seal) -> None:
    if isinstance(value, np.ndarray) and value.dtype != object:
        seal[path] = _array(value)
    elif _is_tensor(value):
        seal[path] = _tensor(value)
    elif isinstance(value, SCALARS):
        seal[path] = hash((type(value), value))
    elif len(path) < DEPTH:
        seal[f"{path}:"] = hash(type(value))
        for name, part in _parts(value):
            _walk(part, f"{path}/{name}", seal)


def _parts(value: Any) -> Iterator[tuple[Any, Any]]:
    """What a container holds, by name."""
    if isinstance(value, Mapping):
        yield from list(value.items())
    elif isinstance(value, (list, tuple)):
        yield from enumerate(value)
    elif isinstance(value, np.ndarray):  # of objects
        yield from enumerate(value.ravel())
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from ((f.name, getattr(value, f.name, None)) for f in dataclasses.fields(value))


def _members(value: Any) -> Iterator[tuple[Any, Any, Any]]:
    """Arrays, tensors and modules reachable from an object: who holds them, under which name."""
    front: list[tuple[Any, Any, Any]] = [([value], 0, value)]
    seen: set[int] = set()
    while front:
        owner, name, part = front.pop()
        if id(part) in seen or isinstance(part, (*SCALARS, *CLOSED)):
            continue
        seen.add(id(part))
        if isinstance(part, np.ndarray) or _is_tensor(part) or _is_module(part):
            yield owner, name, part
        elif isinstance(part, (Mapping, list, tuple)):
            front += [(part, key, more) for key, more in _parts(part)]
        elif not hasattr(part, "get_or_create"):  # the worker's memory, which an encoder may keep
            front += [
                (part, key, more) for key, more in list(getattr(part, "__dict__", {}).items())
            ]


def _member(owner: Any, name: Any) -> Any:
    """What is held there now; None where nothing is."""
    if isinstance(owner, (Mapping, list, tuple)):
        try:
            return owner[name]
        except (KeyError, IndexError):
            return None
    return getattr(owner, "__dict__", {}).get(name)


def _is_tensor(value: Any) -> bool:
    torch = sys.modules.get("torch")  # who holds a tensor has loaded it
    return torch is not None and isinstance(value, torch.Tensor)


def _is_module(value: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.nn.Module)


def _module(module: Any, path: str, seal: Seal) -> None:
    """Weights and buffers of a torch module, and what else decides about its output."""
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        seal[f"{path}/{name}"] = _tensor(tensor)
    modes = []
    for part in module.modules():
        hooks = len(part._forward_hooks), len(part._forward_pre_hooks)
        modes.append((part.training, hooks, "forward" in part.__dict__))
    seal[f"{path}:modes"] = hash(tuple(modes))


def _array(array: np.ndarray) -> int:
    layout = f"{array.dtype.str}{array.shape}{array.strides}"
    contents = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return int(xxhash.xxh3_64_intdigest(contents.data, seed=hash(layout) & 0xFFFF_FFFF))


def _tensor(tensor: Any) -> int:
    torch = sys.modules["torch"]
    tensor = tensor.detach().resolve_conj().resolve_neg()
    layout = f"{tensor.dtype}{tuple(tensor.shape)}{tensor.device}"
    seed = hash(layout) & 0xFFFF_FFFF
    if tensor.layout != torch.strided or tensor.is_quantized or not tensor.numel():
        return seed
    flat = tensor.contiguous().reshape(-1).view(torch.uint8)
    if flat.device.type == "cpu":
        return int(xxhash.xxh3_64_intdigest(flat.numpy().data, seed=seed))
    if flat.device.type == "meta":
        return seed
    return int(xxhash.xxh3_64_intdigest(_sums(flat, torch).data, seed=seed))


def _sums(flat: Any, torch: Any) -> np.ndarray:
    """Sums along rows and columns of a device's bytes: a few numbers that tell where they were."""
    side = 4096
    flat = flat.clone() if flat.storage_offset() % 8 else flat
    words = flat[: len(flat) // 8 * 8].view(torch.int64)
    block = words[: len(words) // side * side].reshape(-1, side)
    rest = [words[block.numel() :], flat[len(words) * 8 :].to(torch.int64)]
    sums = torch.cat([block.sum(0), block.sum(1), *rest])
    return np.ascontiguousarray(sums.cpu().numpy()).view(np.uint8)

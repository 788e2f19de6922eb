"""Imports the libraries that a worker will need, before its first task.

torchvision and timm load PyTorch's compiler, which takes as long as all the rest of them and half
of a worker's memory after that, for the sake of two names that only compiled code asks for. Here it
is left until somebody uses it.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from harness import plugins
from harness.interface import Generator

COMPILER = "torch._dynamo"
#: libraries that load the compiler and can do without
VISION = ("torchvision", "timm", "open_clip")


def needed(built: Iterable[Any]) -> tuple[str, ...]:
    """Names for ``load``, by what plug-ins declare or else import.

    What trains has the compiler loaded once for all workers: PyTorch's optimizers ask for it.
    """
    imported: set[str] = set()
    for plugin in built:
        declared = getattr(plugin, "preload", None)
        imported |= set(plugins.source(plugin.__class__).imports if declared is None else declared)
        if "torch" in imported and (isinstance(plugin, Generator) or plugin.auxiliary):
            imported.add(COMPILER)
    names = tuple(name for name in plugins.HEAVY if name in imported)
    return (*names, COMPILER) if COMPILER in imported else names


def load(names: Sequence[str]) -> None:
    """Import libraries, in this order; those that are not installed are left out.

    Parameters
    ----------
    names : of modules; with ``torch._dynamo`` among them the compiler is loaded as well
    """
    if COMPILER not in (*names, *sys.modules) and not set(VISION).isdisjoint(names):
        with contextlib.suppress(ImportError):
            import torch  # noqa: F401 - the parts below belong to it

            with _without_names_of_compiler():
                importlib.import_module("torchvision")
            with _disabled_later():
                _import(name for name in names if name in VISION)
    _import(names)


def _import(names: Iterable[str]) -> None:
    for name in names:
        with contextlib.suppress(ImportError):  # whoever needs it will say so
            importlib.import_module(name)


@contextmanager
def _without_names_of_compiler() -> Iterator[None]:
    """Inside, functions that are imported from the compiler load it when they are called."""
    stand_ins = {name: _Later(name) for name in (COMPILER, f"{COMPILER}.utils")}
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        _remove()


def _remove() -> None:
    for name in (COMPILER, f"{COMPILER}.utils"):
        if isinstance(sys.modules.get(name), _Later):
            del sys.modules[name]


class _Later(types.ModuleType):
    """Stands for a module of the compiler until one of its functions is called."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)

        def call(*args: Any, **options: Any) -> Any:
            _remove()  # the compiler must not meet its own stand-ins
            return getattr(importlib.import_module(self.__name__), name)(*args, **options)

        return call


@contextmanager
def _disabled_later() -> Iterator[None]:
    """Inside, functions are kept out of compiled code only once the compiler is there."""
    import torch.compiler

    disable = torch.compiler.disable
    torch.compiler.disable = functools.partial(_kept_out, disable)
    try:
        yield
    finally:
        torch.compiler.disable = disable


def _kept_out(
    disable: Callable[..., Any], function: Callable[..., Any] | None = None, **options: Any
) -> Callable[..., Any]:
    """What ``torch.compiler.disable`` makes of a function, made when it matters."""
    if function is None:
        return functools.partial(_kept_out, disable, **options)
    apart: list[Callable[..., Any]] = []

    @functools.wraps(function)
    def call(*args: Any, **named: Any) -> Any:
        if COMPILER not in sys.modules:
            return function(*args, **named)
        if not apart:
            apart.append(disable(function, **options))
        return apart[0](*args, **named)

    return call

"""What all plug-ins of a process share without asking: functions of libraries, and settings.

A plug-in that replaces ``numpy.argsort``, makes float64 torch's default type or closes stderr
changes the numbers of whoever comes after it in the same process. That is found out after its task,
and nobody comes after it: the worker is replaced.

What is found changed at the start of a task, or is a function that the engine itself goes on to use
in a worker that has served several plug-ins, may be the work of an earlier one (of a thread, or of
a finalizer). Such a task is not to blame: it is tried again in a fresh worker, where there is no
doubt.
"""

from __future__ import annotations

import _thread
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from operator import itemgetter
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

from harness.errors import described
from harness.execution.memory.seals import Altered, Spoilt
from harness.execution.process import process_settings
from harness.tasks.references import PluginUse

NEWBORN = 0.3  # seconds that a thread of the kernel's may take to become one of Python's
#: modules whose functions and classes are watched
SHARED = {"builtins", "math", "random", "os", "io", "json", "time", "csv", "zlib", "pickle"}
SHARED |= {"copy", "functools", "hashlib", "itertools", "operator", "struct", "re", "tempfile"}
SHARED |= {"threading", "signal", "warnings", "logging", "os.path", "posixpath", "collections"}
SHARED |= {"PIL.Image", *(f"numpy{part}" for part in ("", ".linalg", ".random", ".fft", ".ma"))}
SHARED |= {f"scipy.{part}" for part in ("ndimage", "linalg", "spatial", "special", "stats")}
SHARED |= {"torch", "torch.nn", "torch.nn.functional", "torch.linalg", "torch.fft"}
SHARED |= {"safetensors", "safetensors.numpy", "xxhash"}
OWN = ("harness", "methods", "datasets")  # packages of which all modules are watched
#: packages that results pass through after a plug-in
OURS = ("builtins", "numpy", "harness", "safetensors", "xxhash", "json", "os", "time", "zlib")
#: what a library replaces itself: torch wraps this when torch._dynamo is first used
COMPLETED = {"torch": ("manual_seed",)}
#: classes whose methods are watched as well; those of our own packages are all
LAYERS = ("Linear", "Conv2d", "BatchNorm2d", "LayerNorm", "MultiheadAttention", "Dropout", "GELU")
CLASSES = [("torch", "Tensor"), ("PIL.Image", "Image")]
CLASSES += [("torch.nn", name) for name in ("Module", *LAYERS)]
METHODS = (FunctionType, classmethod, staticmethod, property)


class _Names(NamedTuple):
    """Names of a module or class that stand for functions, and the functions themselves."""

    owner: ModuleType | type
    names: tuple[str, ...]
    get: Callable[[Any], tuple[Any, ...]]  # what all the names stand for: in C, as there are many
    functions: tuple[Any, ...]


class ProcessState:
    """The state of this process, noted before a task and looked at after it."""

    def __init__(self) -> None:
        self._functions: dict[str, _Names] = {}  # module, or module:class -> its functions
        self._modules = -1  # number of loaded modules when they were last looked through
        self._settings: dict[str, Any] = {}
        self._threads: set[int] = set()
        self._hidden = 0  # threads that the module threading does not know
        self._native = 0  # threads that the kernel knows
        self._users: set[str] = set()  # plug-ins that have been at work here
        self._altered: str | None = None  # function found replaced in this task; None: not looked

    def compare(self) -> None:
        """Look at the settings before the engine makes its own for the next task.

        Raises
        ------
        Spoilt
            Something has changed since the last task was done.
        """
        changed = self._different(process_settings.settings())
        if changed:
            raise Spoilt(f"{changed} was changed by an earlier task")

    def note(self, plugin: PluginUse | None = None) -> None:
        """Take down what is so now, before the task's plug-in is called.

        Parameters
        ----------
        plugin : of the task; None where it has none
        """
        self._altered = None
        self._watch()
        self._users.add("" if plugin is None else plugin.id)
        self._settings = process_settings.settings()
        self._threads = set(sys._current_frames())
        self._hidden = _hidden_threads()
        self._native = _native_threads()

    def check(self) -> None:
        """Look at the functions that the engine itself goes on to use.

        Raises
        ------
        Altered
            The task's plug-in replaced one.
        Spoilt
            One was replaced, by this plug-in or an earlier one.
        """
        self._altered = self._replaced()
        if self._altered.partition(".")[0] not in OURS:
            return
        if len(self._users) > 1:
            raise Spoilt(f"{self._altered} was changed, by it or an earlier task")
        raise Altered(f"it changed {self._altered}")

    def changed(self) -> str:
        """What is no longer as it was, in words; empty when all is."""
        try:
            return self._changed()
        except Exception as error:  # of a function that it replaced, or a warning made an error
            return f"what it left cannot be looked at: {described(error)}"

    def _changed(self) -> str:
        settings = process_settings.settings()
        different = self._different(settings)
        self._settings = settings
        if different:
            return f"it changed {different}"
        if self._left_threads():
            return "it left a thread running"
        altered = self._replaced() if self._altered is None else self._altered
        return f"it changed {altered}" if altered else ""

    def _watch(self) -> None:
        """Take down the functions of what has been imported since."""
        if len(sys.modules) == self._modules:
            return
        self._modules = len(sys.modules)
        for name, owner in _watched():
            if name not in self._functions:
                left_out = COMPLETED.get(name, ())
                kept = _names(owner, left_out)
                if kept:
                    self._functions[name] = kept

    def _different(self, settings: dict[str, Any]) -> str:
        """Name of the first setting that is not what it was; empty when all are."""
        for name, value in self._settings.items():
            now = settings[name]
            if value is None and now is not None and name.startswith("torch"):
                # The task was the first to load torch: that is no change, unless it went further.
                value = process_settings.plain(name, now)
            if now == value:
                continue
            variables = process_settings.variables
            if name == "environment variables" and variables(now) == variables(value):
                continue
            if name == "sys.path" and now[: len(value)] == value:
                continue  # a plug-in's folder was added at the end
            if value is None and name in ("logging", "decimal", "PIL.Image.MAX_IMAGE_PIXELS"):
                continue  # the library has just been loaded
            return name
        return ""

    def _replaced(self) -> str:
        """The first function that has been replaced; empty when none has."""
        for name, (owner, names, get, functions) in self._functions.items():
            module, _, of_class = name.partition(":")
            if not of_class and sys.modules.get(name) is not owner:
                return f"{name} itself"
            current = vars(owner)
            try:
                if get(current) == functions:  # equal where identical: nothing is called
                    continue
            except Exception:
                pass  # one is gone, or cannot be compared: below
            for function, before in zip(names, functions, strict=True):
                if current.get(function) is not before:
                    return ".".join(filter(None, (module, of_class, function)))
        return ""

    def _left_threads(self) -> bool:
        """Whether threads have begun that may do something of their own accord."""
        if self._begun_hidden():
            return True
        begun = set(sys._current_frames()) - self._threads
        if not begun:
            return False
        known = {thread.ident: thread for thread in threading.enumerate()}
        return any(ident not in known or _busy(known[ident]) for ident in begun)

    def _begun_hidden(self) -> bool:
        """Whether there are more threads than before that the module threading does not know."""
        end = time.monotonic() + NEWBORN
        # A thread counts itself, once it has had its first turn; the kernel knows it at once.
        while _native_threads() > self._native and time.monotonic() < end:
            if _hidden_threads() > self._hidden:
                return True
            time.sleep(0.005)
        return _hidden_threads() > self._hidden


def _watched() -> Iterator[tuple[str, ModuleType | type]]:
    for name, module in list(sys.modules.items()):
        own = name.partition(".")[0] in OWN
        if not (own or name in SHARED) or not isinstance(module, ModuleType):
            continue
        yield name, module
        for part in list(vars(module).values()) if own else ():
            if isinstance(part, type) and part.__module__ == name:
                yield f"{name}:{part.__qualname__}", part
    for name, of_class in CLASSES:
        part = getattr(sys.modules.get(name), of_class, None)
        if isinstance(part, type):
            yield f"{name}:{of_class}", part


def _names(owner: ModuleType | type, left_out: tuple[str, ...]) -> _Names | None:
    """Names of functions and classes in a module, or of methods in a class."""
    watched = callable if isinstance(owner, ModuleType) else lambda v: isinstance(v, METHODS)
    functions = {k: v for k, v in vars(owner).items() if watched(v) and k not in left_out}
    names = tuple(functions)
    if len(names) < 2:  # of one name itemgetter makes no tuple
        names = (*names, *["__doc__" for _ in range(2 - len(names))])
    get = itemgetter(*names)
    try:
        return _Names(owner, names, get, get(vars(owner))) if functions else None
    except KeyError:
        return None


def _hidden_threads() -> int:
    """How many threads of Python's the module threading does not know: begun by ``_thread``."""
    main, listed = threading.main_thread(), threading.enumerate()
    return _thread._count() - sum(each is not main and each.daemon is not None for each in listed)


def _native_threads() -> int:
    """How many threads the kernel knows, those of libraries among them; 0 where it does not say."""
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return 0


def _busy(thread: threading.Thread) -> bool:
    """Whether a thread may do something of its own accord: idle pools and progress bars do not."""
    module = str(getattr(type(thread), "__module__", ""))
    work = getattr(thread, "_target", None)
    source = str(getattr(work, "__module__", ""))
    return not (module.startswith("tqdm") or source.startswith("concurrent.futures"))

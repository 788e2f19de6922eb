"""What all plug-ins of a process share without asking: functions of libraries, and settings.

A plug-in that replaces ``numpy.argsort``, makes float64 torch's default type or closes stderr
changes the numbers of whoever comes after it in the same process. That is found out after its task,
and nobody comes after it: the worker is replaced.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from operator import is_
from types import ModuleType
from typing import Any

import numpy as np

from harness.execution.seals import Altered

#: modules whose functions and classes are watched
SHARED = {"builtins", "math", "random", "os", "io", "json", "time", "csv", "zlib", "pickle"}
SHARED |= {"PIL.Image", *(f"numpy{part}" for part in ("", ".linalg", ".random", ".fft", ".ma"))}
SHARED |= {f"scipy.{part}" for part in ("ndimage", "linalg", "spatial", "special", "stats")}
SHARED |= {"torch", "torch.nn", "torch.nn.functional", "torch.linalg", "torch.fft"}
OWN = ("harness", "methods", "datasets")  # packages of which all modules are watched
OURS = ("builtins", "numpy", "harness")  # packages that results pass through after a plug-in
#: what a library replaces itself: torch wraps this when torch._dynamo is first used
COMPLETED = {"torch": ("manual_seed",)}
COMPILERS = ("TORCH", "TRITON", "PYTORCH", "KMP_")  # variables that libraries set when imported
CLASSES = (("torch", "Tensor"), ("torch.nn", "Module"))  # whose methods are watched as well


class ProcessState:
    """The state of this process, noted before a task and looked at after it."""

    def __init__(self) -> None:
        self._functions: dict[
            str, dict[str, Any]
        ] = {}  # of a module: its name -> what has the name
        self._settings: dict[str, Any] = {}
        self._threads: set[threading.Thread] = set()

    def note(self) -> None:
        """Take down what is so now, before the task's plug-in is called."""
        for name in _watched():
            if name not in self._functions:
                parts = vars(_object(name)).items()
                left_out = COMPLETED.get(name, ())
                self._functions[name] = {
                    k: v for k, v in parts if callable(v) and k not in left_out
                }
        self._settings = dict(_settings())
        self._threads = set(threading.enumerate())

    def check(self) -> None:
        """Altered when a function is replaced that the engine itself goes on to use."""
        replaced = self._replaced(OURS)
        if replaced:
            raise Altered(replaced)

    def changed(self) -> str:
        """What is no longer as it was, in words; empty when all is."""
        settings = dict(_settings())
        for name, value in self._settings.items():
            if value is None and settings[name] is not None and name.startswith("torch"):
                # The task was the first to load torch: that is no change, unless it went further.
                value = _fresh(name, settings[name])
            if settings[name] != value:
                return f"it changed {name}"
        if any(map(_busy, set(threading.enumerate()) - self._threads)):
            return "it left a thread running"
        return self._replaced(())

    def _replaced(self, packages: tuple[str, ...]) -> str:
        """The first function of these packages, or of all, that has been replaced, in words."""
        for name, functions in self._functions.items():
            if packages and name.partition(".")[0] not in packages:
                continue
            now = vars(_object(name))
            # thousands of functions after every task: in C, and by name only where one differs
            if not all(map(is_, map(now.get, functions), functions.values())):
                altered = next(k for k, v in functions.items() if now.get(k) is not v)
                return f"it changed {name}.{altered}"
        return ""


def _watched() -> Iterator[str]:
    for name in list(sys.modules):
        watched = name in SHARED or name.partition(".")[0] in OWN
        if watched and isinstance(sys.modules[name], ModuleType):
            yield name
    for module, name in CLASSES:
        if module in sys.modules:
            yield f"{module}:{name}"


def _object(name: str) -> Any:
    module, _, attribute = name.partition(":")
    loaded = sys.modules.get(module)
    return getattr(loaded, attribute, loaded) if attribute else loaded


def _settings() -> Iterator[tuple[str, Any]]:
    """Settings of the process and its libraries that decide about results."""
    yield "the working folder", _or_none(os.getcwd)
    known = {k: v for k, v in os.environ.items() if not k.startswith(COMPILERS)}
    yield "environment variables", known
    yield "numpy.seterr", np.geterr()
    yield "sys.stdout and sys.stderr", (id(sys.stdout), id(sys.stderr), *map(_file, (0, 1, 2)))
    yield "what warnings are errors", [w for w in warnings.filters if w[0] == "error"]
    handlers = (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGPIPE, signal.SIGALRM)
    yield "signal handlers", [signal.getsignal(s) for s in handlers]
    yield "sys.setrecursionlimit", sys.getrecursionlimit()
    pictures = sys.modules.get("PIL.ImageFile")
    yield "PIL.ImageFile", getattr(pictures, "LOAD_TRUNCATED_IMAGES", False)
    torch = sys.modules.get("torch")
    backends = None if torch is None else torch.backends
    for name in ("get_default_dtype", "is_grad_enabled", "is_inference_mode_enabled"):
        yield f"torch ({name})", torch and getattr(torch, name)()
    for name in ("are_deterministic_algorithms_enabled", "get_float32_matmul_precision"):
        yield f"torch ({name})", torch and getattr(torch, name)()
    yield "torch's default device", torch and str(torch.empty(0).device)
    for name in ("enabled", "benchmark", "deterministic", "allow_tf32"):
        yield f"torch.backends.cudnn.{name}", backends and getattr(backends.cudnn, name)
    yield "torch.backends.mkldnn.enabled", backends and backends.mkldnn.enabled
    yield "torch.backends.cuda.matmul.allow_tf32", backends and backends.cuda.matmul.allow_tf32


def _fresh(name: str, now: Any) -> Any:
    """What a setting of torch is in a process that has just loaded it; ``now`` where unknown."""
    torch = sys.modules["torch"]
    plain = {
        "torch (get_default_dtype)": torch.float32,
        "torch (is_grad_enabled)": True,
        "torch (is_inference_mode_enabled)": False,
        "torch's default device": "cpu",
    }
    return plain.get(name, now)


def _or_none(ask: Any) -> Any:
    try:
        return ask()
    except OSError:
        return None


def _file(descriptor: int) -> Any:
    """What a descriptor stands for; None where it is closed."""
    status = _or_none(lambda: os.fstat(descriptor))
    return status and (status.st_dev, status.st_ino)


def _busy(thread: threading.Thread) -> bool:
    """Whether a thread may do something of its own accord: idle pools and progress bars do not."""
    module = str(getattr(type(thread), "__module__", ""))
    work = getattr(thread, "_target", None)
    source = str(getattr(work, "__module__", ""))
    return not (module.startswith("tqdm") or source.startswith("concurrent.futures"))

"""Settings of a process and its libraries that decide about results, or about who comes after."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # signal's own functions make enums of all
import gc
import locale
import os
import resource
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

COMPILERS = ("TORCH", "TRITON", "PYTORCH", "KMP_")  # variables that libraries set when imported
FREE = 200  # files that a task may leave open
LIMITS = ("NOFILE", "AS", "DATA", "FSIZE", "CPU", "STACK", "NPROC", "CORE", "MEMLOCK")
SIGNALS = range(1, _signal.NSIG)
_TINY, _ONE, _THREE = 1e-310, 1.0, 3.0
#: what a function of torch says in a process that has just loaded it
FRESH_TORCH = {
    "get_default_dtype": "torch.float32",
    "is_grad_enabled": True,
    "is_inference_mode_enabled": False,
    "empty(0).device": "cpu",
    "is_anomaly_enabled": False,
    "_C._len_torch_function_stack": 0,
}
TORCH = (
    *("get_default_dtype", "is_grad_enabled", "is_inference_mode_enabled", "is_anomaly_enabled"),
    *("are_deterministic_algorithms_enabled", "get_float32_matmul_precision", "get_num_threads"),
    *("_C._len_torch_function_stack", "_C._len_torch_dispatch_stack"),
)
BACKENDS = ("enabled", "benchmark", "deterministic", "allow_tf32")


def settings() -> dict[str, Any]:
    """Name of each setting, for messages -> its value now; None where its library is not loaded."""
    return dict(_settings())


def variables(environ: dict[Any, Any]) -> dict[Any, Any]:
    """Environment variables but those that libraries set when they are imported."""
    return {k: v for k, v in environ.items() if not os.fsdecode(k).startswith(COMPILERS)}


def plain(name: str, now: Any) -> Any:
    """What a setting of torch is in a process that has just loaded it; ``now`` where unknown."""
    return FRESH_TORCH.get(name.removeprefix("torch (").removesuffix(")"), now)


def _settings() -> Iterator[tuple[str, Any]]:
    yield "the working folder", _or_none(os.getcwd)
    environ = os.environ
    yield "os.environ itself", id(environ)
    yield "environment variables", dict(getattr(environ, "_data", environ))
    yield "numpy.seterr", np.geterr()
    yield "numpy.seterrcall", np.geterrcall()
    yield "numpy.random's generator", id(np.random.mtrand._rand._bit_generator)
    yield "numpy.set_printoptions", np.get_printoptions()
    yield "how numbers are rounded", (_TINY * _ONE > 0, _ONE / _THREE, -_ONE / _THREE)
    streams = (sys.stdin, sys.stdout, sys.stderr)
    usable = [(id(stream), _usable(stream)) for stream in streams]
    yield "sys.stdout and sys.stderr", (usable, *map(_file, (0, 1, 2)))
    yield "the number of open files", _or_none(_lowest_free) // FREE
    yield "what warnings are errors", [w for w in warnings.filters if w[0] == "error"]
    yield "signal handlers", [_signal.getsignal(s) for s in SIGNALS]
    yield "blocked signals", _signal.pthread_sigmask(_signal.SIG_BLOCK, ())
    yield "an alarm", _signal.getitimer(_signal.ITIMER_REAL)[0] > 0
    yield "sys.setrecursionlimit", sys.getrecursionlimit()
    yield "sys.setswitchinterval", sys.getswitchinterval()
    yield "sys.set_int_max_str_digits", sys.get_int_max_str_digits()
    yield "sys.settrace", (id(sys.gettrace()), id(sys.getprofile()), id(threading.gettrace()))
    yield "sys.excepthook", (id(sys.excepthook), id(sys.unraisablehook), id(threading.excepthook))
    yield "sys.path", list(sys.path)
    yield "sys.argv", list(sys.argv)
    yield "sys.meta_path", (id(sys.meta_path), *map(id, sys.meta_path[:1]))
    yield "gc", (gc.isenabled(), gc.get_threshold(), len(gc.callbacks))
    yield "locale", locale.setlocale(locale.LC_ALL)
    yield "umask", _umask()
    yield "resource limits", [_limit(name) for name in LIMITS]
    yield "priority and cores", (os.getpriority(os.PRIO_PROCESS, 0), _cores())
    yield from _libraries()


def _libraries() -> Iterator[tuple[str, Any]]:
    loaded = sys.modules.get
    yield "PIL.ImageFile", getattr(loaded("PIL.ImageFile"), "LOAD_TRUNCATED_IMAGES", False)
    pictures = loaded("PIL.Image")
    yield "PIL.Image.MAX_IMAGE_PIXELS", pictures and getattr(pictures, "MAX_IMAGE_PIXELS", None)
    yield "tempfile.tempdir", _or_none(tempfile.gettempdir)
    logs = loaded("logging")
    manager = logs and logs.root.manager
    yield "logging", manager and (manager.disable, logs and logs.raiseExceptions)
    decimals = loaded("decimal")
    yield "decimal", decimals and repr(decimals.getcontext())
    torch = loaded("torch")
    for name in TORCH:
        yield f"torch ({name})", torch and _shown(_part(torch, name))
    yield "torch.autocast", torch and any(map(torch.is_autocast_enabled, ("cpu", "cuda")))
    yield "torch (empty(0).device)", torch and str(torch.empty(0).device)
    yield "torch's generator", torch and id(torch.default_generator)
    backends = None if torch is None else torch.backends
    for name in BACKENDS:
        yield f"torch.backends.cudnn.{name}", backends and getattr(backends.cudnn, name)
    yield "torch.backends.mkldnn.enabled", backends and backends.mkldnn.enabled
    yield "torch.backends.cuda.matmul.allow_tf32", backends and backends.cuda.matmul.allow_tf32


def _part(module: Any, path: str) -> Any:
    for name in path.split("."):
        module = getattr(module, name)
    return module


def _shown(ask: Callable[[], Any]) -> Any:
    value = ask()
    return value if isinstance(value, (bool, int)) else str(value)


def _or_none(ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except OSError:
        return None


def _usable(stream: Any) -> bool:
    """Whether something can be written there, or read."""
    try:
        return stream is not None and not stream.closed
    except Exception:  # it was detached from its file, or is something else altogether
        return False


def _file(descriptor: int) -> Any:
    """What a descriptor stands for; None where it is closed."""
    status = _or_none(lambda: os.fstat(descriptor))
    return status and (status.st_dev, status.st_ino)


def _lowest_free() -> int:
    """The number that the next file to be opened gets."""
    reader = os.open(os.devnull, os.O_RDONLY)
    os.close(reader)
    return reader


def _umask() -> int:
    mask = os.umask(0o77)
    os.umask(mask)
    return mask


def _limit(name: str) -> Any:
    kind = getattr(resource, f"RLIMIT_{name}", None)
    return None if kind is None else resource.getrlimit(kind)


def _cores() -> Any:
    ask = getattr(os, "sched_getaffinity", None)
    return ask and ask(0)

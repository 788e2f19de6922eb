"""What hostile methods do at the end of a prediction that is otherwise right, and how that ends.

Each harm has a name, what is done with the queries and the right prediction (its result, where it
is a tuple, is answered instead), and a word of the error that its cell must have; without a word
the cell must have its result.
"""

from __future__ import annotations

import _thread
import atexit
import builtins
import copy
import gc
import json
import logging
import math
import os
import random
import resource
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image as Picture

from harness.interface import Prediction, Queries
from toys import _harms as how

nn = torch.nn
LATE = "exceeded the time limit"


class Harm(NamedTuple):
    """What is done, a word of the error of its cell (empty: it has a result), and whether its
    worker must be replaced for it.
    """

    do: Callable[[Queries, Prediction], Any]
    error: str = ""
    noticed: bool = False


def does(action: Callable[..., Any], *arguments: Any, error: str = "", **named: Any) -> Harm:
    """Something done to the process; the prediction is the right one."""

    def do(queries: Queries, right: Prediction) -> None:
        action(*arguments, **named)

    return Harm(do, error)


def alters(owner: Any, name: str, value: Any, error: str = "") -> Harm:
    """A function, or something else that all use, is another."""
    return does(setattr, owner, name, value, error=error)


def raises(error: BaseException, word: str) -> Harm:
    def do(queries: Queries, right: Prediction) -> None:
        raise error

    return Harm(do, word)


def answers(change: Callable[[Prediction], Any], error: str = "") -> Harm:
    """Something else than the right prediction."""
    return Harm(lambda queries, right: (change(right),), error)


def scores(change: Callable[[Any], Any], error: str = "") -> Harm:
    return answers(lambda right: Prediction(change(right.scores), right.maps), error)


def maps(change: Callable[[Any], Any], error: str = "") -> Harm:
    return answers(lambda right: Prediction(right.scores, change(right.maps)), error)


def nothing(*_: Any, **__: Any) -> None:
    """Stand in for a function."""


#: nobody need be told of these: they change nothing, or what is set anew for every task
QUIET = {
    "float64": scores(lambda s: s.astype(np.float64)),
    "a list of scores": scores(list),
    "a tensor of scores": scores(torch.tensor),
    "maps of another size": maps(lambda m: m[:, ::2, ::2]),
    "much output": does(print, "x" * 1_000_000),
    "no end of a line": does(lambda: sys.stderr.write("y" * 100_000)),
    "bytes to the terminal": does(lambda: os.write(2, b"\x1b[31m\xff\x00\n")),
    "seeds": does(lambda: (random.seed(1), np.random.seed(1), torch.manual_seed(1))),  # noqa: NPY002
    "files left behind": does(tempfile.mkdtemp, prefix="toys-harm-"),
    "something to do at the end": does(atexit.register, os._exit, 9),
    "a child that comes back": does(os.fork),
    "a child that stays": does(lambda: os.fork() or time.sleep(1_000)),
}

#: these keep their result, and somebody else gets a fresh worker
CHANGES = {
    "stdin closed": does(os.close, 0),
    "stdout closed": does(lambda: sys.stdout.close()),
    "stdout detached": does(lambda: sys.stdout.detach()),
    "stderr closed": does(os.close, 2),
    "no stderr": alters(sys, "stderr", None),
    "stderr elsewhere": does(lambda: os.dup2(os.open(os.devnull, os.O_WRONLY), 2)),
    "torch: type": does(torch.set_default_dtype, torch.float64),
    "torch: device": does(torch.set_default_device, "meta"),
    "torch: threads": does(torch.set_num_threads, 3),
    "torch: no gradients": does(torch.set_grad_enabled, False),
    "torch: inference": does(lambda: how.enter(torch.inference_mode(True))),
    "torch: deterministic": does(torch.use_deterministic_algorithms, True),
    "torch: anomalies": does(torch.autograd.set_detect_anomaly, True),
    "torch: precision": does(torch.set_float32_matmul_precision, "medium"),
    "torch: autocast": does(lambda: how.enter(torch.autocast("cpu", torch.bfloat16))),
    "torch: no mkldnn": alters(torch.backends.mkldnn, "enabled", False),
    "torch: small numbers": does(torch.set_flush_denormal, True),
    "torch: relu": alters(nn.functional, "relu", lambda x: x * 0),
    "torch: layers": alters(nn.Linear, "forward", lambda self, x: x),
    "torch: tensors": alters(torch.Tensor, "backward", nothing),
    "torch: its generator": alters(torch, "default_generator", torch.Generator()),
    "numpy: errors": does(np.seterr, all="raise"),
    "numpy: who is told": does(np.seterrcall, nothing),
    "numpy: digits": does(np.set_printoptions, precision=1),
    "numpy: its generator": does(lambda: np.random.set_bit_generator(np.random.PCG64())),
    "random": alters(random, "random", lambda: 0.5),
    "math": alters(math, "sqrt", lambda x: 0.0),
    "copy": alters(copy, "deepcopy", lambda x: x),
    "pictures": alters(Picture.Image, "resize", lambda self, *_, **__: self),
    "warnings are errors": does(warnings.simplefilter, "error"),
    "no logging": does(logging.disable, logging.CRITICAL),
    "a variable": does(os.environ.update, OMP_NUM_THREADS="7"),
    "no variables": does(os.environ.clear),
    "other variables": alters(os, "environ", {}),
    "another folder": does(os.chdir, "/"),
    "no folder": does(lambda: how.move_to_nowhere(tempfile.mkdtemp())),
    "umask": does(os.umask, 0o777),
    "signals ignored": does(signal.signal, signal.SIGUSR1, signal.SIG_IGN),
    "a handler": does(signal.signal, signal.SIGUSR2, nothing),
    "signals blocked": does(signal.pthread_sigmask, signal.SIG_BLOCK, {2, 15}),
    "an alarm": does(signal.setitimer, signal.ITIMER_REAL, 0.3),
    "few files": does(resource.setrlimit, resource.RLIMIT_NOFILE, (64, 4096)),
    "small files": does(resource.setrlimit, resource.RLIMIT_FSIZE, (1 << 20, 1 << 30)),
    "open files": does(how.leave_open, 400),
    "shallow recursion": does(sys.setrecursionlimit, 120),
    "short numbers": does(sys.set_int_max_str_digits, 640),
    "a trace": does(sys.settrace, nothing),
    "a hook": alters(sys, "excepthook", nothing),
    "modules from elsewhere": does(lambda: sys.path.insert(0, "/nowhere")),
    "modules from nowhere": does(lambda: sys.path.clear()),
    "a finder": does(lambda: sys.meta_path.insert(0, how.Finder())),
    "a temporary folder": alters(tempfile, "tempdir", "/nowhere"),
    "garbage is kept": does(gc.disable),
    "garbage is looked at": does(gc.callbacks.append, lambda *_: random.seed(3)),
    "a thread": does(lambda: threading.Thread(target=time.sleep, args=(100,), daemon=True).start()),
    "a hidden thread": does(_thread.start_new_thread, time.sleep, (100,)),
    "timers": does(lambda: [threading.Timer(50, nothing).start() for _ in range(20)]),
    "a low priority": does(os.nice, 1),
}
CHANGES = {name: harm._replace(noticed=True) for name, harm in CHANGES.items()}


def altered(owner: Any, name: str, value: Any, path: str) -> Harm:
    """What results pass through after a plug-in."""
    return alters(owner, name, value, f"Altered: it changed {path}.{name}")


#: these fail by name
FAILS = {
    "argsort": altered(np, "argsort", lambda a, *_, **__: np.zeros(len(a), int), "numpy"),
    "mean": altered(np, "mean", lambda *_, **__: 0.5, "numpy"),
    "isfinite": altered(np, "isfinite", lambda x: x == x, "numpy"),
    "draws": altered(np.random, "default_rng", nothing, "numpy.random"),
    "len": alters(builtins, "len", lambda x: 3, "its worker exited"),
    "another torch": does(lambda: sys.modules.update(torch=np), error="AttributeError"),
    "a child that answers": does(how.answer_twice, error="its worker"),
    "open": altered(builtins, "open", nothing, "builtins"),
    "no print": does(delattr, builtins, "print", error="Altered: it changed builtins.print"),
    "renaming": altered(os, "replace", nothing, "os"),
    "json": altered(json, "dumps", lambda *_, **__: "{}", "json"),
    "resizing": does(
        lambda: setattr(how.module("harness.data.images"), "resize", None),
        error="Altered: it changed harness.data.images.resize",
    ),
    "storing": does(
        lambda: setattr(how.module("harness.storage.store").Store, "put", nothing),
        error="Altered: it changed harness.storage.store.Store.put",
    ),
    "argsort and away": Harm(
        lambda *_: (setattr(np, "argsort", None), 1 / 0), "ZeroDivisionError: division by zero"
    ),
    "query pixels": Harm(lambda q, _: how.zero(q.images[0].pixels), "wrote to what it was handed"),
    "rubbish everywhere": does(lambda: [how.write(i) for i in range(3, 64)], error="its worker"),
    "no files": does(lambda: (os.closerange(3, 200), time.sleep(100)), error="its worker"),
    "exit 7": does(os._exit, 7, error="its worker exited with status 7"),
    "exit 0": does(os._exit, 0, error="its worker exited with status 0"),
    "sys.exit": raises(SystemExit(3), "SystemExit: 3"),
    "an interrupt": raises(KeyboardInterrupt(), "its worker died of signal SIGINT"),
    "GeneratorExit": raises(GeneratorExit(), "GeneratorExit"),
    "a bare exception": raises(BaseException("bare"), "BaseException: bare"),
    "no memory": does(lambda: np.zeros(1 << 45), error="Unable to allocate"),
    "no end of calls": does(how.call_itself, error="RecursionError"),
    "long words": raises(RuntimeError("y" * 1_000_000), "[... 1,000,000 characters ...]"),
    "strange words": raises(RuntimeError("\udcff \x1b[31m \x07"), "Error: \\udcff \\x1b[31m \\x07"),
    "no words": raises(how.Odd(), "Odd: Odd"),
    "lies": raises(how.Liar(), "Liar"),
    "a long tail": raises(how.chained(300), "ValueError: 299"),
    "a group": raises(ExceptionGroup("many", [ValueError(i) for i in range(99)]), "many"),
    "a word": answers(lambda _: "nothing", "AttributeError"),
    "scores alone": answers(lambda right: right.scores, "AttributeError"),
    "a score too few": scores(lambda s: s[1:], "scores of shape (9,), expected (10,)"),
    "a column": scores(lambda s: s[:, None], "scores of shape (10, 1)"),
    "one score": scores(lambda s: s.mean(), "scores of shape ()"),
    "no scores": scores(lambda s: None, "scores of shape ()"),
    "words": scores(lambda s: ["high"] * len(s), "could not convert string"),
    "things": scores(lambda s: [object()] * len(s), "TypeError"),
    "complex scores": scores(lambda s: s * 1j, "not real"),
    "a generator": scores(lambda s: (x for x in s), "TypeError"),
    "a lazy array": scores(lambda s: how.Lazy(), "SystemExit: looked at"),
    "a map too few": maps(lambda m: m[1:], "maps of shape (9,"),
    "one map": maps(lambda m: m[0], "maps of shape"),
    "maps in colours": maps(lambda m: m[..., None], "maps of shape"),
    "maps of nothing": maps(lambda m: m[:, :0], "maps of shape"),
    "a short part": answers(lambda r: Prediction(r.scores, r.maps, {"x": r.scores[:2]}), "'x'"),
}
FATAL = ("SEGV", "ABRT", "BUS", "ILL", "FPE", "SYS", "TRAP", "TERM", "KILL", "INT", "HUP", "QUIT")
FATAL += ("PIPE", "ALRM", "USR1", "XCPU")
FAILS |= {
    f"SIG{name}": does(
        how.die, signal.Signals[f"SIG{name}"], error=f"its worker died of signal SIG{name}"
    )
    for name in FATAL
}

#: these do not come to an end by themselves
HANGS = {
    "sleeps": does(time.sleep, 1_000, error=LATE),
    "loops": does(lambda: all(iter(lambda: True, False)), error=LATE),
    "stops": does(lambda: os.kill(os.getpid(), signal.SIGSTOP), error=LATE),
    "deaf": does(
        lambda: (signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65)), time.sleep(1_000)),
        error=LATE,
    ),
    "waits for itself": does(how.wait_for_itself, error=LATE),
    "numbers without end": scores(lambda s: list(how.without_end()), LATE),
}

#: what these do is seen in the tasks of others
LATER = {"a finalizer": does(how.Spiteful), "a finalizer again": does(how.Spiteful)}
HARMS = QUIET | CHANGES | FAILS | HANGS | LATER

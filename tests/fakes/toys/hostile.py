"""Methods that do to their process, or to what they were handed, what would harm others."""

from __future__ import annotations

import os
import sys
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from harness.interface import Features, Image, Prediction, Queries, Support
from toys.methods import Near


def zero(array: Any) -> None:
    """Write over numpy's flag, as a careless ``torch.from_numpy(...).mul_()`` does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.from_numpy(array).mul_(0)


class Writes(Near):
    """Zeroes what it is handed, and answers as if nothing were.

    Parameters
    ----------
    where : what it writes to
    late : it keeps it, and writes when it is asked about another category
    """

    personalized = True
    shots = range(1, 1_000)
    preload = ("torch",)

    def __init__(self, *, where: str, late: bool = False) -> None:
        super().__init__()
        self.where = where
        self.late = late
        self.kept: list[Any] = []

    def setup(self, device: str, features: Features) -> None:
        super().setup(device, features)
        self.model = shared_model(features)

    def fit(self, support: Support) -> None:
        super().fit(support)
        self.support = support

    def predict(self, queries: Queries) -> Prediction:
        for array in self.kept:
            zero(array)
        prediction = super().predict(queries)
        self.model(torch.zeros(1, 3))
        targets: dict[str, Callable[[], Any]] = {
            "query": lambda: queries.images[0].pixels,
            "support": lambda: self.support.images[0].pixels,
            "pool": lambda: self.support.pool[-1].pixels,
            "personalized": lambda: queries.personalized[0].pixels,
            "customized": lambda: self.support.customized["mean"],
            "record": lambda: self.vectors(queries.images)[0],
            "tensor": lambda: tensors(self.features, queries.images)[0]["x"].numpy(),
            "model": lambda: self.model.weight.detach().numpy(),
            "nothing": lambda: np.zeros(3),
        }
        target = targets[self.where]()
        if self.late:
            self.kept = [target]
        else:
            zero(target)
        return prediction


def shared_model(features: Features) -> torch.nn.Linear:
    """A model of all methods of a worker."""
    return features.get_or_create("linear", lambda: torch.nn.Linear(3, 1))  # type: ignore[no-any-return]


def tensors(features: Features, images: tuple[Image, ...]) -> list[dict[str, torch.Tensor]]:
    """Records of tensors, in containers."""

    def compute(some: Any) -> list[Any]:
        return [{"x": torch.from_numpy(np.array(i.pixels)).double()} for i in some]

    return features.get_or_compute("tensors", images, compute)


class Reads(Near):
    """Uses everything that others may have written to."""

    personalized = True
    shots = range(1, 1_000)
    preload = ("torch",)

    def setup(self, device: str, features: Features) -> None:
        super().setup(device, features)
        self.model = shared_model(features)

    def fit(self, support: Support) -> None:
        super().fit(support)
        self.extra = sum(float(i.pixels.mean()) for i in (*support.images, *support.pool))
        self.extra += float(support.customized["mean"].mean())

    def predict(self, queries: Queries) -> Prediction:
        prediction = super().predict(queries)
        own = np.array([i.pixels.mean() for i in queries.personalized])
        records = tensors(self.features, queries.images)
        own += [float(record["x"].mean()) for record in records]
        own += np.argsort([i.pixels.std() for i in queries.images])
        own += float(self.model(torch.ones(1, 3)).detach()) * 0 + self.extra
        return Prediction((prediction.scores * own).astype(np.float32), prediction.maps)


class Sensitive(Near):
    """Its scores depend on what a process shares without asking."""

    preload = ("torch",)

    def predict(self, queries: Queries) -> Prediction:
        prediction = super().predict(queries)
        weights = torch.full((len(prediction.scores),), 1 / 3, requires_grad=True)
        (weights * weights).sum().backward()
        warnings.warn("nobody minds", stacklevel=1)
        with np.errstate(invalid="ignore"):
            ranks = np.argsort(prediction.scores)
        np.array([1e300]) * 1e300
        print("a word", file=sys.stderr)
        extra = ranks + weights.detach().numpy().astype(np.float64) + float(weights.grad.sum())
        extra += len(os.environ.get("OMP_NUM_THREADS", "")) + (os.getcwd() == "/")
        return Prediction((prediction.scores + extra).astype(np.float64), prediction.maps)  # type: ignore[arg-type]


class Harms(Near):
    """Does something to its process while it predicts.

    Parameters
    ----------
    how : what
    """

    preload = ("torch",)

    def __init__(self, *, how: str) -> None:
        super().__init__()
        self.how = how

    def predict(self, queries: Queries) -> Prediction:
        prediction = super().predict(queries)
        HARMS[self.how]()
        return prediction


def _thread() -> None:
    threading.Thread(target=time.sleep, args=(100,), daemon=True).start()


def _patched() -> None:
    np.argsort = lambda a, *_, **__: np.zeros(len(a), int)


def _broken() -> None:
    np.argsort = None  # type: ignore[assignment]
    raise RuntimeError("argsort is gone")


def _own_module() -> None:
    import harness.data.images as images

    images.resize = None  # type: ignore[assignment]


def _fork() -> None:
    os.fork()


def _silent() -> None:
    os.closerange(3, 200)
    time.sleep(100)


class Odd(Exception):
    """An exception that cannot even be shown."""

    def __str__(self) -> str:
        raise ValueError("no words")


def _raise(error: BaseException) -> Callable[[], None]:
    def go() -> None:
        raise error

    return go


#: what a method does at the end of a prediction that is otherwise right
HARMS: dict[str, Callable[[], Any]] = {
    "argsort replaced": _patched,
    "argsort gone": _broken,
    "engine replaced": _own_module,
    "stderr closed": lambda: os.close(2),
    "stdout closed": lambda: sys.stdout.close(),
    "float64": lambda: torch.set_default_dtype(torch.float64),
    "no gradients": lambda: torch.set_grad_enabled(False),
    "seterr": lambda: np.seterr(all="raise"),
    "warnings": lambda: warnings.simplefilter("error"),
    "environment": lambda: os.environ.update(OMP_NUM_THREADS="7"),
    "elsewhere": lambda: os.chdir("/"),
    "thread": _thread,
    "fork": _fork,
    "files closed": _silent,
    "output": lambda: print("x" * 1_000_000),
    "long words": _raise(RuntimeError("y" * 1_000_000)),
    "strange words": _raise(RuntimeError("\udcff \x1b[31m red \x07")),
    "no words": _raise(Odd()),
}

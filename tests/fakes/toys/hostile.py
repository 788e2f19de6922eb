"""Methods that do to their process, or to what they were handed, what would harm others."""

from __future__ import annotations

import copy
import json
import math
import os
import random
import sys
import tempfile
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image as Picture
from torch import nn

from harness.interface import Features, Image, Prediction, Queries, Support
from toys._harms import zero
from toys.harms import HARMS
from toys.methods import Near


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
        right = super().predict(queries)
        count = len(right.scores)
        weights = torch.full((count,), 1 / 3, requires_grad=True)
        (nn.functional.relu(weights) * weights).sum().backward()
        layer = nn.Linear(3, 1)
        warnings.warn("nobody minds", stacklevel=1)
        with np.errstate(invalid="ignore"):
            ranks = np.argsort(right.scores)
        np.array([1e300]) * 1e300
        print("a word", file=sys.stderr)
        picture = Picture.fromarray(queries.images[0].pixels).resize((4, 4))
        with tempfile.TemporaryFile("w+") as file:
            json.dump([random.random(), *ranks.tolist()], file)
            file.seek(0)
            drawn = json.load(file)[0]
        numbers = [
            float(weights.grad.sum()),
            float(layer(torch.ones(1, 3)).detach().sum()),
            float(torch.randn(()) + np.random.random()) + drawn,  # noqa: NPY002
            float(np.asarray(picture).mean()),
            math.sqrt(count) + float(str(np.float32(1 / 3))) + 1e-310 * count * 1e300,
            len(os.environ.get("OMP_NUM_THREADS", "")) + (os.getcwd() == "/"),
            *copy.deepcopy([torch.get_num_threads(), sys.getrecursionlimit() // 1_000]),
        ]
        extra = ranks + weights.detach().numpy().astype(np.float64) + math.fsum(numbers)
        return Prediction((right.scores + extra).astype(np.float64), right.maps)  # type: ignore[arg-type]


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
        right = super().predict(queries)
        answer = HARMS[self.how].do(queries, right)
        return answer[0] if isinstance(answer, tuple) and len(answer) == 1 else right

"""One seed for every source of randomness. Beside plug-ins, only ``preload`` touches torch, too."""

from __future__ import annotations

import random
import sys
from collections.abc import Collection

import numpy as np

from harness import plugins


def prepare(imports: Collection[str], threads: int) -> None:
    """Load torch before anything is seeded, if the plug-in will use it, and fix its threads.

    On GPUs, kernels are those that give the same bits each time, in full float32. Where torch is
    loaded already this is done for any task, so that no later one finds its settings changed.
    """
    if "torch" in sys.modules or any(name in imports for name in plugins.HEAVY):
        import torch

        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)


def seed(key: str, imports: Collection[str] = ()) -> int:
    """Seed python, numpy and torch from a hexadecimal key; the 63-bit seed used."""
    value = int(key[:16], 16) >> 1
    random.seed(value)
    np.random.seed(value % 2**32)  # noqa: NPY002 - what plug-ins may draw from without asking
    if any(name in imports for name in plugins.HEAVY):
        import torch

        torch.manual_seed(value)
    return value


def device(gpus: float) -> str:
    """Device of a task: "cuda" where it was given a GPU that torch sees, else "cpu"."""
    if gpus > 0:
        try:
            import torch
        except ModuleNotFoundError:
            return "cpu"
        if torch.cuda.is_available():
            return "cuda"
    return "cpu"

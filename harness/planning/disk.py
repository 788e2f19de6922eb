"""The disk a plan needs, and what the storage has: customized models are most of it."""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from harness.planning.costs import Estimator
from harness.planning.graph import Plan
from harness.tasks.kinds import Customize


@dataclass(frozen=True)
class Need:
    """Estimates in megabytes."""

    others: float  # all artifacts but customized models
    models: float  # customized models, all of them
    most: float  # those of the category that has most

    def total(self, keep_models: bool) -> float:
        """What is there at once: of models that are not kept, a category's at the most."""
        return self.others + (self.models if keep_models else self.most)


def need(estimator: Estimator, graph: Plan, todo: Collection[str]) -> Need:
    """What the artifacts of the tasks to do take."""
    others, models = 0.0, defaultdict[int, float](float)
    for key in todo:
        task = graph.tasks[key]
        size = estimator.megabytes(task)
        if isinstance(task, Customize):
            models[task.category] += size
        else:
            others += size
    return Need(others, sum(models.values()), max(models.values(), default=0.0))


def free(storage: Path) -> float:
    """Megabytes left where a local storage is, or will be."""
    place = next(p for p in (storage, *storage.parents) if p.exists())
    return shutil.disk_usage(place).free / 1e6


def lines(needed: Need, left: float | None, keep_models: bool) -> list[str]:
    """What ``plan`` says of it; with a warning where there is less than needed.

    Parameters
    ----------
    left : megabytes, None where nobody knows
    keep_models : the sweep's setting
    """
    total = needed.total(keep_models)
    free = "" if left is None else f", {left / 1000:,.1f} GB are free"
    models = f"{needed.models / 1000:,.1f} GB of customized models"
    kept = "among it" if keep_models else "each removed when nothing needs it any more"
    text = [f"Disk: {total / 1000:,.1f} GB{f' ({models}, {kept})' if needed.models else ''}{free}."]
    if left is not None and total > left:
        hint = "; keep_models: false needs " + f"{needed.total(False) / 1000:,.1f} GB"
        text.append(f"! the storage has less room than the plan needs{hint if keep_models else ''}")
    return text

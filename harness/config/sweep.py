"""What a sweep's YAML may hold: the keys of its entries, their types, bounds and defaults."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Annotated, Any, Literal

import pydantic
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

#: A plain file name: it becomes a folder or file below the storage folder and must stay there.
PLAIN = r"[A-Za-z0-9][A-Za-z0-9._+=-]{0,99}"
Name = Annotated[str, Field(pattern=rf"^{PLAIN}$")]
Count = Annotated[int, Field(ge=0, le=1_000_000, strict=True)]
Words = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Listed = Annotated[list[str], Field(min_length=1)]
Use = Annotated[str, Field(min_length=1, max_length=500)]
Params = dict[str, Any]


class Frozen(BaseModel):
    """An entry that refuses unknown keys and cannot be changed."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Subset(Frozen):
    """How many queries of each kind; anomalous ones are drawn evenly over the kinds of defect."""

    normal: Count
    anomalous: Count
    seed: Count = 0

    @pydantic.model_validator(mode="after")
    def _some(self) -> Subset:
        if not self.normal + self.anomalous:
            raise ValueError("expected at least one query, normal or anomalous")
        return self


class DatasetEntry(Frozen):
    """A dataset of the sweep."""

    use: Use
    params: Params = {}
    categories: Listed | None = None  # None: all
    queries: Subset | Annotated[list[str], Field(min_length=1)] | None = (
        None  # None: the whole test split; or names of images
    )
    support: str | None = None  # file with somebody else's references, beside the config
    object_names: dict[str, Words] = {}  # category -> words for prompts
    label: Name | None = None


class MethodEntry(Frozen):
    """A method of the sweep."""

    use: Use
    params: Params = {}
    grid: dict[str, list[Any]] = {}  # parameter -> values: one method per combination
    generator: str | None = None
    label: Name | None = None
    shots: Annotated[list[Count], Field(min_length=1)] | None = None  # instead of the sweep's
    auxiliary: Literal["leave-one-out"] | None = None  # other categories of the tested dataset
    #: of a method that trains on auxiliary data: anew for each seed, so that its spread over seeds
    #: is of training and of supports; or once for all of them, which leaves that of supports
    training: Literal["per-seed", "once"] = "per-seed"


class GeneratorEntry(Frozen):
    """A generator that methods may name."""

    use: Use
    params: Params = {}
    pool: Annotated[int, Field(ge=1, le=1_000_000, strict=True)] = (
        30  # anomaly-free images in all, support included
    )
    generated: Count | None = None  # instead of ``pool``: images added to the support

    @pydantic.model_validator(mode="after")
    def _one_size(self) -> GeneratorEntry:
        if self.generated is not None and "pool" in self.model_fields_set:
            raise ValueError("expected pool or generated, not both")
        return self

    def added(self, shots: int) -> int:
        """How many images it adds to a support of so many."""
        return max(0, self.pool - shots) if self.generated is None else self.generated


class Sweep(Frozen):
    """One YAML file: the whole grid."""

    name: Name
    description: str = ""
    datasets: Annotated[list[DatasetEntry], Field(min_length=1)]
    methods: Annotated[list[MethodEntry], Field(min_length=1)]
    generators: dict[str, GeneratorEntry] = {}
    shots: Annotated[list[Count], Field(min_length=1)]
    seeds: Annotated[list[Count], Field(min_length=1)]
    auxiliary: list[DatasetEntry] = []  # in order of preference; the tested one is passed over
    seed: Count = 0  # of the whole sweep: mixed into every draw
    maps: bool = True  # False: image scores only
    evaluation_size: Annotated[int, Field(ge=16, le=4096, strict=True)] = 256  # of pixel metrics
    shard: Annotated[int, Field(ge=1, strict=True)] = 100  # most queries in one task
    threads: Annotated[int, Field(ge=1, le=256, strict=True)] = 1  # per worker
    #: gigabytes that the caches of a worker hold together; None: a share of what the machine has
    memory: Annotated[float, Field(gt=0, le=10_000)] | None = None
    keep_models: bool = True  # False: a customized model goes when nothing needs it any more
    time_limit: Annotated[float, Field(gt=0, le=10_000_000)] = 3600.0  # seconds, of one task
    attempts: Annotated[int, Field(ge=1, le=10, strict=True)] = 2  # of a task whose worker died
    gallery: Count = 4  # most and least anomalous queries of a cell kept as pictures

    def digest(self) -> str:
        """Hash of all that decides results; neither description nor limits on effort count."""
        idle = {"description", "time_limit", "attempts", "keep_models", "memory"}
        body = self.model_dump(mode="json", exclude=idle)
        return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def method_label(m: MethodEntry) -> str:
    """What a method is called in tables: its label, or its name and its generator's."""
    return m.label or plain(m.use) + (f"+{plain(m.generator)}" if m.generator else "")


def labelled(sweep: Sweep) -> Sweep:
    """The sweep with a label for every method and dataset."""
    methods = [m.model_copy(update={"label": method_label(m)}) for m in sweep.methods]
    datasets = [d.model_copy(update={"label": d.label or plain(d.use)}) for d in sweep.datasets]
    return sweep.model_copy(update={"methods": methods, "datasets": datasets})


def plain(text: str) -> str:
    """A plain name that recalls the text: "my_pkg.mod:Mine" -> "Mine", "../a/mine.py" -> "mine"."""
    last = re.sub(r"\.py$", "", text.rpartition(":")[2].rpartition("/")[2])
    return re.sub(r"[^A-Za-z0-9._+=-]+", "-", last).strip("-.+=") or "unnamed"

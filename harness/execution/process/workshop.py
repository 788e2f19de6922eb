"""What a worker keeps from task to task: plug-ins set up and fitted, pictures, features, artifacts.

The functions that do tasks (``work``) ask it for what they need and hand it what they made.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from harness import config, plugins
from harness.data.opening import open_dataset
from harness.execution.memory import allowance
from harness.execution.memory.cache import Budget, Decoder, FeatureMemory, HandedImage, Memory
from harness.execution.memory.reuse import Counter
from harness.execution.memory.seals import Seals
from harness.execution.memory.stopwatch import Stopwatch
from harness.execution.outcome import Changed, Missing
from harness.execution.process import seeding
from harness.execution.process.process_state import ProcessState
from harness.execution.process.provenance import Maker
from harness.interface import Arrays, Dataset, Generator, Image, Method, Sample, Support
from harness.keys import hashed
from harness.storage.store import Damaged, Store
from harness.tasks import kinds
from harness.tasks.references import DatasetUse, PluginUse, Source, SupportUse
from harness.tasks.task import Payload, Task

MB = 1 << 20
SETUP = "0" * 32  # seeds every plug-in while it is set up
SHARED = tuple(name for name, task in kinds.KINDS.items() if task.shared)


class Workshop:
    """What one process has at hand, and keeps warm for its next task.

    Parameters
    ----------
    storage : root of the store, a path or URI
    data_root : folder of datasets on this machine, or None
    gpus : share of a GPU this worker holds
    memory_mb : megabytes that all caches hold together at most; None: a share of the machine's
    commit : of the checkout, for the record of who made what
    """

    def __init__(
        self,
        storage: str,
        data_root: str | None = None,
        gpus: float = 0.0,
        memory_mb: int | None = None,
        commit: str = "",
    ) -> None:
        self.store = Store(storage, SHARED)
        self.maker = Maker(commit)
        self.store.author = self.maker.record
        self.data_root, self.gpus = data_root, gpus
        self.counter, self.watch, self.seals = Counter(), Stopwatch(), Seals()
        most = allowance.caches_mb(None, None, 1) if memory_mb is None else memory_mb
        self.budget = Budget(most * MB)
        most, shared = self.budget.limit, (self.counter, self.watch, self.seals, self.budget)
        # Decoded pictures pass by in long rows, each perhaps once: they never push out the rest.
        self.features = FeatureMemory(most, *shared)
        self.decoder = Decoder(most // 4, 1, *shared)
        self.artifacts = Memory(most // 8, self.seals, self.budget)
        self.process, self.pid = ProcessState(), os.getpid()
        self._datasets: dict[str, Dataset] = {}
        self._plugins: dict[str, Any] = {}
        self._fitted: dict[str, Any] = {}  # plug-in -> what it was last fitted to or loaded with

    def begin(self, payload: Payload) -> None:
        """Have clocks, seals and records know that another task begins."""
        self.watch.start()
        self.decoder.forgive()
        self.seals.begin(payload.plugin)
        self.maker.begin(payload)

    def has(self, payload: Payload) -> bool:
        """Whether the task's artifact is there, so that nothing need be called."""
        return not payload.publishes and self.store.has(payload.task.kind, payload.task.key)

    def prepare(self, payload: Payload) -> None:
        """Set threads and libraries as the task's plug-in is promised them."""
        with self.watch.stage("setup"):
            seeding.prepare(payload.imports, payload.threads)

    def fit(self, method: Method, payload: kinds.PredictPayload) -> None:
        """Fit the method to the task's support unless it is already."""
        task, name = payload.task, payload.method.id
        fit = hashed(name, task.support, task.trained or "", task.pool or "")
        if self._fitted.get(name) == fit:
            return
        self._fitted.pop(name, None)
        seed_for(task.draw, payload)
        with self.watch.stage("fit"), self.seals.fitting():
            if task.trained is not None:
                method.load(self.get(kinds.Train, task.trained))
            method.fit(self.support(payload.support))
        self._fitted[name] = fit

    def support(self, support: SupportUse) -> Support:
        """The support with its images, and what a generator made of them."""
        dataset = self.dataset(support.dataset)
        images = self.references(dataset, support.images)
        pool: tuple[Image, ...] = ()
        customized: Arrays = {}
        if support.pool is not None:
            pictures = self.get(kinds.Generate, support.pool)
            added = (HandedImage(f"{support.pool}/{n}", pictures[n]) for n in sorted(pictures))
            pool = (*images, *added)
        if support.customized is not None:
            customized = self.get(kinds.Customize, support.customized)
        rest = support.object_name, support.seed, pool, customized, type(dataset).orientation
        return Support(images, *rest)

    def customized(self, payload: kinds.GeneratePayload | kinds.PersonalizePayload) -> Generator:
        """The generator with the state that the task needs."""
        generator: Generator = self.plugin(payload.generator)
        name, state = payload.generator.id, payload.task.customized
        if self._fitted.get(name) != state:
            self._fitted.pop(name, None)
            seed_for(payload.task.draw, payload)
            with self.watch.stage("fit"), self.seals.fitting():
                changes = self.get(kinds.Customize, state)
                generator.load(changes, self.support(payload.support))
            self._fitted[name] = state
        return generator

    def plugin(self, use: PluginUse) -> Any:
        """The plug-in, set up; made once per process."""
        if use.id not in self._plugins:
            seeding.seed(SETUP, use.imports)
            with self.watch.stage("setup"):
                plugin = config.build(use.role, use.use, dict(use.params))
                _as_planned(plugin, use)
                plugin.setup(seeding.device(self.gpus), self.features)
            self._plugins[use.id] = plugin
        return self._plugins[use.id]

    def make_room(self, plugin: str) -> None:
        """Before a plug-in is customized: forget what it was fitted to, and leave only it and what
        it shares on the GPU; others are set up anew later.
        """
        self._fitted.pop(plugin, None)
        if seeding.device(self.gpus) != "cpu":
            self._plugins = {plugin: self._plugins[plugin]}
            self._fitted = {}
            self.features.unload(self.seals.shared_with(plugin))

    def forget(self, payload: Payload) -> None:
        """After an error a plug-in may be in any state: make it anew next time."""
        if payload.plugin is not None:
            self._plugins.pop(payload.plugin.id, None)
            self._fitted.pop(payload.plugin.id, None)

    def dataset(self, use: DatasetUse) -> Dataset:
        """The dataset, opened; once per process."""
        name = json.dumps([use.use, use.params], sort_keys=True)
        if name not in self._datasets:
            dataset = open_dataset(use.use, dict(use.params), self.data_root)
            _as_planned(dataset, use)
            self._datasets[name] = dataset
        return self._datasets[name]

    def images(self, dataset: Dataset, samples: list[Sample], stem: str) -> tuple[Image, ...]:
        """Samples as images, whose keys begin with ``stem``."""
        return self.decoder.images(dataset, [(s, f"{stem}/{s.name}") for s in samples])

    def references(self, dataset: Dataset, sources: Sequence[Source]) -> tuple[Image, ...]:
        """Images that a payload refers to."""
        return self.decoder.images(dataset, [(s.sample, s.key) for s in sources])

    def get(self, task: type[Task], key: str) -> Arrays:
        """Arrays of the artifact that a task of this kind has left in the store."""
        kind = task.kind
        arrays: Arrays | None = self.artifacts.get((kind, key))
        if arrays is not None:
            self.counter.hit(f"read {kind}")
            return arrays
        try:
            with self.watch.stage("read"):
                arrays, _ = self.store.get(kind, key)
        except (FileNotFoundError, Damaged) as error:
            raise Missing(key, error) from error
        self.counter.miss(f"read {kind}", [key])
        self.artifacts.put((kind, key), arrays, f"arrays of {kind} {key[:12]}")
        return arrays

    def put(self, payload: Payload, arrays: Arrays, meta: Any = None) -> None:
        """Leave the task's artifact in the store, if nothing happened that it must not hold.

        Raises
        ------
        DataError
            An image could not be read, and the plug-in went on without it.
        RuntimeError
            The plug-in altered what is not its own.
        TypeError
            ``arrays`` is no dict.
        """
        if self.decoder.failure is not None:  # and the plug-in went on without the image
            raise self.decoder.failure
        if os.getpid() != self.pid:  # see ``Worker.run``
            os._exit(0)
        self.seals.check()
        self.process.check()
        if not isinstance(arrays, Mapping):
            raise TypeError(f"expected a dict of arrays, got {type(arrays).__name__}")
        with self.watch.stage("write"):
            self.store.put(payload.task.kind, payload.task.key, arrays, meta)

    def counters(self) -> dict[str, float]:
        """How many images were encoded and decoded so far, and how many encodings were there."""
        return {
            "encoded": self.features.computed,
            "encodings_reused": self.features.reused,
            "decoded": self.decoder.decoded,
        }


def seed_for(draw: str, payload: Payload) -> int:
    """Seed all that the payload's plug-in may draw from; the seed."""
    return seeding.seed(draw, payload.imports)


def _as_planned(plugin: Any, use: PluginUse | DatasetUse) -> None:
    """Refuse a plug-in whose code was changed since the sweep was planned."""
    code = use.code
    if code and plugins.changed(type(plugin), code.files, code.contents, code.source):
        raise Changed(use.use)

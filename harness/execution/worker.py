"""Runs one task in one process and keeps warm what the next one may need. Plain Python, no Ray.

A task comes as a payload, reads the artifacts it needs from the store and leaves its own there;
only a small outcome goes back.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from functools import singledispatchmethod
from typing import Any

import numpy as np

from harness import config
from harness.data.images import rgb
from harness.data.opening import open_dataset
from harness.errors import traced
from harness.execution import allowance, seeding, statistics
from harness.execution.cache import Budget, Decoder, FeatureMemory, HandedImage, Memory, read_mask
from harness.execution.outcome import Missing, Outcome
from harness.execution.process_state import ProcessState
from harness.execution.promises import checked
from harness.execution.provenance import Maker
from harness.execution.reuse import Counter
from harness.execution.seals import Seals
from harness.execution.stopwatch import UNMEASURED, Meter, Stopwatch, by_pool, by_stage
from harness.interface import (
    Arrays,
    Auxiliary,
    AuxiliaryCategory,
    Dataset,
    Generator,
    Image,
    Method,
    Queries,
    Sample,
    Support,
)
from harness.keys import hashed
from harness.planning import kinds
from harness.planning.references import DatasetUse, PluginUse, Source, SupportUse
from harness.planning.task import Payload, Task
from harness.results import evaluation, publishing
from harness.storage.repeats import Repeats
from harness.storage.store import Damaged, Store
from harness.sweep import plain

MB = 1 << 20
SHARED = tuple(name for name, task in kinds.KINDS.items() if task.shared)


class Worker:
    """One process's memory and the tasks it runs, one at a time.

    Parameters
    ----------
    storage : root of the store, a path or URI
    data_root : folder of datasets on this machine, or None
    gpus : share of a GPU this worker holds
    memory_gb : gigabytes that all caches hold together at most; None: a share of the machine's,
        by how many workers are ``beside`` each other, or fit there with ``threads`` cores each
    commit : of the checkout, for the record of who made what
    """

    def __init__(
        self,
        storage: str,
        data_root: str | None = None,
        gpus: float = 0.0,
        memory_gb: float | None = None,
        beside: int | None = None,
        threads: int = 1,
        commit: str = "",
    ) -> None:
        self.store = Store(storage, SHARED)
        self.maker = Maker(commit)
        self.store.author = self.maker.record
        self.data_root, self.gpus = data_root, gpus
        self.counter, self.watch, self.meter = Counter(), Stopwatch(), Meter()
        self.seals = Seals()
        self.budget = Budget(allowance.caches_mb(memory_gb, beside, threads) * MB)
        most, shared = self.budget.limit, (self.counter, self.watch, self.seals, self.budget)
        # Decoded pictures pass by in long rows, each perhaps once: they never push out the rest.
        self.features = FeatureMemory(most, *shared)
        self.decoder = Decoder(most // 4, 1, *shared)
        self._artifacts = Memory(most // 8, self.seals, self.budget)
        self._process, self._pid = ProcessState(), os.getpid()
        self._datasets: dict[str, Dataset] = {}
        self._plugins: dict[str, Any] = {}
        self._fitted: dict[str, Any] = {}  # plug-in -> what it was last fitted to or loaded with
        self._free = time.perf_counter()  # since when it has waited for a task

    def run(self, payload: Payload) -> Outcome:
        """Do one task; never raises, except for what must end the process."""
        task, outcome = payload.task, Outcome(payload.task.key)
        idle = time.perf_counter() - self._free
        before = self._counters()
        self.begin(payload)
        outcome.stages |= {"idle_s": idle, "started": time.time(), "gpus": self.gpus}
        done = False  # already, so that nothing need be called
        try:
            if payload.repeat:
                self.store = Repeats(self.store.root, SHARED, task.kind, task.key)
            outcome.reused = done = not payload.publishes and self.store.has(task.kind, task.key)
            if not done:
                self.meter.start()
                with self.watch.stage("setup"):
                    seeding.prepare(payload.imports, payload.threads)
                self._process.note(payload.plugin)
                self._do(payload, outcome)
        except KeyboardInterrupt:
            raise
        except BaseException as raised:  # also SystemExit: a plug-in must not end the sweep
            error = self.decoder.failure or raised
            if self.decoder.failure is not None:
                self.features.forget()
            outcome.fail(error, traced(raised))
            self._forget(payload)
        if not done:  # else nothing was called that could change anything
            outcome.replace = outcome.replace or self._process.changed()
        if isinstance(self.store, Repeats):
            outcome.differs = self.store.differences
            outcome.replace = "each task of an audit has a fresh one"
        if os.getpid() != self._pid:  # a child that a plug-in forked and that came back here
            os._exit(0)
        after = self._counters()
        outcome.stages |= {name: after[name] - before[name] for name in after}
        outcome.stages |= self.meter.stop() if not done else UNMEASURED
        if not outcome.missing:  # else the task is given out again: told with the next one
            outcome.shared = self.counter.take()
        seconds = self.watch.stop()
        self._free = time.perf_counter()
        outcome.stages |= by_stage(seconds)
        asked = {n: misses + reused for n, (misses, _, reused) in outcome.shared.items()}
        outcome.pools = by_pool(seconds, asked)
        return outcome

    def begin(self, payload: Payload) -> None:
        """Have clocks, seals and records know that another task begins."""
        self.watch.start()
        self.decoder.forgive()
        self.seals.begin(payload.plugin)
        self.maker.begin(payload)

    @singledispatchmethod
    def _do(self, payload: Payload, outcome: Outcome) -> None:
        """Make the task's artifact. One function per kind of task; this one is for none of them."""
        raise NotImplementedError(f"no worker does {payload.task.kind}")

    @_do.register
    def _train(self, payload: kinds.TrainPayload, outcome: Outcome) -> None:
        method: Method = self._plugin(payload.method)
        use = payload.auxiliary
        dataset = self._dataset(use.dataset)
        categories = []
        for name in use.categories:
            stem = f"{use.id}/{name}"
            train, test = dataset.train(name), dataset.test(name)
            words = use.object_names.get(name) or dataset.object_name(name)
            labels = np.array([s.label for s in test], dtype=np.int64)
            categories.append(
                AuxiliaryCategory(
                    name,
                    words,
                    self._images(dataset, train, stem),
                    self._images(dataset, test, stem),
                    labels,
                    lambda i, test=test: read_mask(dataset, test[i]),  # type: ignore[misc]
                )
            )
        seed = _seed(payload.task.key, payload)
        origin = plain(use.dataset.use), use.held_out
        auxiliary = Auxiliary(tuple(categories), payload.task.shots, seed, *origin)
        with self.watch.stage("work"):
            state = method.train(auxiliary)
        self._put(payload, state)

    @_do.register
    def _prepare(self, payload: kinds.PreparePayload, outcome: Outcome) -> None:
        generator: Generator = self._plugin(payload.generator)
        seed = _seed(payload.task.key, payload)
        with self.watch.stage("work"):
            state = generator.prepare(payload.task.object_name, seed)
        self._put(payload, state)

    @_do.register
    def _customize(self, payload: kinds.CustomizePayload, outcome: Outcome) -> None:
        task, generator = payload.task, self._plugin(payload.generator)
        prior = self._get(kinds.Prepare, task.prepared) if task.prepared is not None else {}
        support = self._support(payload.support)
        self._fitted.pop(payload.generator.id, None)
        self._clear_gpu(payload.generator.id)
        _seed(task.key, payload)
        with self.watch.stage("work"):
            state = generator.customize(support, prior)
        self._put(payload, state)

    @_do.register
    def _generate(self, payload: kinds.GeneratePayload, outcome: Outcome) -> None:
        generator = self._customized(payload)
        seed = _seed(payload.task.customized, payload)  # whatever else is asked
        n = payload.task.generated
        with self.watch.stage("work"):
            pictures = list(generator.generate(n, seed)) if n else []
        if len(pictures) != n:
            raise ValueError(f"generate({n}) returned {len(pictures)} images")
        arrays = {f"{i:04d}": rgb(p, "generate") for i, p in enumerate(pictures)}
        self._put(payload, arrays)

    @_do.register
    def _personalize(self, payload: kinds.PersonalizePayload, outcome: Outcome) -> None:
        generator = self._customized(payload)
        dataset = self._dataset(payload.support.dataset)
        images = self._references(dataset, payload.queries)
        seed = _seed(payload.task.customized, payload)  # the same in every shard
        with self.watch.stage("work"):
            personalized = generator.personalize(images, seed)
        shape = np.shape(personalized.images)
        if len(shape) != 4 or shape[0] != len(images):
            raise ValueError(f"personalize returned images of shape {shape} for {len(images)}")
        arrays: Arrays = {"images": np.asarray(personalized.images, dtype=np.uint8)}
        if personalized.chosen is not None:
            arrays["chosen"] = np.asarray(personalized.chosen, dtype=np.int64)
        if personalized.similarity is not None:
            arrays["similarity"] = np.asarray(personalized.similarity, dtype=np.float32)
        self._put(payload, arrays, {"prompts": list(personalized.prompts)})

    @_do.register
    def _predict(self, payload: kinds.PredictPayload, outcome: Outcome) -> None:
        task, method = payload.task, self._plugin(payload.method)
        self._fit(method, payload)
        dataset = self._dataset(payload.support.dataset)
        images = self._references(dataset, payload.queries)
        personalized: tuple[Image, ...] = ()
        pictures = None
        if task.personalized is not None:
            pictures = self._get(kinds.Personalize, task.personalized)["images"]
            keys = (f"{task.personalized}/{i}" for i in range(len(pictures)))
            personalized = tuple(map(HandedImage, keys, pictures))
        _seed(task.key, payload)
        with self.watch.stage("work"):
            prediction = method.predict(Queries(images, personalized, payload.maps))
        outcome.stages["queries"] = len(images)
        arrays = evaluation.predicted(
            checked(prediction, len(images)), pictures, payload.gallery, payload.masked
        )
        self._put(payload, arrays)

    @_do.register
    def _evaluate(self, payload: kinds.EvaluatePayload, outcome: Outcome) -> None:
        task = payload.task
        try:
            with self.watch.stage("read"):
                arrays, meta = self.store.get(task.kind, task.key)
            outcome.reused = True
        except (FileNotFoundError, ValueError):
            dataset = self._dataset(payload.dataset)
            items = [(truth.sample, truth.key) for truth in payload.truth]
            parts = [self._get(kinds.Predict, key) for key in task.predictions]
            images = self.decoder.images(dataset, items)
            self.maker.needs.append(statistics.key_of(items))
            with self.watch.stage("work"):
                arrays, meta = evaluation.evaluate(
                    parts,
                    [sample for sample, _ in items],
                    images,
                    lambda sample: self.decoder.mask(dataset, sample),
                    payload.evaluation_size,
                    payload.gallery,
                    self._references(dataset, payload.support.images),
                    statistics.of_queries(self.store, self._artifacts, dataset, items, images),
                )
            with self.watch.stage("write"):
                self.store.put(task.kind, task.key, arrays, meta)
        with self.watch.stage("write"):
            for place in payload.places:
                outcome.files = publishing.publish(self.store, place, arrays, meta)
        outcome.row = meta["row"]

    # What they share.

    def _fit(self, method: Method, payload: kinds.PredictPayload) -> None:
        """Fit the method to the task's support unless it is already."""
        task, name = payload.task, payload.method.id
        fit = hashed(name, task.support, task.trained or "", task.pool or "")
        if self._fitted.get(name) == fit:
            return
        self._fitted.pop(name, None)
        _seed(fit, payload)
        with self.watch.stage("fit"), self.seals.fitting():
            if task.trained is not None:
                method.load(self._get(kinds.Train, task.trained))
            method.fit(self._support(payload.support))
        self._fitted[name] = fit

    def _support(self, support: SupportUse) -> Support:
        dataset = self._dataset(support.dataset)
        images = self._references(dataset, support.images)
        pool: tuple[Image, ...] = ()
        customized: Arrays = {}
        if support.pool is not None:
            pictures = self._get(kinds.Generate, support.pool)
            added = (HandedImage(f"{support.pool}/{n}", pictures[n]) for n in sorted(pictures))
            pool = (*images, *added)
        if support.customized is not None:
            customized = self._get(kinds.Customize, support.customized)
        rest = support.object_name, support.seed, pool, customized, type(dataset).orientation
        return Support(images, *rest)

    def _customized(self, payload: kinds.GeneratePayload | kinds.PersonalizePayload) -> Generator:
        """The generator with the state that the task needs."""
        generator: Generator = self._plugin(payload.generator)
        name, state = payload.generator.id, payload.task.customized
        if self._fitted.get(name) != state:
            self._fitted.pop(name, None)
            _seed(state, payload)
            with self.watch.stage("fit"), self.seals.fitting():
                changes = self._get(kinds.Customize, state)
                generator.load(changes, self._support(payload.support))
            self._fitted[name] = state
        return generator

    def _plugin(self, use: PluginUse) -> Any:
        """The plug-in, set up; made once per process."""
        if use.id not in self._plugins:
            seeding.seed(use.id, use.imports)
            with self.watch.stage("setup"):
                plugin = config.build(use.role, use.use, dict(use.params))
                plugin.setup(seeding.device(self.gpus), self.features)
            self._plugins[use.id] = plugin
        return self._plugins[use.id]

    def _clear_gpu(self, plugin: str) -> None:
        """Leave only a plug-in and what it shares on the GPU; others are set up anew later."""
        if seeding.device(self.gpus) != "cpu":
            self._plugins = {plugin: self._plugins[plugin]}
            self._fitted = {}
            self.features.unload(self.seals.shared_with(plugin))

    def _forget(self, payload: Payload) -> None:
        """After an error a plug-in may be in any state: make it anew next time."""
        if payload.plugin is not None:
            self._plugins.pop(payload.plugin.id, None)
            self._fitted.pop(payload.plugin.id, None)

    def _dataset(self, use: DatasetUse) -> Dataset:
        name = json.dumps([use.use, use.params], sort_keys=True)
        if name not in self._datasets:
            self._datasets[name] = open_dataset(use.use, dict(use.params), self.data_root)
        return self._datasets[name]

    def _images(self, dataset: Dataset, samples: list[Sample], stem: str) -> tuple[Image, ...]:
        return self.decoder.images(dataset, [(s, f"{stem}/{s.name}") for s in samples])

    def _references(self, dataset: Dataset, sources: Sequence[Source]) -> tuple[Image, ...]:
        return self.decoder.images(dataset, [(s.sample, s.key) for s in sources])

    def _get(self, task: type[Task], key: str) -> Arrays:
        """Arrays of the artifact that a task of this kind has left in the store."""
        kind = task.kind
        arrays: Arrays | None = self._artifacts.get((kind, key))
        if arrays is not None:
            self.counter.hit(f"read {kind}")
            return arrays
        try:
            with self.watch.stage("read"):
                arrays, _ = self.store.get(kind, key)
        except (FileNotFoundError, Damaged) as error:
            raise Missing(key, error) from error
        self.counter.miss(f"read {kind}", [key])
        self._artifacts.put((kind, key), arrays, f"arrays of {kind} {key[:12]}")
        return arrays

    def _put(self, payload: Payload, arrays: Arrays, meta: Any = None) -> None:
        if self.decoder.failure is not None:  # and the plug-in went on without the image
            raise self.decoder.failure
        if os.getpid() != self._pid:  # see ``run``
            os._exit(0)
        self.seals.check()
        self._process.check()
        if not isinstance(arrays, Mapping):
            raise TypeError(f"expected a dict of arrays, got {type(arrays).__name__}")
        with self.watch.stage("write"):
            self.store.put(payload.task.kind, payload.task.key, arrays, meta)

    def _counters(self) -> dict[str, float]:
        return {
            "encoded": self.features.computed,
            "encodings_reused": self.features.reused,
            "decoded": self.decoder.decoded,
        }


def _seed(key: str, payload: Payload) -> int:
    """Seed all that the payload's plug-in may draw from."""
    return seeding.seed(key, payload.imports)

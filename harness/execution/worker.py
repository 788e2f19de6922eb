"""Runs one task in one process and keeps warm what the next one may need. Plain Python, no Ray.

A task comes as a mapping of plain values (``planning.payload`` writes it), reads the artifacts it
needs from the store and leaves its own there; only a small outcome goes back.
"""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from harness import config
from harness.data.images import rgb
from harness.data.opening import open_dataset
from harness.errors import DataError, one_line
from harness.execution import seeding
from harness.execution.cache import Decoder, FeatureMemory, Memory, read_mask
from harness.execution.reuse import Counter, Counts
from harness.execution.stopwatch import Meter, Stopwatch, by_pool, by_stage
from harness.interface import (
    Arrays,
    Auxiliary,
    AuxiliaryCategory,
    Dataset,
    Generator,
    Image,
    Method,
    Prediction,
    Queries,
    Sample,
    Support,
)
from harness.results import evaluation
from harness.storage.store import Damaged, Store

Payload = Mapping[str, Any]
MB = 1 << 20


class Missing(RuntimeError):
    """An artifact that a task needs is not in the store, or damaged."""

    def __init__(self, key: str, cause: Exception) -> None:
        self.key = key
        super().__init__(one_line(cause))


@dataclass
class Outcome:
    """What became of a task: failure is a value."""

    key: str
    error: str = ""  # one line; empty when it was done
    traceback: str = ""
    bad_data: bool = False  # the error is a file that is missing or damaged
    row: dict[str, Any] = field(default_factory=dict)  # evaluate: the metrics
    #: seconds by stage (``<stage>_s``), which add up to ``task_s``; counts; processor and memory
    stages: dict[str, float] = field(default_factory=dict)
    #: what tasks share in a worker ("decode", or a space of features) -> how many were asked for,
    #: and the seconds it took to make those that were not there
    pools: dict[str, tuple[int, float]] = field(default_factory=dict)
    reused: bool = False  # its artifact was there already
    missing: list[str] = field(default_factory=list)  # keys of needed artifacts that are not there
    shared: Counts = field(default_factory=dict)  # what was made and what was there; see sharing


class Worker:
    """One process's memory and the tasks it runs, one at a time.

    Parameters
    ----------
    storage : root of the store, a path or URI
    data_root : folder of datasets on this machine, or None
    gpus : share of a GPU this worker holds
    features_mb, pixels_mb : most megabytes of features and of decoded images kept
    decode_threads : threads that decode images ahead of their use
    """

    def __init__(
        self,
        storage: str,
        data_root: str | None = None,
        gpus: float = 0.0,
        features_mb: int = 3000,
        pixels_mb: int = 1000,
        decode_threads: int = 1,
    ) -> None:
        self.store = Store(storage)
        self.data_root = data_root
        self.gpus = gpus
        self.counter, self.watch, self.meter = Counter(), Stopwatch(), Meter()
        self.features = FeatureMemory(features_mb * MB, self.counter, self.watch)
        self.decoder = Decoder(pixels_mb * MB, decode_threads, self.counter, self.watch)
        self._artifacts = Memory(500 * MB)
        self._datasets: dict[str, Dataset] = {}
        self._plugins: dict[str, Any] = {}
        self._fitted: dict[str, Any] = {}  # plug-in -> what it was last fitted to or loaded with
        self._free = time.perf_counter()  # since when it has waited for a task

    def run(self, payload: Payload) -> Outcome:
        """Do one task; never raises, except for what must end the process."""
        outcome = Outcome(payload["key"])
        idle = time.perf_counter() - self._free
        self.watch.start()
        self.meter.start()
        outcome.stages |= {"idle_s": idle, "started": time.time(), "gpus": self.gpus}
        before = self._counters()
        self.decoder.forgive()
        try:
            with self.watch.stage("setup"):
                seeding.prepare(payload["imports"], payload["threads"])
            done = payload["kind"] != "evaluate" and self.store.has(payload["kind"], payload["key"])
            if done:
                outcome.reused = True
            else:
                getattr(self, f"_{payload['kind']}")(payload, outcome)
        except KeyboardInterrupt:
            raise
        except BaseException as raised:  # also SystemExit: a plug-in must not end the sweep
            error = self.decoder.failure or raised
            if self.decoder.failure is not None:
                self.features.forget()
            outcome.error = f"{type(error).__name__}: {one_line(error)}"
            outcome.bad_data = isinstance(error, DataError)
            outcome.missing = [error.key] if isinstance(error, Missing) else []
            outcome.traceback = traceback.format_exc()
            self._forget(payload)
        after = self._counters()
        outcome.stages |= {name: after[name] - before[name] for name in after}
        outcome.stages |= self.meter.stop()
        if not outcome.missing:  # else the task is given out again: told with the next one
            outcome.shared = self.counter.take()
        seconds = self.watch.stop()
        self._free = time.perf_counter()
        outcome.stages |= by_stage(seconds)
        asked = {n: made + reused for n, (made, _, reused) in outcome.shared.items()}
        outcome.pools = by_pool(seconds, asked)
        return outcome

    # One method per kind of task.

    def _train(self, payload: Payload, outcome: Outcome) -> None:
        method = self._method(payload)
        dataset = self._dataset(payload["auxiliary"])
        categories = []
        for name in payload["auxiliary"]["categories"]:
            stem = f"{payload['auxiliary']['id']}/{name}"
            train, test = dataset.train(name), dataset.test(name)
            words = payload["auxiliary"]["object_names"].get(name) or dataset.object_name(name)
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
        seed = seeding.seed(payload["key"], payload["imports"])
        auxiliary = Auxiliary(tuple(categories), payload["shots"], seed)
        with self.watch.stage("work"):
            state = method.train(auxiliary)
        self._put(payload, state)

    def _prepare(self, payload: Payload, outcome: Outcome) -> None:
        generator = self._generator(payload)
        seed = seeding.seed(payload["key"], payload["imports"])
        with self.watch.stage("work"):
            state = generator.prepare(payload["object_name"], seed)
        self._put(payload, state)

    def _customize(self, payload: Payload, outcome: Outcome) -> None:
        generator = self._generator(payload)
        prior = self._get("prepare", payload["prepare"]) if payload["prepare"] else {}
        support = self._support(payload)
        self._fitted.pop(payload["generator"]["id"], None)
        seeding.seed(payload["key"], payload["imports"])
        with self.watch.stage("work"):
            state = generator.customize(support, prior)
        self._put(payload, state)

    def _generate(self, payload: Payload, outcome: Outcome) -> None:
        generator = self._customized(payload)
        seed = seeding.seed(payload["customize"], payload["imports"])  # whatever else is asked
        n = payload["n"]
        with self.watch.stage("work"):
            made = list(generator.generate(n, seed)) if n else []
        if len(made) != n:
            raise ValueError(f"generate({n}) returned {len(made)} images")
        arrays = {f"{i:04d}": rgb(p, "generate") for i, p in enumerate(made)}
        self._put(payload, arrays)

    def _personalize(self, payload: Payload, outcome: Outcome) -> None:
        generator = self._customized(payload)
        dataset = self._dataset(payload["dataset"])
        images = self._references(dataset, payload["queries"])
        seed = seeding.seed(payload["customize"], payload["imports"])  # the same in every shard
        with self.watch.stage("work"):
            made = generator.personalize(images, seed)
        shape = np.shape(made.images)
        if len(shape) != 4 or shape[0] != len(images):
            raise ValueError(f"personalize returned images of shape {shape} for {len(images)}")
        arrays: Arrays = {"images": np.asarray(made.images, dtype=np.uint8)}
        if made.chosen is not None:
            arrays["chosen"] = np.asarray(made.chosen, dtype=np.int64)
        if made.similarity is not None:
            arrays["similarity"] = np.asarray(made.similarity, dtype=np.float32)
        self._put(payload, arrays, {"prompts": list(made.prompts)})

    def _predict(self, payload: Payload, outcome: Outcome) -> None:
        method = self._method(payload)
        self._fit(method, payload)
        dataset = self._dataset(payload["dataset"])
        images = self._references(dataset, payload["queries"])
        personalized: tuple[Image, ...] = ()
        if payload["personalize"]:
            made = self._get("personalize", payload["personalize"])["images"]
            keys = (f"{payload['personalize']}/{i}" for i in range(len(made)))
            personalized = tuple(map(Image, keys, made))
        seeding.seed(payload["key"], payload["imports"])
        with self.watch.stage("work"):
            given = method.predict(Queries(images, personalized, payload["maps"]))
        outcome.stages["queries"] = len(images)
        arrays = evaluation.predicted(
            checked(given, len(images)), payload["gallery"], payload["masks"]
        )
        if personalized:
            arrays["gallery.personalized"] = made[arrays["gallery.index"]]
        self._put(payload, arrays)

    def _evaluate(self, payload: Payload, outcome: Outcome) -> None:
        try:
            with self.watch.stage("read"):
                arrays, meta = self.store.get("evaluate", payload["key"])
            outcome.reused = True
        except (FileNotFoundError, ValueError):
            dataset = self._dataset(payload["dataset"])
            items = [
                (Sample(image, label, mask, defect, "", box and tuple(box)), key)
                for image, box, key, label, mask, defect in payload["truth"]
            ]
            parts = [self._get("predict", key) for key in payload["predict"]]
            with self.watch.stage("work"):
                arrays, meta = evaluation.evaluate(
                    parts,
                    [sample for sample, _ in items],
                    self.decoder.images(dataset, items),
                    lambda sample: self.decoder.mask(dataset, sample),
                    payload["evaluation_size"],
                    payload["gallery"],
                )
            with self.watch.stage("write"):
                self.store.put("evaluate", payload["key"], arrays, meta)
        with self.watch.stage("write"):
            for folder in payload["publish"]:
                evaluation.publish(self.store, folder, arrays, meta)
        outcome.row = meta["row"]

    # What they share.

    def _fit(self, method: Method, payload: Payload) -> None:
        """Fit the method to the order's support unless it is already."""
        name, wanted = payload["method"]["id"], payload["fit"]
        if self._fitted.get(name) == wanted:
            return
        self._fitted.pop(name, None)
        seeding.seed(wanted, payload["imports"])
        with self.watch.stage("fit"):
            if payload["train"]:
                method.load(self._get("train", payload["train"]))
            method.fit(self._support(payload))
        self._fitted[name] = wanted

    def _support(self, payload: Payload) -> Support:
        dataset = self._dataset(payload["dataset"])
        images = self._references(dataset, payload["support"])
        pool: tuple[Image, ...] = ()
        customized: Arrays = {}
        if payload.get("generate"):
            made = self._get("generate", payload["generate"])
            pool = images + tuple(
                Image(f"{payload['generate']}/{n}", made[n]) for n in sorted(made)
            )
        if payload["customize"]:
            customized = self._get("customize", payload["customize"])
        return Support(images, payload["object_name"], payload["seed"], pool, customized)

    def _customized(self, payload: Payload) -> Generator:
        generator, name = self._generator(payload), payload["generator"]["id"]
        if self._fitted.get(name) != payload["customize"]:
            self._fitted.pop(name, None)
            seeding.seed(payload["customize"], payload["imports"])
            state = self._get("customize", payload["customize"])
            with self.watch.stage("fit"):
                generator.load(state, self._support({**payload, "customize": ""}))
            self._fitted[name] = payload["customize"]
        return generator

    def _method(self, payload: Payload) -> Method:
        found: Method = self._plugin("method", payload["method"], payload["imports"])
        return found

    def _generator(self, payload: Payload) -> Generator:
        found: Generator = self._plugin("generator", payload["generator"], payload["imports"])
        return found

    def _plugin(self, kind: str, about: Mapping[str, Any], imports: Sequence[str]) -> Any:
        """The plug-in, set up; made once per process."""
        if about["id"] not in self._plugins:
            seeding.seed(about["id"], imports)
            with self.watch.stage("setup"):
                made = config.build(kind, about["use"], about["params"])
                made.setup(seeding.device(self.gpus), self.features)
            self._plugins[about["id"]] = made
        return self._plugins[about["id"]]

    def _forget(self, payload: Payload) -> None:
        """After an error a plug-in may be in any state: make it anew next time."""
        for role in ("method", "generator"):
            if payload.get(role):
                self._plugins.pop(payload[role]["id"], None)
                self._fitted.pop(payload[role]["id"], None)

    def _dataset(self, about: Mapping[str, Any]) -> Dataset:
        name = json.dumps([about["use"], about["params"]], sort_keys=True)
        if name not in self._datasets:
            self._datasets[name] = open_dataset(about["use"], about["params"], self.data_root)
        return self._datasets[name]

    def _images(self, dataset: Dataset, samples: list[Sample], stem: str) -> tuple[Image, ...]:
        return self.decoder.images(dataset, [(s, f"{stem}/{s.name}") for s in samples])

    def _references(
        self, dataset: Dataset, items: Sequence[tuple[str, Sequence[int] | None, str]]
    ) -> tuple[Image, ...]:
        """Images of (source, box, key) as an order lists them."""
        return self.decoder.images(
            dataset,
            [(Sample(image, box=box and tuple(box)), key) for image, box, key in items],  # type: ignore[arg-type]
        )

    def _get(self, kind: str, key: str) -> Arrays:
        """Arrays of an artifact, which its task has left in the store."""
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
        self._artifacts.put((kind, key), arrays)
        return arrays

    def _put(self, payload: Payload, arrays: Arrays, meta: Any = None) -> None:
        if self.decoder.failure is not None:  # and the plug-in went on without the image
            raise self.decoder.failure
        if not isinstance(arrays, Mapping):
            raise TypeError(f"expected a dict of arrays, got {type(arrays).__name__}")
        with self.watch.stage("write"):
            self.store.put(payload["kind"], payload["key"], arrays, meta)

    def _counters(self) -> dict[str, float]:
        return {
            "encoded": self.features.computed,
            "encodings_reused": self.features.reused,
            "decoded": self.decoder.decoded,
        }


def checked(given: Prediction, n: int) -> Prediction:
    """The prediction with float32 arrays; ValueError when its shapes are not those promised."""
    scores = np.asarray(given.scores, dtype=np.float32)
    if scores.shape != (n,):
        raise ValueError(f"predict returned scores of shape {scores.shape}, expected ({n},)")
    parts = {name: np.asarray(v, dtype=np.float32) for name, v in given.parts.items()}
    for name, values in parts.items():
        if values.shape != (n,):
            raise ValueError(f"predict returned part {name!r} of shape {values.shape}, not ({n},)")
    maps = None if given.maps is None else np.asarray(given.maps, dtype=np.float32)
    part_maps = {name: np.asarray(v, dtype=np.float32) for name, v in given.part_maps.items()}
    for what, m in [("maps", maps), *part_maps.items()]:
        if m is not None and (m.ndim != 3 or len(m) != n):
            raise ValueError(f"predict returned {what} of shape {m.shape}, expected ({n}, h, w)")
    return Prediction(scores, maps, parts, part_maps)

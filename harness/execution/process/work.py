"""Does tasks: one function per kind, from what a payload names to the artifact in the store.

A new kind of task needs one more function here, registered by its payload.
"""

from __future__ import annotations

from functools import singledispatch

import numpy as np

from harness.config.sweep import plain
from harness.data.images import rgb
from harness.execution.memory.cache import HandedImage, read_mask
from harness.execution.outcome import Outcome
from harness.execution.process import statistics
from harness.execution.process.promises import checked
from harness.execution.process.workshop import Workshop, seed_for
from harness.interface import (
    Arrays,
    Auxiliary,
    AuxiliaryCategory,
    Generator,
    Image,
    Method,
    Queries,
)
from harness.results import evaluation
from harness.results.folder import publishing
from harness.tasks import kinds
from harness.tasks.task import Payload


@singledispatch
def do(payload: Payload, shop: Workshop, outcome: Outcome) -> None:
    """Make the task's artifact. This function is for none of the kinds."""
    raise NotImplementedError(f"no worker does {payload.task.kind}")


@do.register
def _train(payload: kinds.TrainPayload, shop: Workshop, outcome: Outcome) -> None:
    method: Method = shop.plugin(payload.method)
    use = payload.auxiliary
    dataset = shop.dataset(use.dataset)
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
                shop.images(dataset, train, stem),
                shop.images(dataset, test, stem),
                labels,
                lambda i, test=test: read_mask(dataset, test[i]),  # type: ignore[misc]
            )
        )
    seed = seed_for(payload.task.draw, payload)
    origin = plain(use.dataset.use), use.held_out
    auxiliary = Auxiliary(tuple(categories), payload.task.shots, seed, *origin)
    with shop.watch.stage("work"):
        state = method.train(auxiliary)
    shop.put(payload, state)


@do.register
def _prepare(payload: kinds.PreparePayload, shop: Workshop, outcome: Outcome) -> None:
    generator: Generator = shop.plugin(payload.generator)
    seed = seed_for(payload.task.draw, payload)
    with shop.watch.stage("work"):
        state = generator.prepare(payload.task.object_name, seed)
    shop.put(payload, state)


@do.register
def _customize(payload: kinds.CustomizePayload, shop: Workshop, outcome: Outcome) -> None:
    task, generator = payload.task, shop.plugin(payload.generator)
    prior = shop.get(kinds.Prepare, task.prepared) if task.prepared is not None else {}
    support = shop.support(payload.support)
    shop.make_room(payload.generator.id)
    seed_for(task.draw, payload)
    with shop.watch.stage("work"):
        state = generator.customize(support, prior)
    shop.put(payload, state)


@do.register
def _generate(payload: kinds.GeneratePayload, shop: Workshop, outcome: Outcome) -> None:
    generator = shop.customized(payload)
    seed = seed_for(payload.task.draw, payload)  # whatever else is asked
    n = payload.task.generated
    with shop.watch.stage("work"):
        pictures = list(generator.generate(n, seed)) if n else []
    if len(pictures) != n:
        raise ValueError(f"generate({n}) returned {len(pictures)} images")
    arrays = {f"{i:04d}": rgb(p, "generate") for i, p in enumerate(pictures)}
    shop.put(payload, arrays)


@do.register
def _personalize(payload: kinds.PersonalizePayload, shop: Workshop, outcome: Outcome) -> None:
    generator = shop.customized(payload)
    dataset = shop.dataset(payload.support.dataset)
    images = shop.references(dataset, payload.queries)
    seed = seed_for(payload.task.draw, payload)  # the same in every shard
    with shop.watch.stage("work"):
        personalized = generator.personalize(images, seed)
    shape = np.shape(personalized.images)
    if len(shape) != 4 or shape[0] != len(images):
        raise ValueError(f"personalize returned images of shape {shape} for {len(images)}")
    arrays: Arrays = {"images": np.asarray(personalized.images, dtype=np.uint8)}
    if personalized.chosen is not None:
        arrays["chosen"] = np.asarray(personalized.chosen, dtype=np.int64)
    if personalized.similarity is not None:
        arrays["similarity"] = np.asarray(personalized.similarity, dtype=np.float32)
    shop.put(payload, arrays, {"prompts": list(personalized.prompts)})


@do.register
def _predict(payload: kinds.PredictPayload, shop: Workshop, outcome: Outcome) -> None:
    task, method = payload.task, shop.plugin(payload.method)
    shop.fit(method, payload)
    dataset = shop.dataset(payload.support.dataset)
    images = shop.references(dataset, payload.queries)
    personalized: tuple[Image, ...] = ()
    pictures = None
    if task.personalized is not None:
        pictures = shop.get(kinds.Personalize, task.personalized)["images"]
        keys = (f"{task.personalized}/{i}" for i in range(len(pictures)))
        personalized = tuple(map(HandedImage, keys, pictures))
    seed_for(task.draw_queries, payload)
    with shop.watch.stage("work"):
        prediction = method.predict(Queries(images, personalized, payload.maps))
    outcome.stages["queries"] = len(images)
    arrays = evaluation.predicted(
        checked(prediction, len(images)), pictures, payload.gallery, payload.masked
    )
    shop.put(payload, arrays)


@do.register
def _evaluate(payload: kinds.EvaluatePayload, shop: Workshop, outcome: Outcome) -> None:
    task = payload.task
    try:
        with shop.watch.stage("read"):
            arrays, meta = shop.store.get(task.kind, task.key)
        outcome.reused = True
    except (FileNotFoundError, ValueError):
        dataset = shop.dataset(payload.dataset)
        items = [(truth.sample, truth.key) for truth in payload.truth]
        parts = [shop.get(kinds.Predict, key) for key in task.predictions]
        images = shop.decoder.images(dataset, items)
        shop.maker.needs.append(statistics.key_of(items))
        with shop.watch.stage("work"):
            arrays, meta = evaluation.evaluate(
                parts,
                [sample for sample, _ in items],
                images,
                lambda sample: shop.decoder.mask(dataset, sample),
                payload.evaluation_size,
                payload.gallery,
                shop.references(dataset, payload.support.images),
                statistics.of_queries(shop.store, shop.artifacts, dataset, items, images),
            )
        with shop.watch.stage("write"):
            shop.store.put(task.kind, task.key, arrays, meta)
    with shop.watch.stage("write"):
        for place in payload.places:
            outcome.files = publishing.publish(shop.store, place, arrays, meta)
    outcome.row = meta["row"]

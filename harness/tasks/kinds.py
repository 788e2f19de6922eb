"""The kinds of tasks: what each needs and costs, and what a worker is told of it.

A new kind is a task and its payload in this file, a place in the plan (``planning.graph``), and a
function of the worker (``execution.process.work``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.tasks.references import (
    AuxiliaryUse,
    Context,
    DatasetUse,
    Source,
    SupportUse,
    Truth,
)
from harness.tasks.task import (
    Amounts,
    GeneratorPayload,
    MethodPayload,
    Payload,
    Sizes,
    Task,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainPayload(MethodPayload):
    """See ``Train``."""

    task: Train
    auxiliary: AuxiliaryUse


@dataclass(frozen=True, slots=True, kw_only=True)
class Train(Task):
    """A method learns from auxiliary categories: for all cells, or those of a size or seed."""

    kind = "train"
    role = "method"
    seconds = 600.0
    shared = True
    needs = ()

    method: int
    auxiliary: str  # name of the data
    shots: int | None  # None: once for all of them
    seed: int | None  # None: once for all of them

    def amounts(self, sizes: Sequence[Sizes]) -> Amounts:
        return Amounts(0, self.shots or 0, self.shots or 0)

    def payload(self, context: Context) -> TrainPayload:
        return TrainPayload(
            task=self,
            threads=context.threads,
            method=context.method(self.method),
            auxiliary=context.auxiliary(self.auxiliary),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparePayload(GeneratorPayload):
    """See ``Prepare``."""

    task: Prepare


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepare(Task):
    """A generator makes what all supports of an object share: prior images."""

    kind = "prepare"
    role = "generator"
    seconds = 60.0
    shared = True
    needs = ()

    generator: str
    object_name: str

    def payload(self, context: Context) -> PreparePayload:
        generator = context.generator(self.generator)
        return PreparePayload(task=self, threads=context.threads, generator=generator)


@dataclass(frozen=True, slots=True, kw_only=True)
class OfSupport(Task):
    """Tasks of a support, drawn of a category."""

    category: int
    shots: int
    seed: int
    generated: int  # images that a generator adds to the support

    def amounts(self, sizes: Sequence[Sizes]) -> Amounts:
        pool = self.shots + self.generated
        return Amounts(0, self.shots, pool, sizes[self.category].masked)


@dataclass(frozen=True, slots=True, kw_only=True)
class OfGenerator(OfSupport):
    """... that run a generator."""

    role = "generator"

    generator: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CustomizePayload(GeneratorPayload):
    """See ``Customize``."""

    task: Customize
    support: SupportUse


@dataclass(frozen=True, slots=True, kw_only=True)
class Customize(OfGenerator):
    """A generator is fine-tuned on a support."""

    kind = "customize"
    seconds = 300.0
    shared = True

    prepared: str | None

    @property
    def needs(self) -> tuple[str, ...]:
        return _keys(self.prepared)

    def payload(self, context: Context) -> CustomizePayload:
        return CustomizePayload(
            task=self,
            threads=context.threads,
            generator=context.generator(self.generator),
            support=context.support(self.category, self.shots, self.seed),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratePayload(GeneratorPayload):
    """See ``Generate``."""

    task: Generate
    support: SupportUse


@dataclass(frozen=True, slots=True, kw_only=True)
class Generate(OfGenerator):
    """A customized generator makes what the pool has beside the support."""

    kind = "generate"
    seconds = 60.0
    shared = True

    customized: str

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.customized,)

    @property
    def state(self) -> str:
        return self.customized

    def amounts(self, sizes: Sequence[Sizes]) -> Amounts:
        return OfSupport.amounts(self, sizes)._replace(image=self.generated)

    def payload(self, context: Context) -> GeneratePayload:
        return GeneratePayload(
            task=self,
            threads=context.threads,
            generator=context.generator(self.generator),
            support=context.support(self.category, self.shots, self.seed),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PersonalizePayload(GeneratorPayload):
    """See ``Personalize``."""

    task: Personalize
    support: SupportUse
    queries: tuple[Source, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Personalize(OfGenerator):
    """A customized generator makes the one-to-normal images of a shard of queries."""

    kind = "personalize"
    per_query = True
    seconds = 60.0

    customized: str
    shard: int

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.customized,)

    @property
    def state(self) -> str:
        return self.customized

    def amounts(self, sizes: Sequence[Sizes]) -> Amounts:
        queries = sizes[self.category].shards[self.shard]
        return OfSupport.amounts(self, sizes)._replace(image=queries)

    def payload(self, context: Context) -> PersonalizePayload:
        return PersonalizePayload(
            task=self,
            threads=context.threads,
            generator=context.generator(self.generator),
            support=context.support(self.category, self.shots, self.seed),
            queries=context.queries(self.category, self.shard),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictPayload(MethodPayload):
    """See ``Predict``."""

    task: Predict
    support: SupportUse
    queries: tuple[Source, ...]
    maps: bool  # the method is asked for maps
    masked: bool  # all maps are kept, for they are compared to masks
    gallery: int  # queries kept for the report at each end of the ranking


@dataclass(frozen=True, slots=True, kw_only=True)
class Predict(OfSupport):
    """A method is fitted to a support and scores a shard of queries."""

    kind = "predict"
    role = "method"
    per_query = True
    seconds = 5.0

    method: int
    shard: int
    support: str  # hash of the support
    #: seeds prediction; ``draw`` seeds fitting, and is of the support alone, whatever the shard
    draw_queries: str
    trained: str | None = None
    customized: str | None = None
    pool: str | None = None
    personalized: str | None = None

    @property
    def needs(self) -> tuple[str, ...]:
        return _keys(self.trained, self.customized, self.pool, self.personalized)

    @property
    def state(self) -> str:
        return self.support

    def amounts(self, sizes: Sequence[Sizes]) -> Amounts:
        queries = sizes[self.category].shards[self.shard]
        return OfSupport.amounts(self, sizes)._replace(image=queries)

    def payload(self, context: Context) -> PredictPayload:
        generated = self.pool, self.customized
        return PredictPayload(
            task=self,
            threads=context.threads,
            method=context.method(self.method),
            support=context.support(self.category, self.shots, self.seed, *generated),
            queries=context.queries(self.category, self.shard),
            maps=context.maps,
            masked=context.masked(self.category),
            gallery=context.gallery,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluatePayload(Payload):
    """See ``Evaluate``."""

    publishes = True

    task: Evaluate
    dataset: DatasetUse
    truth: tuple[Truth, ...]
    support: SupportUse
    evaluation_size: int
    gallery: int
    places: tuple[str, ...]  # of its cells' files, see ``payload.place_of``


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluate(OfSupport):
    """The predictions of a cell become its metrics."""

    kind = "evaluate"
    seconds = 1.0
    final = True

    method: int  # of a cell whose result it is; other methods of the cell are equal but for labels
    predictions: tuple[str, ...]

    @property
    def needs(self) -> tuple[str, ...]:
        return self.predictions

    def amounts(self, sizes: Sequence[Sizes]) -> Amounts:
        queries = sum(sizes[self.category].shards)
        return OfSupport.amounts(self, sizes)._replace(image=queries)

    def payload(self, context: Context) -> EvaluatePayload:
        return EvaluatePayload(
            task=self,
            threads=context.threads,
            dataset=context.dataset(self.category),
            truth=context.truth(self.category),
            support=context.support(self.category, self.shots, self.seed),
            evaluation_size=context.evaluation_size,
            gallery=context.gallery,
            places=context.places(self.key),
        )


def _keys(*keys: str | None) -> tuple[str, ...]:
    return tuple(key for key in keys if key is not None)


#: Every kind by its name, in the order of the graph.
KINDS: Mapping[str, type[Task]] = {
    task.kind: task
    for task in (Train, Prepare, Customize, Generate, Personalize, Predict, Evaluate)
}

"""What a worker keeps warm: decoded images, features, shared models. Bounded by bytes."""

from __future__ import annotations

import dataclasses
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from harness.data import images as rules
from harness.errors import DataError, one_line
from harness.execution.memory import offload
from harness.execution.memory.reuse import Counter
from harness.execution.memory.seals import Kept, Sealed, SealedModel, Seals
from harness.execution.memory.stopwatch import ENCODE, Stopwatch
from harness.interface import Dataset, Image, Pixels, Sample


class Budget:
    """Bytes that several memories share: what was longest unused in any of them goes first.

    Parameters
    ----------
    limit : bytes
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self.lock = threading.Lock()
        self.order: OrderedDict[tuple[Memory, Hashable], None] = (
            OrderedDict()
        )  # longest unused first


class Memory:
    """Values by key; when they exceed ``limit`` bytes those longest unused go. Safe for threads.

    Parameters
    ----------
    limit : bytes
    seals : told of each value that is handed out, when these are for plug-ins
    budget : shared with other memories; its limit holds as well
    """

    def __init__(
        self, limit: int, seals: Seals | None = None, budget: Budget | None = None
    ) -> None:
        self.limit = limit
        self.used = 0
        self._seals = seals
        self._budget = budget or Budget(limit)
        self._values: OrderedDict[Hashable, Kept] = OrderedDict()

    def get(self, key: Hashable) -> Any:
        """The value, or None; Spoilt when a plug-in has written to it."""
        with self._budget.lock:
            if key not in self._values:
                return None
            self._values.move_to_end(key)
            self._budget.order.move_to_end((self, key))
            kept = self._values[key]
            kept.reload()
            value = kept.value
        if isinstance(kept, Sealed) and self._seals is not None:
            self._seals.hand(kept)
        return value

    def put(self, key: Hashable, value: Any, what: str = "") -> None:
        """Keep a value, unless it alone is larger than the limit, and hand it out."""
        size = nbytes(value)
        kept = None
        if size <= min(self.limit, self._budget.limit):
            kept = Kept(value, size, what) if self._seals is None else Sealed(value, size, what)
        with self._budget.lock:
            if key in self._values:
                self._drop(key)
            if kept is None:
                return
            self._values[key] = kept
            self._budget.order[self, key] = None
            self.used += size
            self._budget.used += size
            while self.used > self.limit:
                self._drop(next(iter(self._values)))
            while self._budget.used > self._budget.limit:
                owner, oldest = next(iter(self._budget.order))
                owner._drop(oldest)
        if isinstance(kept, Sealed) and self._seals is not None:
            self._seals.hand(kept)

    def unload(self) -> None:
        """Take all values off their GPU; each goes back when it is asked for."""
        with self._budget.lock:
            for kept in self._values.values():
                kept.unload()

    def clear(self) -> None:
        """Forget everything."""
        with self._budget.lock:
            for key in list(self._values):
                self._drop(key)

    def _drop(self, key: Hashable) -> None:
        kept = self._values.pop(key)
        del self._budget.order[self, key]
        self.used -= kept.size
        self._budget.used -= kept.size
        kept.value = None

    def __contains__(self, key: Hashable) -> bool:
        return key in self._values

    def __len__(self) -> int:
        return len(self._values)


def nbytes(value: Any) -> int:
    """Bytes of the arrays and tensors in a value, through containers and dataclasses."""
    size = getattr(value, "nbytes", None)
    if isinstance(size, int):
        return size
    if isinstance(value, Mapping):
        return sum(map(nbytes, value.values()))
    if isinstance(value, (list, tuple)):
        return sum(map(nbytes, value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return sum(nbytes(getattr(value, f.name)) for f in dataclasses.fields(value))
    return 64


class HandedImage(Image):
    """An image that the engine hands out. One that a plug-in makes of it, even under its key, is
    another: what is remembered of the plug-in's is never taken for what is known of this one.
    """

    __slots__ = ()


class FeatureMemory:
    """The ``Features`` of the interface: one per worker, shared by all its plug-ins.

    Parameters
    ----------
    limit : bytes of records kept
    counter : told of each record that is made or was there, by space
    watch : told what is stage ``encode <space>``, and what is ``setup``
    seals : told of each record and each shared thing that is handed out
    budget : shared with other memories; its limit holds as well
    """

    def __init__(
        self,
        limit: int,
        counter: Counter | None = None,
        watch: Stopwatch | None = None,
        seals: Seals | None = None,
        budget: Budget | None = None,
    ) -> None:
        self._counter = counter or Counter()
        self._watch = watch or Stopwatch()
        self._seals = seals or Seals()
        self._records = Memory(limit, self._seals, budget)
        self._shared: dict[str, SealedModel] = {}
        self.computed = 0  # images that went through a network or the like
        self.reused = 0  # images answered from memory

    def get_or_compute(
        self,
        space: str,
        images: Sequence[Image],
        compute: Callable[[Sequence[Image]], Sequence[Any]],
        batch: int = 1,
    ) -> list[Any]:
        """One record per image, from memory or computed; see the interface.

        Above a batch size of 1 a record is remembered together with the batch it was computed in:
        kernels round differently for different batches, and results must not depend on what a
        worker happened to see before.
        """
        collected: list[Any] = []
        for start in range(0, len(images), batch):
            chunk = images[start : start + batch]
            key = (space, tuple((isinstance(i, HandedImage), i.key) for i in chunk))
            records = self._records.get(key)
            if records is None:
                records = self._compute(space, chunk, compute)
                self._records.put(key, records, f"features {space!r}")
                self._counter.miss(space, (image.key for image in chunk))
            else:
                self.reused += len(chunk)
                self._counter.hit(space, len(chunk))
            collected += records
        return collected

    def _compute(
        self,
        space: str,
        chunk: Sequence[Image],
        compute: Callable[[Sequence[Image]], Sequence[Any]],
    ) -> list[Any]:
        before = self.computed
        with self._watch.stage(ENCODE + space):
            records = list(compute(chunk))
        if len(records) != len(chunk):
            raise ValueError(f"{space}: expected {len(chunk)} records, got {len(records)}")
        if self.computed == before:  # else it was made of other records: it counts once
            self.computed += len(chunk)
        return records

    def forget(self) -> None:
        """Drop every record, for some may come of an image that could not be read."""
        self._records.clear()

    def unload(self, but: Collection[Kept]) -> None:
        """Take records and shared things off the GPU, ``but`` some; each goes back when asked for.

        Whoever has been handed any of the others must not use it any more.
        """
        self._records.unload()
        for kept in self._shared.values():
            if kept not in but:
                kept.unload()
        offload.release()

    def get_or_create(self, name: str, compute: Callable[[], Any]) -> Any:
        """A thing shared under this name, made by whoever asks first."""
        if name not in self._shared:
            with self._watch.stage("setup"):
                model = compute()
            self._shared[name] = SealedModel(model, f"what is shared as {name!r}")
        return self._seals.hand(self._shared[name], shared=True)

    # The names of before, for plug-ins written then.
    many = get_or_compute
    once = get_or_create


class Decoder:
    """Samples to Images whose pixels are decoded on first use, ahead of it, and remembered.

    Parameters
    ----------
    limit : bytes of pixels kept
    threads : decoding threads; with more than one, the images that follow are decoded ahead
    counter : told of each source that is decoded or was there
    watch : told what is stage ``decode``: with threads, the time that images are waited for
    seals : told of each image that is handed out
    budget : shared with other memories; its limit holds as well
    """

    def __init__(
        self,
        limit: int,
        threads: int = 1,
        counter: Counter | None = None,
        watch: Stopwatch | None = None,
        seals: Seals | None = None,
        budget: Budget | None = None,
    ) -> None:
        self._counter = counter or Counter()
        self._watch = watch or Stopwatch()
        self._pixels = Memory(limit, seals or Seals(), budget)
        self._sources = Memory(limit // 4, budget=budget)
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None
        self._ahead = 2 * threads if threads > 1 else 0
        self._pending: dict[str, Future[Pixels]] = {}
        self.failure: DataError | None = None  # the last image that could not be read
        self.decoded = 0  # sources decoded

    def forgive(self) -> None:
        """Forget what could not be read: another task begins."""
        self.failure = None

    def images(self, dataset: Dataset, items: Sequence[tuple[Sample, str]]) -> tuple[Image, ...]:
        """Images of samples with their keys, in this order.

        ``pixels`` of an image raises DataError, naming the file, when it cannot be decoded.
        """

        def loader(i: int) -> Callable[[], Pixels]:
            return lambda: self._ask(dataset, items, i)

        return tuple(HandedImage(key, loader(i)) for i, (_, key) in enumerate(items))

    def _ask(self, dataset: Dataset, items: Sequence[tuple[Sample, str]], i: int) -> Pixels:
        pixels = self._pixels.get(items[i][1])
        if pixels is not None:
            self._counter.hit("decode")
            return pixels  # type: ignore[no-any-return]
        try:
            with self._watch.stage("decode"):
                return self._read(dataset, items, i)
        except DataError as error:
            self.failure = error  # kept, for a plug-in may swallow it
            raise

    def _read(self, dataset: Dataset, items: Sequence[tuple[Sample, str]], i: int) -> Pixels:
        sample, key = items[i]
        if self._pool is not None:
            for later, name in items[i : i + self._ahead]:
                if name not in self._pending and name not in self._pixels:
                    self._pending[name] = self._pool.submit(self._decode, dataset, later)
            pixels = self._pending.pop(key).result()
        else:
            pixels = self._decode(dataset, sample)
        self._pixels.put(key, pixels, f"pixels of {sample.name}")
        return pixels

    def _decode(self, dataset: Dataset, sample: Sample) -> Pixels:
        key = (id(dataset), sample.image)
        if sample.box is None:
            pixels = read_image(dataset, sample.image)
            self._count(key)
            return pixels
        whole = self._sources.get(key)  # a strip of many tiles is decoded once
        if whole is None:
            whole = read_image(dataset, sample.image)
            self._count(key)
            self._sources.put(key, whole)
        else:
            self._counter.hit("decode")
        tile = rules.crop(whole, sample.box).copy()
        tile.flags.writeable = False
        return tile

    def mask(self, dataset: Dataset, sample: Sample) -> Any:
        """As ``read_mask``, read-only and remembered."""
        if sample.mask is None:
            return None
        key = ("mask", id(dataset), sample.mask, sample.box)
        mask = self._pixels.get(key)
        if mask is None:
            with self._watch.stage("decode"):
                mask = read_mask(dataset, sample)
            mask = mask if sample.box is None else mask.copy()  # not the whole strip
            mask.flags.writeable = False
            self._pixels.put(key, mask, f"mask {sample.mask}")
            self._counter.miss("mask", [key])
        else:
            self._counter.hit("mask")
        return mask

    def _count(self, key: tuple[int, str]) -> None:
        self.decoded += 1
        self._counter.miss("decode", [key])


def read_image(dataset: Dataset, source: str) -> Pixels:
    """Decoded source of a dataset, uint8 (H, W, 3), read-only; DataError names the file."""
    try:
        pixels = rules.decode(dataset.open(source))
    except (OSError, ValueError) as error:
        raise DataError(f"{_place(dataset, source)}: {one_line(error)}") from error
    pixels.flags.writeable = False
    return pixels


def read_mask(dataset: Dataset, sample: Sample) -> Any:
    """Defect mask of a sample, bool (H, W), or None when it has none; DataError names the file."""
    if sample.mask is None:
        return None
    try:
        mask = rules.decode_mask(dataset.open(sample.mask), dataset.threshold)
    except (OSError, ValueError) as error:
        raise DataError(f"{_place(dataset, sample.mask)}: {one_line(error)}") from error
    if sample.box is None:
        return mask
    left, upper, right, lower = sample.box
    return mask[upper:lower, left:right]


def _place(dataset: Dataset, source: str) -> str:
    return str(dataset.root / source) if dataset.root is not None else source

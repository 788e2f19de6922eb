"""What a worker keeps: bounded, never stale, the same with or without memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import DataError
from harness.execution.memory.allowance import caches_mb, machine_bytes
from harness.execution.memory.cache import (
    Budget,
    Decoder,
    FeatureMemory,
    HandedImage,
    Memory,
    nbytes,
)
from harness.execution.process.workshop import Workshop
from harness.interface import Dataset, Image, Sample


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 120)), max_size=60), st.integers(1, 300)
)
def test_memory_is_bounded_and_gives_back_what_was_put(
    puts: list[tuple[int, int]], limit: int
) -> None:
    memory = Memory(limit)
    last: dict[int, np.ndarray] = {}
    for key, size in puts:
        last[key] = np.full(size, key, dtype=np.uint8)
        memory.put(key, last[key])
        assert memory.used <= limit
        held = [memory.get(k) for k in last]
        assert memory.used == sum(v.nbytes for v in held if v is not None)
        if size <= limit:
            assert memory.get(key) is last[key]
    for key, value in last.items():
        assert memory.get(key) is None or memory.get(key) is value


def test_the_longest_unused_goes_first() -> None:
    memory = Memory(100)
    for key in "abc":
        memory.put(key, np.zeros(30, np.uint8))
    memory.get("a")
    memory.put("d", np.zeros(30, np.uint8))
    assert [key for key in "abcd" if memory.get(key) is not None] == ["a", "c", "d"]


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 6), st.integers(0, 90), st.booleans()),
        max_size=60,
    )
)
def test_memories_share_a_budget(steps: list[tuple[int, int, int, bool]]) -> None:
    """Together they stay below it; what goes is what was longest unused in any of them."""
    budget = Budget(200)
    memories = [Memory(100, budget=budget), Memory(200, budget=budget), Memory(150, budget=budget)]
    used: list[tuple[int, int]] = []  # the last use of each, the latest last
    for which, key, size, asks in steps:
        memory = memories[which]
        if asks:
            if memory.get(key) is not None:
                used.remove((which, key))
                used.append((which, key))
            continue
        memory.put(key, np.zeros(size, np.uint8))
        used = [one for one in used if one != (which, key)] + [(which, key)]
        used = [one for one in used if one[1] in memories[one[0]]]
        assert budget.used == sum(one.used for one in memories) <= budget.limit
        assert all(one.used <= one.limit for one in memories)
        assert list(budget.order) == [(memories[w], k) for w, k in used]
    memories[1].clear()
    assert budget.used == memories[0].used + memories[2].used
    assert len(memories[1]) == memories[1].used == 0


def test_a_worker_s_caches_are_bounded_together(tmp_path: Path) -> None:
    shop = Workshop(str(tmp_path), memory_mb=1)
    picture = np.zeros((100, 100, 3), np.uint8)  # 30,000 bytes
    for i in range(40):
        shop.features.get_or_compute("s", [Image(f"{i}", picture)], lambda images: [picture])
        shop.decoder._pixels.put(i, picture)
        shop.artifacts.put(i, {"a": picture})
        assert shop.budget.used <= 1 << 20
    assert len(shop.features._records) > len(shop.decoder._pixels) > 0
    assert len(shop.artifacts) > 0


def test_the_default_is_a_share_of_what_the_machine_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert machine_bytes(tmp_path) == machine_bytes(Path("/nowhere")) > 1 << 28
    group = tmp_path / "sys/fs/cgroup/a"
    (group / "b").mkdir(parents=True)
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/a/b\n")
    (group / "memory.max").write_text(f"{200 << 20}\n")
    (group / "b/memory.max").write_text("max\n")
    assert machine_bytes(tmp_path) == 200 << 20
    monkeypatch.setattr("harness.execution.memory.allowance.machine_bytes", lambda: 8 << 30)
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    assert caches_mb(None, 2, 1) == int(0.3 * 8 * 1024 / 2)
    assert caches_mb(None, None, 1) == caches_mb(None, 9, 1) == int(0.3 * 8 * 1024 / 4)
    assert caches_mb(None, 1, 1) == int(0.3 * 8 * 1024)
    assert caches_mb(None, None, 2) == caches_mb(None, 2, 2)
    assert caches_mb(1.5, 9, 1) == 1500


def test_sizes_of_containers() -> None:
    a = np.zeros(10)
    assert nbytes(a) == 80
    assert nbytes({"x": [a, (a, a)]}) == 240


def images(keys: Sequence[str]) -> list[Image]:
    return [Image(k, np.full((2, 2, 3), ord(k), dtype=np.uint8)) for k in keys]


@settings(max_examples=60)
@given(
    st.lists(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=6), max_size=6),
    st.integers(1, 3),
    st.sampled_from([0, 100, 10_000]),
)
def test_records_do_not_depend_on_what_was_seen_before(
    asked: list[list[str]], batch: int, limit: int
) -> None:
    """A compute whose result depends on its batch, as a GPU's does in the last bits."""

    def compute(chunk: Sequence[Image]) -> list[np.ndarray]:
        return [np.array([ord(i.key), len(chunk), ord(chunk[0].key)]) for i in chunk]

    memory = FeatureMemory(limit)
    for keys in asked:
        warm = memory.get_or_compute("space", images(keys), compute, batch)
        cold = FeatureMemory(10_000).many("space", images(keys), compute, batch)
        np.testing.assert_array_equal(np.stack(warm), np.stack(cold))
    assert memory.computed + memory.reused == sum(map(len, asked))


def test_spaces_are_apart_and_nothing_is_computed_twice() -> None:
    memory = FeatureMemory(10_000)
    calls: list[str] = []

    def compute(chunk: Sequence[Image]) -> list[str]:
        calls.extend(i.key for i in chunk)
        return [i.key for i in chunk]

    memory.get_or_compute("one", images("ab"), compute)
    memory.get_or_compute("one", images("ba"), compute)
    assert calls == ["a", "b"]
    memory.get_or_compute("two", images("a"), compute)
    assert calls == ["a", "b", "a"]
    assert (memory.computed, memory.reused) == (3, 2)


@pytest.mark.parametrize("batch", [1, 3])
def test_an_image_of_a_plugin_is_never_taken_for_the_one_whose_key_it_bears(batch: int) -> None:
    """A method encodes a darkened copy under the query's key, in a space that others share."""
    features = FeatureMemory(10**6)
    pixels = np.full((2, 2, 3), 200, np.uint8)
    query, copy = HandedImage("q", pixels), Image("q", pixels // 2)

    def means(images: Sequence[Image]) -> list[float]:
        return [float(image.pixels.mean()) for image in images]

    assert features.get_or_compute("mean", [copy], means, batch) == [100.0]
    assert features.get_or_compute("mean", [query], means, batch) == [200.0]
    assert features.get_or_compute("mean", [copy, query], means, batch) == [100.0, 200.0]
    assert features.get_or_compute("mean", [query], means, batch) == [200.0]


def test_a_compute_that_loses_records_is_told() -> None:
    with pytest.raises(ValueError, match="space: expected 2 records, got 1"):
        FeatureMemory(100).many("space", images("ab"), lambda chunk: [1], batch=2)


def test_once_is_once() -> None:
    memory, calls = FeatureMemory(100), []
    for _ in range(3):
        memory.get_or_create("weights", lambda: calls.append(1))
    assert calls == [1]


class Strip(Dataset):
    """One source of many tiles, and one that is broken."""

    opened = 0

    def categories(self) -> list[str]:
        return []

    def train(self, category: str) -> list[Sample]:
        return []

    def test(self, category: str) -> list[Sample]:
        return []

    def open(self, source: str) -> Any:
        if source == "broken":
            return b"?"
        Strip.opened += 1
        return np.arange(48, dtype=np.uint8).reshape(4, 12)


@pytest.mark.parametrize("threads", [1, 3])
def test_tiles_of_a_strip_decode_it_once(threads: int) -> None:
    Strip.opened = 0
    decoder = Decoder(1_000_000, threads)
    tiles = [(Sample("s", box=(i, 0, i + 3, 4)), f"k{i}") for i in range(0, 12, 3)]
    decoded = [image.pixels for image in decoder.images(Strip(), tiles)]
    whole = np.arange(48, dtype=np.uint8).reshape(4, 12)
    for i, tile in enumerate(decoded):
        np.testing.assert_array_equal(tile[:, :, 0], whole[:, 3 * i : 3 * i + 3])
    if threads == 1:
        assert Strip.opened == 1


def test_pixels_cannot_be_written_to() -> None:
    decoder = Decoder(1_000_000)
    for box in (None, (0, 0, 2, 2)):
        (image,) = decoder.images(Strip(), [(Sample("s", box=box), f"key{box}")])
        with pytest.raises(ValueError, match="read-only"):
            image.pixels[0] = 0


def test_an_unreadable_image_is_named_and_remembered() -> None:
    decoder = Decoder(1_000_000)
    (image,) = decoder.images(Strip(), [(Sample("broken"), "key")])
    with pytest.raises(DataError, match="broken: "):
        _ = image.pixels
    assert decoder.failure is not None
    decoder.forgive()
    assert decoder.failure is None

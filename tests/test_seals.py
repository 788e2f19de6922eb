"""No method can change another's numbers, whatever it writes to or does to its process."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.execution.memory.cache import FeatureMemory, Memory
from harness.execution.memory.seals import Altered, Sealed, SealedModel, Seals, Spoilt, sealed
from harness.tasks.references import PluginUse
from tests.sweeps import HOME, Runner, rows, sweep

pytestmark = pytest.mark.timeout(900)

WRITES = "toys.hostile:Writes"
PLACES = ("query", "support", "pool", "personalized", "customized", "record", "tensor", "model")


def honest() -> dict[str, Any]:
    return {"use": "toys.hostile:Reads", "generator": "g", "label": "honest"}


def shared(**changes: Any) -> dict[str, Any]:
    """Methods that one worker does in turn, on the same images, features, pool and model."""
    generators = {"g": {"use": "toys.generators:Blend", "pool": 3}}
    return sweep(generators=generators, **{"shard": 5, **changes})


@pytest.fixture(scope="module")
def calm() -> dict[str, dict[str, bytes]]:
    return {}


def expected(
    run_sweep: Runner, folder: Path, calm: dict[str, dict[str, bytes]], **changes: Any
) -> dict[str, bytes]:
    """Scores of the honest method where it is alone."""
    name = f"calm{len(changes)}"
    if name not in calm:
        assert run_sweep(shared(name=name, methods=[honest()], **changes), "calm") == 0
        calm[name] = scores(folder / "calm" / name)
    return calm[name]


def scores(folder: Path) -> dict[str, bytes]:
    """The honest method's score of every query, to the last bit, by cell."""
    below = folder / "predictions" / "honest"
    return {str(p.relative_to(below)): p.read_bytes() for p in below.rglob("*.csv")}


def test_who_writes_to_what_it_was_handed_fails_and_nobody_else(
    run_sweep: Runner, tmp_path: Path, calm: dict[str, dict[str, bytes]]
) -> None:
    methods = [
        {"use": WRITES, "label": where, "generator": "g", "params": {"where": where}}
        for where in (*PLACES, "nothing")
    ]
    assert run_sweep(shared(methods=[*methods, honest()])) == 1
    folder = tmp_path / "runs" / "toy"
    failed = rows(folder, "failures.csv")
    assert {r["method"] for r in failed} == set(PLACES)
    assert len(failed) == len(PLACES) * 2
    assert all("wrote to what it was handed" in r["error"] for r in failed), failed
    done = rows(folder)
    assert scores(folder) == expected(run_sweep, tmp_path, calm)
    assert len([r for r in done if r["method"] == "nothing"]) == 2


def test_who_writes_later_harms_nobody(
    run_sweep: Runner, tmp_path: Path, calm: dict[str, dict[str, bytes]]
) -> None:
    """What it keeps from one task it spoils in the next, after its seal was found whole."""
    methods = [
        {"use": WRITES, "label": p, "generator": "g", "params": {"where": p, "late": True}}
        for p in ("query", "record", "tensor")
    ]
    grid: dict[str, Any] = {"seeds": [0, 1], "shard": 10}
    assert run_sweep(shared(methods=[*methods, honest()], **grid)) == 0
    honestly = expected(run_sweep, tmp_path, calm, **grid)
    assert len(honestly) == 4
    assert scores(tmp_path / "runs" / "toy") == honestly


@given(st.data())
def test_any_byte_of_any_array_breaks_the_seal(data: Any) -> None:
    kinds = ["uint8", "float32", "float64", "int16", "bool", "float16"]
    kind = data.draw(st.sampled_from(kinds))
    shape = data.draw(st.lists(st.integers(1, 5), max_size=3))
    array = np.asarray(np.arange(np.prod(shape, dtype=int)).reshape(shape) % 2, dtype=kind)
    step = data.draw(st.sampled_from([1, -1]))
    view = array[::step] if shape else array
    value = data.draw(st.sampled_from([view, [view, 1.0], {"a": (view,)}, torch.tensor(array)]))
    before = Sealed(value)
    assert before.whole()
    target = value.numpy().reshape(-1) if isinstance(value, torch.Tensor) else array.reshape(-1)
    place = data.draw(st.integers(0, target.size - 1))
    target[place] = 1 - target[place] if kind != "bool" else not target[place]
    assert not before.whole()


def test_the_order_of_equal_bytes_counts() -> None:
    array = np.arange(24, dtype=np.float32).reshape(4, 6)
    kept = Sealed(array)
    array[:] = array[::-1].copy()
    assert not kept.whole()


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record.update(more=1),
        lambda record: record.pop("x"),
        lambda record: record.update(number=2.5),
        lambda record: record["x"].resize_(2),
        lambda record: record["parts"].append(np.zeros(1)),
    ],
)
def test_containers_are_sealed_with_their_contents(change: Any) -> None:
    kept = Sealed({"x": torch.ones(3), "parts": [np.zeros(2)], "number": 1.5})
    assert kept.whole()
    change(kept.value)
    assert not kept.whole()


class Encoder:
    """As a method might share one."""

    def __init__(self) -> None:
        self.network = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout()).eval()
        self.words: dict[str, torch.Tensor] = {"a": torch.ones(2)}
        self.calls = 0
        self.itself = self


@pytest.mark.parametrize(
    "change",
    [
        lambda e: e.network.train(),
        lambda e: e.network[0].weight.data.mul_(2),
        lambda e: e.network.register_forward_hook(lambda *_: None),
        lambda e: setattr(e.network[0], "forward", lambda x: x),
        lambda e: setattr(e, "network", torch.nn.Identity()),
        lambda e: e.words["a"].numpy().fill(0),
    ],
)
def test_a_shared_model_is_sealed_and_may_remember_more(change: Any) -> None:
    encoder = Encoder()
    kept = SealedModel(encoder, "encoder")
    encoder.calls += 1
    encoder.words["b"] = torch.zeros(2)
    assert kept.whole()
    change(encoder)
    assert not kept.whole()


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.complex64, torch.int8])
def test_tensors_of_any_type(kind: torch.dtype) -> None:
    tensor = torch.ones(5, 3).to(kind)
    for value in (tensor, tensor.T, tensor[1:, 1:], tensor[:0]):
        kept = Sealed(value)
        assert kept.whole()
    with torch.inference_mode():
        tensor[2, 2] = 3
    assert not Sealed(tensor).whole() or not kept.whole() or sealed(tensor) != sealed(tensor * 0)


def plugin(name: str) -> PluginUse:
    return PluginUse("method", name, {}, name)


def test_who_is_to_blame_and_who_is_not() -> None:
    seals = Seals()
    memory = Memory(1000, seals)
    array = np.zeros(4)
    seals.begin(plugin("one"))
    memory.put("key", array, "an array")
    seals.check()
    array[0] = 1
    with pytest.raises(Altered, match="an array"):
        seals.check()
    array[0] = 0
    for name in "two", "three", "one":
        seals.begin(plugin(name))
        seals.check()
    array[0] = 1  # by one of them, who were not handed it this time
    seals.begin(plugin("four"))
    with pytest.raises(Spoilt, match="altered by one of: two, three, one"):
        memory.get("key")
    with pytest.raises(Spoilt):
        seals.check()


def test_what_a_method_was_fitted_with_is_looked_at_after_each_of_its_tasks() -> None:
    seals = Seals()
    memory = Memory(1000, seals)
    support = np.zeros(4)
    seals.begin(plugin("one"))
    with seals.fitting():
        memory.put("support", support, "support")
    seals.check()
    seals.begin(plugin("two"))
    seals.check()
    seals.begin(plugin("one"))
    support[1] = 2
    with pytest.raises(Altered, match="support"):
        seals.check()


def test_what_left_the_memory_is_nobodys() -> None:
    seals = Seals()
    memory = Memory(40, seals)
    seals.begin(plugin("one"))
    first = np.zeros(4)
    memory.put("first", first)
    memory.put("second", np.zeros(4))
    first[0] = 1
    assert memory.get("first") is None
    seals.check()


def test_features_are_handed_out_as_they_were_made() -> None:
    features = FeatureMemory(1000)
    counter = itertools.count()
    first = features.get_or_create("model", lambda: [next(counter)])
    assert features.get_or_create("model", lambda: [next(counter)]) is first


def test_a_library_that_completes_itself_is_no_harm() -> None:
    """Optimizers load torch._dynamo, which wraps a function of torch."""
    code = (
        "import torch; from harness.execution.process.process_state import ProcessState\n"
        "state = ProcessState(); state.note(); before = torch.manual_seed\n"
        "import torch._dynamo\n"
        "assert torch.manual_seed is not before, 'nothing is tested'\n"
        "assert state.changed() == '', state.changed()\n"
        "torch.zeros = None\n"
        "assert state.changed() == 'it changed torch.zeros'"
    )
    subprocess.run([sys.executable, "-c", code], cwd=HOME, check=True)

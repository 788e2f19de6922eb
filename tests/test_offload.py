"""What a worker keeps is taken off the GPU before a model is customized, and comes back.

On a fake GPU: tensors that have a device and a shape, and no memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from harness.execution.memory import seals
from harness.execution.memory.cache import FeatureMemory
from harness.execution.memory.offload import homes, on_a_gpu
from harness.execution.memory.seals import Seals
from harness.execution.process import seeding
from harness.execution.process.workshop import Workshop
from harness.interface import Features, Image
from harness.tasks.references import PluginUse
from methods._encoders.encoding import Encoding

IMAGES = tuple(Image(f"key-{i}", np.zeros((4, 4, 3), np.uint8)) for i in range(2))


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A GPU that holds nothing; what lies there cannot be read, so its seals are of shapes."""
    monkeypatch.setattr(seals, "_tensor", lambda t: hash((t.dtype, tuple(t.shape), t.device)))
    monkeypatch.setattr(seeding, "device", lambda gpus: "cuda" if gpus else "cpu")
    with FakeTensorMode():
        yield


def encodings(images: Sequence[Image]) -> list[Encoding]:
    cuda = {"device": "cuda"}
    return [
        Encoding((torch.empty(2, 2, 3, **cuda),), torch.empty(3, **cuda), None, {2: torch.empty(1)})
        for _ in images
    ]


class Network(torch.nn.Module):
    """With a buffer, not a parameter: those of a fake GPU cannot be moved in place."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", torch.empty(3, 3, device="cuda"))


class Towers:
    """As an encoder: a network in a plain object, among other things."""

    def __init__(self) -> None:
        self.network = Network()
        self.mean = torch.empty(3, device="cuda")


class Detector:
    def setup(self, device: str, features: Features) -> None:
        self.towers = features.get_or_create("towers", Towers)
        self.records = features.get_or_compute("space", IMAGES, encodings)


class Customizer:
    def setup(self, device: str, features: Features) -> None:
        self.unet = features.get_or_create("unet", Network)


def where(module: torch.nn.Module) -> str:
    return module.weight.device.type  # type: ignore[union-attr, return-value]


def test_all_but_one_plugin_leaves_the_gpu_and_returns(
    gpu: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = Workshop(str(tmp_path), gpus=1.0)
    kinds: dict[str, type[Any]] = {"de": Detector, "c0": Customizer}
    monkeypatch.setattr("harness.config.build", lambda role, use, params: kinds[use]())
    uses = {name: PluginUse("method", name, {}, id=name) for name in kinds}

    def plugin(name: str) -> Any:
        shop.seals.begin(uses[name])
        return shop.plugin(uses[name])

    first, customizer = plugin("de"), plugin("c0")
    shop._fitted |= {"de": "a support", "c0": "a state"}
    shop.make_room("c0")
    assert shop._plugins == {"c0": customizer}
    assert shop._fitted == {}
    assert where(customizer.unet) == "cuda"
    assert where(first.towers.network) == "cpu"
    kept = shop.features._records._values.values()
    assert kept
    assert not any(on_a_gpu(homes(each.value)) for each in kept)
    shop.seals.check()  # what waits elsewhere is not taken for altered

    again = plugin("de")
    assert again is not first
    assert again.towers is first.towers
    assert where(again.towers.network) == "cuda"
    assert {t.device.type for e in again.records for t in (*e.levels, e.image)} == {"cuda"}
    assert again.records[0].windows[2].device.type == "cpu"
    assert shop.features.computed == len(IMAGES)
    shop.seals.check()


def test_on_a_host_nothing_is_let_go(tmp_path: Path) -> None:
    shop = Workshop(str(tmp_path))
    shop._plugins["other"] = object()
    shop.make_room("c0")
    assert "other" in shop._plugins


def test_what_lies_on_the_host_stays_as_it_is() -> None:
    memory = FeatureMemory(1 << 20, seals=Seals())
    records = memory.get_or_compute("space", IMAGES, lambda some: [np.ones(2) for _ in some])
    linear = memory.get_or_create("linear", lambda: torch.nn.Linear(2, 2))
    memory.unload(())
    assert memory.get_or_compute("space", IMAGES, lambda some: [])[0] is records[0]
    assert memory.get_or_create("linear", lambda: None) is linear

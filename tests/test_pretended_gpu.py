"""Whole plug-ins on a GPU that is not there: nothing mixes devices, and numbers are the host's.

`tests.pretended_gpu` says what it sees and what only a real GPU shows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from harness.execution.memory.cache import FeatureMemory
from harness.interface import (
    Arrays,
    Auxiliary,
    AuxiliaryCategory,
    Image,
    Method,
    Prediction,
    Queries,
    Support,
)
from methods._diffusion import model
from methods.adp import Adp
from methods.coop import Coop
from methods.generators.dreambooth import DreamBooth
from methods.generators.textual_inversion import TextualInversion
from methods.inctrl import Inctrl
from methods.micro.data import Corpus
from methods.micro.train_autoencoder import train_autoencoder
from methods.micro.train_clip import train_clip
from methods.micro.train_unet import train_unet
from methods.o2n import O2n
from methods.padim import Padim
from methods.patchcore import Patchcore
from methods.regad import Regad
from methods.winclip import Winclip
from tests import adp_fixtures, dreambooth_fixtures
from tests.clip_fixtures import SIZE, pictures, write_config
from tests.pretended_gpu import pretended_gpu

CNN = {"model": "resnet10t", "weights": "random:0"}
QUERIES = pictures(3)
SUPPORT = Support(pictures(2, seed=1), "metal_nut", seed=0)


@pytest.fixture
def gpu() -> Iterator[None]:
    with pretended_gpu():
        yield


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {"model": write_config(tmp_path_factory.mktemp("gpu")), "weights": "random:0"}


def memory() -> FeatureMemory:
    return FeatureMemory(1 << 28)


def auxiliary(shots: int | None, size: int = SIZE) -> Auxiliary:
    def category(number: int) -> AuxiliaryCategory:
        good, bad = (pictures(4, size, size, seed) for seed in (20 + number, 30 + number))
        bad = tuple(Image(i.key, (i.pixels // 4).astype(np.uint8)) for i in bad)
        marked = np.arange(size) < size // 3
        return AuxiliaryCategory(
            f"c{number}",
            f"thing {number}",
            pictures(4, size, size, seed=10 + number),
            good + bad,
            np.array([0] * 4 + [1] * 4),
            lambda i: np.tile(marked, (size, 1)),
        )

    return Auxiliary((category(0), category(1)), shots, 0)


Mixed = Callable[[torch.Tensor, torch.Tensor], Any]
MIXED: dict[str, Mixed] = {
    "add": lambda a, b: a + b,
    "product": lambda a, b: a @ b,
    "in place": lambda a, b: a.add_(b),
    "together": lambda a, b: torch.cat([a, b]),
    "one of two": lambda a, b: torch.where(a > 0, a, b),
    "layer": lambda a, b: torch.nn.functional.linear(a, b),
    "distances": lambda a, b: torch.cdist(a, b),
    "a number": lambda a, b: a + b[0, 0],
    "index": lambda a, b: a[b[0].long()],
    "put": lambda a, b: a.index_put((b[0].long(),), a),
    "copy": lambda a, b: a.copy_(b),
    "like": lambda a, b: a + torch.zeros_like(b),
    "sent": lambda a, b: a + b.to(a.device),
}


@pytest.mark.parametrize("what", MIXED)
@pytest.mark.parametrize("first", ["cpu", "cuda"])
def test_it_takes_and_refuses_what_torch_says_of_fake_tensors(what: str, first: str) -> None:
    """Both devices in one operation, in either order, beside torch's own rules."""

    def takes() -> bool:
        second = "cuda" if first == "cpu" else "cpu"
        a, b = (torch.ones(3, 3, device=device) for device in (first, second))
        try:
            result = MIXED[what](a, b)
        except RuntimeError:
            return False
        return bool(result.device.type == first)

    with FakeTensorMode():
        # of indices on a GPU into a tensor on the host fake tensors do not think, torch does
        expected = takes() and (first, what) not in {("cpu", "index"), ("cpu", "put")}
    with pretended_gpu():
        assert takes() == expected


def test_what_it_refuses_besides(gpu: None) -> None:
    on_gpu = torch.ones(2, 2, device="cuda")
    with pytest.raises(TypeError, match="can't convert cuda"):
        on_gpu.numpy()
    with pytest.raises(TypeError, match="can't convert cuda"):
        np.asarray(on_gpu)
    with pytest.raises(RuntimeError, match="type for generator"):
        torch.randn(2, device="cuda", generator=torch.Generator("cpu"))
    with pytest.raises(RuntimeError):
        torch.nn.functional.linear(on_gpu.half(), on_gpu)
    assert on_gpu.cpu().numpy().sum() == on_gpu.sum().item() == 4


def test_gradients_are_those_of_torch(gpu: None) -> None:
    """Of a network with shared weights, several outputs, and broadcasting."""
    torch.manual_seed(0)
    host = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.GroupNorm(2, 4), torch.nn.SiLU())
    x, scale = torch.randn(2, 3, 8, 8), torch.randn(4, 1, 1)

    def loss(net: torch.nn.Module, device: str, factor: torch.Tensor) -> torch.Tensor:
        a, b = (net(x.to(device)) * factor).chunk(2, dim=1)
        return (a * b.sigmoid() + a.max(-1, keepdim=True).values).mean()

    factors = [scale.clone().to(device).requires_grad_() for device in ("cpu", "cuda")]
    parameters = [*host.parameters(), factors[0]]
    expected = torch.autograd.grad(loss(host, "cpu", factors[0]), parameters)
    on_gpu = host.to("cuda")
    loss(on_gpu, "cuda", factors[1]).backward()
    for right, parameter in zip(expected, (*on_gpu.parameters(), factors[1]), strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad.cpu(), right)


def alike(on_host: Prediction, on_gpu: Prediction) -> None:
    np.testing.assert_allclose(on_gpu.scores, on_host.scores, rtol=1e-3, atol=1e-5)
    assert (on_host.maps is None) == (on_gpu.maps is None)
    if on_host.maps is not None and on_gpu.maps is not None:
        np.testing.assert_allclose(on_gpu.maps, on_host.maps, rtol=1e-2, atol=1e-4)
    for name, part in on_host.parts.items():
        np.testing.assert_allclose(on_gpu.parts[name], part, rtol=1e-3, atol=1e-5)


def cell(
    build: Callable[[], Method],
    device: str,
    support: Support = SUPPORT,
    queries: Queries | None = None,
    learned: Auxiliary | None = None,
    state: Arrays | None = None,
) -> Prediction:
    """What a method says of queries after all that comes before."""
    method = build()
    method.setup(device, memory())
    if method.auxiliary:
        method.load(method.train(learned) if learned is not None else state or {})
    method.fit(support)
    return method.predict(queries or Queries(QUERIES))


METHODS: dict[str, Callable[[dict[str, str]], Method]] = {
    "patchcore": lambda _: Patchcore(encoder=CNN, size=64, coreset=0.5, neighbours=2),
    "patchcore, all": lambda _: Patchcore(encoder=CNN, size=64, coreset=1),
    "padim": lambda _: Padim(encoder=CNN, size=64, channels=20),
    "padim, all channels": lambda _: Padim(encoder=CNN, size=64, channels=None),
    "winclip": lambda clip: Winclip(encoder=clip, size=SIZE),
    "winclip, micro": lambda _: Winclip(encoder={"model": "micro"}, size=128),
    "adp without concepts": lambda clip: Adp(
        encoder=clip, size=SIZE, concepts=(), label=True, windows=(2,)
    ),
    "coop": lambda clip: Coop(encoder=clip, size=SIZE, context=4, epochs=1, views=2),
    "inctrl": lambda clip: Inctrl(
        encoder=clip, size=SIZE, levels=(2, 3), epochs=1, steps=2, batch=4
    ),
    "o2n without personalization": lambda clip: O2n(
        encoder=clip, size=SIZE, fusion="sum", text="class-token", epochs=1
    ),
    "regad": lambda _: Regad(encoder=CNN, size=64, epochs=1, steps=1, batch=3, checkpointing=False),
    "regad, recomputing": lambda _: Regad(encoder=CNN, size=64, epochs=1, steps=1, batch=3),
}


@pytest.mark.parametrize("name", METHODS)
def test_a_method_does_on_a_gpu_what_it_does_on_the_host(name: str, clip: dict[str, str]) -> None:
    learned = auxiliary(2, 64 if "regad" in name else SIZE)
    queries = Queries(QUERIES, pictures(3, seed=2) if "o2n" in name else ())

    def run(device: str) -> Prediction:
        return cell(lambda: METHODS[name](clip), device, SUPPORT, queries, learned)

    on_host = run("cpu")
    with pretended_gpu():
        alike(on_host, run("cuda"))


@pytest.mark.parametrize(
    "params",
    [{}, {"fusion": "min"}, {"against": "excess", "autoencoder": ""}, {"text": "class-token"}],
    ids=str,
)
def test_one_to_normal_with_all_of_its_branches(
    params: dict[str, Any], clip: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    if "autoencoder" in params:
        base = dreambooth_fixtures.base_below(tmp_path_factory.getbasetemp())
        params = {**params, "autoencoder": base, "autoencoder_size": 32}
    support = Support(SUPPORT.images, "metal_nut", 0, (*SUPPORT.images, *pictures(3, seed=3)))
    queries = Queries(QUERIES, pictures(3, seed=2))

    def run(device: str) -> Prediction:
        built = lambda: O2n(encoder=clip, size=SIZE, epochs=1, **params)  # noqa: E731
        return cell(built, device, support, queries, auxiliary(None))

    on_host = run("cpu")
    with pretended_gpu():
        alike(on_host, run("cuda"))


def generated(generator: Any, support: Support, queries: tuple[Image, ...]) -> tuple[Any, ...]:
    """All that a generator does, its state taken back by itself on the way."""
    prior = generator.prepare(support.object_name, 0) if generator.prior else {}
    state = generator.customize(support, prior)
    generator.load({name: np.array(array) for name, array in state.items()}, support)
    return state, np.stack(generator.generate(3, 0)), generator.personalize(queries, 0)


DREAMBOOTHS: dict[str, dict[str, Any]] = {
    "full": {"train_steps": 2},
    "lora": {"tune": "lora", "rank": 2, "targets": "all", "train_steps": 2},
    "recomputing": {"checkpointing": True, "train_steps": 2, "scheduler": "dpmpp"},
    "nearest support": {"tune": "lora", "train_steps": 1, "select": "support", "guidance": 1},
    "all prompts": {"tune": "lora", "train_steps": 1, "select": "all", "start": "diffusers"},
    "damaged copies": {"tune": "lora", "train_steps": 2, "train_batch": 4, "damaged": 0.5},
}


@pytest.mark.parametrize("name", DREAMBOOTHS)
def test_dreambooth_does_on_a_gpu_what_it_does_on_the_host(
    name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    base = dreambooth_fixtures.base_below(tmp_path_factory.getbasetemp())
    params = {"base": base, **dreambooth_fixtures.FAST, "steps": 5, "sample_steps": 2}
    params |= DREAMBOOTHS[name]

    def run(device: str, precision: str) -> tuple[Any, ...]:
        generator = DreamBooth(**params, precision=precision)
        generator.setup(device, memory())
        return generated(generator, dreambooth_fixtures.SUPPORT, dreambooth_fixtures.QUERIES[:2])

    state, pool, kept = run("cpu", "fp32")
    with pretended_gpu():
        states, pools, again = run("cuda", "fp32")
        if name in ("full", "lora"):
            for precision in ("auto", "fp16")[: 1 + (name == "full")]:
                run("cuda", precision)
    assert states.keys() == state.keys()
    np.testing.assert_allclose(states["loss"], state["loss"], rtol=1e-3)
    # AdamW makes much of gradients that rounding decides about
    assert np.abs(pools.astype(int) - pool).mean() < 1
    assert np.abs(again.images.astype(int) - kept.images).mean() < 1
    np.testing.assert_allclose(again.similarity, kept.similarity, atol=0.02)


def test_textual_inversion_and_adp_do_on_a_gpu_what_they_do_on_the_host(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    pair = adp_fixtures.pair_below(tmp_path_factory.getbasetemp())
    fast = {**adp_fixtures.FAST, "train_steps": 2, "anomaly_steps": 2, "steps": 4}

    def run(device: str, **params: Any) -> tuple[Any, ...]:
        generator = TextualInversion(base=pair.base, encoder=pair.encoder, **fast, **params)
        generator.setup(device, memory())
        state, *images = generated(generator, adp_fixtures.SUPPORT, adp_fixtures.QUERIES[:2])
        support = Support(adp_fixtures.SUPPORT.images, "metal nut", customized=state)
        built = lambda: Adp(encoder=pair.encoder, size=SIZE, temperature=0.5, label=True)  # noqa: E731
        return (state, *images, cell(built, device, support))

    state, pool, kept, on_host = run("cpu")
    with pretended_gpu():
        states, pools, again, on_gpu = run("cuda", precision="fp32")
        run("cuda", checkpointing=True)
    for name in ("normal", "anomalous", "losses_normal", "losses_anomalous"):
        np.testing.assert_allclose(states[name], state[name], rtol=1e-2, atol=1e-4)
    assert dreambooth_fixtures.apart(pools, pool) <= 2
    assert dreambooth_fixtures.apart(again.images, kept.images) <= 2
    np.testing.assert_allclose(on_gpu.scores, on_host.scores, rtol=1e-2)


def test_micro_models_train_a_step_on_a_gpu(tmp_path: Path, gpu: None) -> None:
    corpus = Corpus(tmp_path, 48, write=True)
    corpus.render()
    with mock.patch("torch.cuda.is_available", return_value=True):
        for train in (train_autoencoder, train_clip, train_unet):
            train(tmp_path, corpus, 1e-9, False, 0)
    for stage in ("autoencoder", "clip", "unet"):
        assert torch.load(tmp_path / f"{stage}.pt", weights_only=True)["step"] == 1


#: results that are left where, or of a type, that only a GPU minds
PLANTED: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "to_tensor": lambda x: x.cpu(),
    "encode": lambda x: x.cpu(),
    "embed": lambda x: x.cpu(),
    "noised": lambda x: x.cpu(),
    "denoise": lambda x: x.cpu(),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_mistake_goes_by_on_the_host_and_not_here(
    name: str, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = dreambooth_fixtures.base_below(tmp_path_factory.getbasetemp())
    params = {**dreambooth_fixtures.FAST, "steps": 3, "tune": "lora", "train_steps": 1}
    params |= {"prior_images": 0, "prompts": 1}
    right = getattr(model, name)
    monkeypatch.setattr(model, name, lambda *args, **kwargs: PLANTED[name](right(*args, **kwargs)))

    def run(device: str) -> None:
        generator = DreamBooth(base=base, **params)
        generator.setup(device, memory())
        generated(generator, dreambooth_fixtures.SUPPORT, dreambooth_fixtures.QUERIES[:1])

    run("cpu")
    with pretended_gpu(), pytest.raises((RuntimeError, TypeError), match=r"device|host|cuda|type"):
        run("cuda")

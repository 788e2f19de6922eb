"""DreamBooth's images: personalized ones, those for the pool, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage

from harness import config
from harness.execution.memory.cache import FeatureMemory
from harness.interface import Arrays, Image, Support
from methods._o2n import prompts as o2n_prompts
from methods.generators.dreambooth import DreamBooth
from tests.dreambooth_fixtures import (
    QUERIES,
    SUPPORT,
    Make,
    apart,
    base_below,
    customized_on,
    images,
    maker,
    picture,
    reconstructions,
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return base_below(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def make(base: str) -> Make:
    return maker(base)


@pytest.fixture(scope="module")
def customized(base: str) -> tuple[DreamBooth, Arrays]:
    return customized_on(base)


# ------------------------------------------------------------------------------ personalization


def similarity(a: np.ndarray, b: np.ndarray) -> float:
    """SSIM at 240 x 240 by scipy, in float64."""
    reach = np.arange(11) - 5
    bell = np.exp(-(reach[:, None] ** 2 + reach**2) / 4.5)[None]

    def grey(pixels: np.ndarray) -> np.ndarray:
        image = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None] / 255
        image = torch.nn.functional.interpolate(image, (240, 240), mode="bilinear", antialias=True)
        return image[0].double().numpy()

    def smooth(x: np.ndarray) -> np.ndarray:
        return ndimage.correlate(x, bell / bell.sum())[:, 5:-5, 5:-5]

    p, q = grey(a), grey(b)
    mp, mq = smooth(p), smooth(q)
    vp, vq, both = smooth(p * p) - mp**2, smooth(q * q) - mq**2, smooth(p * q) - mp * mq
    top = (2 * mp * mq + 1e-4) * (2 * both + 9e-4)
    return float((top / ((mp**2 + mq**2 + 1e-4) * (vp + vq + 9e-4))).mean())


@pytest.mark.parametrize("start", ["exact", "diffusers"])
def test_strength_zero_is_the_autoencoders_reconstruction(
    make: Make, base: str, customized: tuple[DreamBooth, Arrays], start: str
) -> None:
    generator = make(tune="lora", rank=2, strength=0.0, start=start)
    generator.load(customized[1], SUPPORT)
    images = generator.personalize(QUERIES, 0).images
    assert apart(images, reconstructions(base, QUERIES)) <= 1
    assert apart(images, customized[0].personalize(QUERIES, 0).images) > 5


def test_small_strengths_approach_the_reconstruction(
    make: Make, base: str, customized: tuple[DreamBooth, Arrays]
) -> None:
    distances = []
    for strength in (0.002, 0.1, 0.6):
        generator = make(tune="lora", rank=2, strength=strength, prompts=1, guidance=1.0)
        generator.load(customized[1], SUPPORT)
        images = generator.personalize(QUERIES, 0).images
        distances.append(np.abs(images - reconstructions(base, QUERIES).astype(float)).mean())
    assert distances[0] < distances[1] < distances[2]


def test_strength_one_does_not_depend_on_the_query(
    make: Make, customized: tuple[DreamBooth, Arrays]
) -> None:
    for strength, same in ((1.0, True), (0.9, False)):
        generator = make(tune="lora", rank=2, strength=strength, select="all", guidance=1.5)
        generator.setup("cpu", FeatureMemory(1 << 28))
        generator.load(customized[1], SUPPORT)
        one = generator.personalize([Image("a", picture(1))], 0).images
        other = generator.personalize([Image("b", picture(2))], 0).images
        generator.setup("cpu", FeatureMemory(1 << 28))  # forget the latents of "a"
        generator.load(customized[1], SUPPORT)
        swapped = generator.personalize([Image("a", picture(2))], 0).images
        assert np.array_equal(one, swapped) == same
        assert not np.array_equal(one, other)


def test_same_seed_same_image_whatever_the_batch_or_the_shard(
    customized: tuple[DreamBooth, Arrays],
) -> None:
    generator, _ = customized
    whole = generator.personalize(QUERIES, 5)
    again = generator.personalize(QUERIES[::-1], 5)
    assert np.array_equal(whole.images, again.images[::-1])
    assert np.array_equal(whole.similarity, again.similarity[::-1])
    shards = [generator.personalize(some, 5) for some in (QUERIES[:1], QUERIES[1:])]
    assert np.array_equal(whole.images, np.concatenate([s.images for s in shards]))
    assert np.array_equal(whole.chosen, np.concatenate([s.chosen for s in shards]))
    assert not np.array_equal(whole.images, generator.personalize(QUERIES, 6).images)
    none = generator.personalize((), 5)
    assert none.images.shape == (0, 32, 32, 3)
    assert none.similarity.shape == (0, 3)


def test_all_prompts_of_a_query_share_its_noise(
    make: Make, customized: tuple[DreamBooth, Arrays]
) -> None:
    generator = make(tune="lora", rank=2, select="all", guidance=0.0)
    generator.load(customized[1], SUPPORT)
    # without any weight on the prompt, images of equal noise are equal
    tries = generator.personalize(QUERIES, 1).images.reshape(4, 3, 32, 32, 3)
    assert np.array_equal(tries[:, 0], tries[:, 1])
    assert np.array_equal(tries[:, 0], tries[:, 2])
    single = make(tune="lora", rank=2, prompts=1)
    single.load(customized[1], SUPPORT)
    three = make(tune="lora", rank=2, select="all")
    three.load(customized[1], SUPPORT)
    first = three.personalize(QUERIES, 1).images.reshape(4, 3, 32, 32, 3)[:, 0]
    assert apart(single.personalize(QUERIES, 1).images, first) <= 1


def test_the_prompt_is_chosen_by_similarity(
    make: Make, customized: tuple[DreamBooth, Arrays]
) -> None:
    chosen_by = {}
    for select in ("all", "similar", "dissimilar", "support"):
        generator = make(tune="lora", rank=2, prompts=5, select=select)
        generator.load(customized[1], SUPPORT)
        chosen_by[select] = generator.personalize(QUERIES[:2], 1)
    tries = chosen_by["all"].images.reshape(2, 5, 32, 32, 3)
    assert chosen_by["all"].chosen is None
    assert chosen_by["all"].prompts == o2n_prompts.normal_prompts("metal nut", 5)

    alike = chosen_by["all"].similarity
    for i in range(2):
        expected = [similarity(QUERIES[i].pixels, one) for one in tries[i]]
        assert np.allclose(alike[i], expected, atol=1e-4)
    near = [[max(similarity(x.pixels, o) for x in SUPPORT.images) for o in some] for some in tries]
    assert np.array_equal(chosen_by["support"].chosen, np.argmax(near, 1))
    for i in range(2):
        for select, expected in (("similar", alike[i].argmax()), ("dissimilar", alike[i].argmin())):
            assert chosen_by[select].chosen[i] == expected
            assert np.array_equal(chosen_by[select].images[i], tries[i, expected])
        assert np.array_equal(
            chosen_by["support"].images[i], tries[i, chosen_by["support"].chosen[i]]
        )


def test_queries_are_encoded_once_for_all_models(
    make: Make, customized: tuple[DreamBooth, Arrays]
) -> None:
    generator = make(tune="lora", rank=2)
    memory = FeatureMemory(1 << 28)
    generator.setup("cpu", memory)
    generator.load(customized[1], SUPPORT)
    generator.personalize(QUERIES, 0)
    assert memory.computed == 4
    generator.load(customized[1], Support(images(1), "cable", seed=4))
    generator.personalize(QUERIES, 9)
    assert memory.computed == 4
    assert memory.reused == 4


# ----------------------------------------------------------------------------------------- pool


def test_pool_is_composed_as_asked(make: Make, base: str, customized: Any) -> None:
    state = customized[1]

    def pool(n: int, seed: int = 0, **params: Any) -> list[np.ndarray]:
        generator = make(tune="lora", rank=2, **params)
        generator.load(state, SUPPORT)
        return list(generator.generate(n, seed))

    near = pool(5, text_share=0.4, pool_strength=0.0)
    # floor(5 x 0.4) from text, then the support round and round
    rebuilt = reconstructions(base, SUPPORT.images)
    assert [apart(x, rebuilt[i]) <= 1 for x, i in zip(near[2:], (0, 1, 0), strict=True)] == [
        True
    ] * 3
    text = pool(5, text_share=1.0)
    assert all(np.array_equal(a, b) for a, b in zip(near[:2], text[:2], strict=True))
    assert len({x.tobytes() for x in text}) == 5
    assert not np.array_equal(text[0], pool(1, seed=1, text_share=1.0)[0])
    assert all(x.shape == (32, 32, 3) and x.dtype == np.uint8 for x in near + text)
    assert pool(0) == []
    varied = pool(4, text_share=0.0)
    assert len({x.tobytes() for x in varied}) == 4


# -------------------------------------------------------------------------------------- the rest


OTHERS = {
    "strength": 0.5,
    "guidance": 1.0,
    "prompts": 1,
    "select": "dissimilar",
    "text_share": 0.0,
    "pool_strength": 0.6,
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_generating_and_personalizing_read_is_what_is_declared(
    make: Make, customized: tuple[DreamBooth, Arrays], name: str
) -> None:
    images = []
    for params in ({}, {name: OTHERS[name]}):
        generator = make(**params)
        generator.load(customized[1], SUPPORT)
        pool, kept = generator.generate(4, 0), generator.personalize(QUERIES[:2], 0).images
        images.append((np.stack(pool), kept))
    (pool, kept), (other_pool, other_kept) = images
    assert np.array_equal(pool, other_pool) == (name not in DreamBooth.generate_parameters)
    assert np.array_equal(kept, other_kept) == (name not in DreamBooth.personalize_parameters)


def test_prompts_are_those_of_figure_5() -> None:
    prompts = o2n_prompts.normal_prompts
    assert prompts("cable", 0) == ("",)
    assert prompts("cable", 1) == ("a photo of normal cable without flaw",)
    assert prompts("cable", 3) == (
        "a photo of normal cable without flaw",
        "a photo of normal cable without defect",
        "a photo of normal cable without damage",
    )
    assert prompts("cable", 10)[0] == "a photo of a small normal cable without flaw."
    assert prompts("cable", 10)[2] == "a bright photo of a normal cable without flaw."
    assert prompts("cable", 10)[9] == "a low resolution photo of a normal cable without flaw."
    assert prompts("cable", 5) == prompts("cable", 10)[:5] == prompts("cable", 30)[:5]
    assert len(set(prompts("cable", 30))) == 30
    assert sum("without damage" in p for p in prompts("cable", 30)) == 10
    with pytest.raises(ValueError, match=r"must be one of .* Got 4 instead"):
        prompts("cable", 4)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"tune": "half"}, "tune: expected"),
        ({"strength": 1.5}, "strength: expected"),
        ({"prompts": 4}, "prompts: expected"),
        ({"scheduler": "euler"}, "scheduler: expected"),
        ({"select": "best"}, "select: expected"),
        ({"start": "late"}, "start: expected"),
        ({"augment": "shear"}, "augment: expected"),
        ({"steps": 0}, "steps: expected"),
        ({"train_steps": 0}, "train_steps: expected"),
        ({"learning_rate": 0.0}, "learning_rate: expected"),
        ({"batch": 0}, "batch: expected"),
        ({"precision": "int8"}, "precision: expected"),
    ],
)
def test_wrong_parameters_are_refused(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        config.build("generator", "dreambooth", params)
    assert "\n" not in str(caught.value)


def test_what_cannot_work_is_said(make: Make, customized: tuple[DreamBooth, Arrays]) -> None:
    with pytest.raises(ValueError, match=r"size .* a multiple of 8 with base"):
        make(size=36)
    generator = make(tune="lora")
    with pytest.raises(RuntimeError, match="load a customized model's state first"):
        generator.personalize(QUERIES, 0)
    wrong = {"change.conv_in.weight": np.zeros((2, 2), np.float16)}
    with pytest.raises(ValueError, match=r"changes conv_in.weight of shape \(2, 2\).*another base"):
        generator.load(wrong, SUPPORT)


def test_other_sizes_than_the_native_one(make: Make) -> None:
    generator = make(tune="lora", rank=2, size=48, prompts=1)
    generator.customize(SUPPORT, generator.prepare("metal nut", 0))
    assert generator.personalize(QUERIES[:1], 0).images.shape == (1, 48, 48, 3)


def test_declarations_are_read_without_heavy_libraries() -> None:
    code = (
        "import sys; from harness.plugins import find; "
        "from harness.config.parameters import parameters; "
        "cls = find('generator', 'dreambooth'); "
        "assert cls.prior and 'strength' in parameters(cls); cls(base='micro').files(); "
        "bad = {'torch', 'diffusers', 'transformers', 'peft'} & set(sys.modules); "
        "assert not bad, bad"
    )
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

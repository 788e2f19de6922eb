"""What One-to-Normal promises, whatever its equations: of queries, banks, costs and bad input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import config
from harness.errors import InputError
from harness.interface import Image, Queries
from methods._o2n import compare
from methods._o2n.text import TextLayers
from methods._ops.prompts import unit
from methods.generators.dreambooth import DreamBooth
from methods.o2n import O2n
from tests.clip_fixtures import SIZE, memory, pictures, write_config
from tests.o2n_fixtures import PERSONALIZED, POOL, QUERIES, REFERENCES, o2n, predict, support
from tests.tiny_base import save_tiny_base


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_config(tmp_path_factory.mktemp("o2n"))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny_base(tmp_path_factory.mktemp("o2n-base"))


def test_an_unchanged_query_scores_0(tiny: str) -> None:
    for parameters in ({}, {"scope": "same-cell"}, {"search": 3}, {"maximum": "of-mean"}):
        prediction = predict(o2n(tiny, **parameters), POOL[1:4], POOL[1:4])
        assert not prediction.parts["S_P"].any()
        assert not prediction.parts["S_N"].any()
        assert not prediction.part_maps["S_P"].any()
        assert not prediction.part_maps["S_N"].any()
        assert (prediction.parts["S_text"] > 0).all()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), few=st.integers(1, 20), more=st.integers(0, 20))
def test_a_larger_bank_is_never_farther(seed: int, few: int, more: int) -> None:
    random = torch.Generator().manual_seed(seed)
    queries = unit(torch.randn(2, 9, 5, generator=random))
    bank = unit(torch.randn(few + more, 9, 5, generator=random))
    for distance, shape in (
        (compare.bank_distance, lambda b: b.flatten(0, 1)),
        (compare.bank_distance_in_place, lambda b: b),
    ):
        small = distance(queries, shape(bank[:few]))
        large = distance(queries, shape(bank))
        assert bool((large <= small + 1e-6).all())
        assert 0 <= float(large.min()) <= float(large.max()) <= 2 + 1e-6


def test_a_bank_larger_than_the_memory_for_it_gives_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    random = torch.Generator().manual_seed(0)
    queries = unit(torch.randn(5, 9, 4, generator=random))
    bank = unit(torch.randn(50, 4, generator=random))
    whole = compare.bank_distance(queries, bank)
    monkeypatch.setitem(compare._BUDGET, "cpu", 9 * 7)
    torch.testing.assert_close(compare.bank_distance(queries, bank), whole)


@pytest.mark.parametrize("text", ["adapter", "class-token"])
def test_no_query_or_order_changes_a_score(tiny: str, text: str) -> None:
    method = o2n(tiny, text=text)
    queries, personalized = pictures(35, seed=5), pictures(35, seed=6)  # more than one block
    prediction = predict(method, queries, personalized)
    mixed = support(REFERENCES[::-1], (*POOL[3:], *POOL[:3]))
    for place in (0, 7, 34):
        alone = predict(method, queries[place : place + 1], personalized[place : place + 1], mixed)
        for name, values in prediction.parts.items():
            assert np.array_equal(alone.parts[name], values[place : place + 1])
        assert np.array_equal(alone.maps, prediction.maps[place : place + 1])


def test_branches_see_what_is_theirs(tiny: str) -> None:
    features = memory()
    one = predict(o2n(tiny, features)).parts
    other_bank = predict(o2n(tiny, features), cell=support(pool=pictures(4, seed=8))).parts
    other_images = predict(o2n(tiny, features), personalized=pictures(3, seed=9)).parts
    untrained = TextLayers.fresh([32] * 3, 24, seed=1, device="cpu").arrays()
    other_layers = predict(o2n(tiny, features, state=untrained)).parts
    for other, changed in ((other_bank, "S_N"), (other_images, "S_P"), (other_layers, "S_text")):
        for name, values in one.items():
            assert np.array_equal(values, other[name]) == (name != changed)


def test_text_scores_are_probabilities(tiny: str) -> None:
    for text in ("adapter", "class-token"):
        prediction = predict(o2n(tiny, text=text))
        for values in (prediction.parts["S_text"], prediction.part_maps["S_text"]):
            assert 0 <= values.min() <= values.max() <= 1


def test_maps_only_where_they_are_wanted(tiny: str) -> None:
    method = o2n(tiny)
    method.fit(support())
    prediction = method.predict(Queries(QUERIES, PERSONALIZED, maps=False))
    assert prediction.maps is None
    assert not prediction.part_maps
    assert np.array_equal(prediction.scores, predict(method).scores)


def test_a_second_support_costs_its_own_images_only(tiny: str) -> None:
    features = memory()
    method = o2n(tiny, features)
    predict(method)
    before = features.computed
    predict(method, personalized=pictures(3, seed=30), cell=support(pool=pictures(4, seed=31)))
    assert features.computed - before == 3 + 4  # personalized images and pool, no query


def test_crop_looks_at_the_centre_of_query_and_personalized_image_alike(tiny: str) -> None:
    wide = pictures(2, height=48, width=96, seed=40)
    squeezed = [Image(f"{i.key}s", np.ascontiguousarray(i.pixels[:, ::2])) for i in wide]
    method = o2n(tiny, crop=True)
    prediction = predict(method, wide, squeezed)
    centre = [Image(f"{i.key}c", np.ascontiguousarray(i.pixels[:, 24:72])) for i in wide]
    direct = predict(o2n(tiny), centre, PERSONALIZED[:2])
    np.testing.assert_allclose(prediction.parts["S_N"], direct.parts["S_N"], rtol=1e-6)
    np.testing.assert_allclose(prediction.parts["S_text"], direct.parts["S_text"], rtol=1e-6)
    assert prediction.maps.shape == (2, SIZE, SIZE)
    for cut, whole in zip(prediction.part_maps["S_N"], direct.part_maps["S_N"], strict=True):
        assert (cut[:, :10] == whole.min()).all()  # what was not looked at
        assert (cut[:, -10:] == whole.min()).all()
        np.testing.assert_allclose(
            cut[:, 13:35], (whole[:, 2::2] + whole[:, 3::2])[:, :22] / 2, atol=1e-4
        )
    same = predict(method, QUERIES, PERSONALIZED)  # square ones are not cropped
    assert np.array_equal(same.scores, predict(o2n(tiny)).scores)


def test_floor_is_what_the_autoencoder_alone_changes(tiny: str, base: str) -> None:
    """A generator at strength 0 gives the autoencoder's reconstruction (t to 0)."""
    features = memory()
    generator = DreamBooth(
        base=base, tune="lora", rank=2, train_steps=1, copies=1, prompts=1, strength=0.0
    )
    generator.setup("cpu", features)
    cell = support()
    generator.load(generator.customize(cell, {}), cell)
    rebuilt = generator.personalize(QUERIES, 0).images
    personalized = [Image(f"made-{i}", pixels) for i, pixels in enumerate(rebuilt)]
    prediction = predict(
        o2n(tiny, features, autoencoder=base, autoencoder_size=32), QUERIES, personalized
    )
    assert np.array_equal(prediction.parts["S_P"], prediction.parts["floor"])
    assert (prediction.parts["floor"] > 0.01).all()
    assert "floor" not in prediction.part_maps
    plain = predict(o2n(tiny, features), QUERIES, personalized)
    assert np.array_equal(plain.scores, prediction.scores)
    against = o2n(tiny, features, autoencoder=base, against="reconstruction")
    assert not predict(against, QUERIES, personalized).parts["S_P"].any()


def test_the_floor_depends_on_nothing_but_the_query(tiny: str, base: str) -> None:
    features = memory()
    method = o2n(tiny, features, autoencoder=base)
    one = predict(method).parts["floor"]
    before = features.computed
    other = predict(method, personalized=pictures(3, seed=9), cell=support(pool=POOL[:2]))
    assert np.array_equal(one, other.parts["floor"])
    assert features.computed - before == 3  # the new personalized images


def test_what_is_missing_is_said(tiny: str, base: str) -> None:
    with pytest.raises(ValueError, match="expected a personalized image of each of 3 queries"):
        predict(o2n(tiny), personalized=())
    with pytest.raises(RuntimeError, match="load the trained linear layers first"):
        predict(o2n(tiny, state=None))
    with pytest.raises(ValueError, match=r"layers are for levels of \[32, 32, 32\] channels, but"):
        o2n(tiny, levels=[1, 2])
    method = O2n(encoder={"model": "tf_efficientnet_lite0", "weights": "random:0"})
    with pytest.raises(ValueError, match="embeds no sentences"):
        method.setup("cpu", memory())
    with pytest.raises(ValueError, match="autoencoder_size must be a multiple of 4"):
        o2n(tiny, autoencoder=base, autoencoder_size=31)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"text": "clip"}, "text: expected"),
        ({"scope": "cell"}, "scope: expected"),
        ({"bank": "refs"}, "bank: expected"),
        ({"maximum": "mean"}, "maximum: expected"),
        ({"selection": "ssim"}, "selection: expected"),
        ({"against": "vae"}, "against: expected"),
        ({"against": "reconstruction"}, "against: reconstruction needs `autoencoder`"),
        ({"autoencoder_size": 64}, "autoencoder_size needs `autoencoder`"),
        ({"alpha": -1.0}, "alpha: expected"),
        ({"beta": float("nan")}, "beta: expected"),
        ({"sigma": float("inf")}, "sigma: expected"),
        ({"temperature": 0.0}, "temperature: expected"),
        ({"mosaic": 1.5}, "mosaic: expected"),
        ({"search": 2}, "search: expected"),
        ({"levels": []}, "levels: expected"),
        ({"levels": [0, 3]}, "levels: expected"),
        ({"epochs": 0}, "epochs: expected"),
        ({"size": 0}, "size: expected"),
        ({"encoder": {"weights": "openai"}}, "encoder must be"),
    ],
)
def test_wrong_values_are_refused_before_anything_is_loaded(parameters, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config.build("method", "o2n", parameters)


def test_defaults_are_the_papers() -> None:
    method = O2n()
    assert (method.size, method.alpha, method.beta) == (240, 1.0, 0.5)
    assert method.encoder == {"model": "ViT-L-14-336", "weights": "openai"}
    assert (method.generator, method.personalized, method.auxiliary) == (True, True, True)
    assert compare.default_levels(dict.fromkeys(range(1, 25), 1024)) == (6, 12, 18, 24)
    assert compare.default_levels({1: 16, 2: 24, 3: 40, 4: 112}) == (2, 3, 4)


SWEEP = """
name: x
datasets: [{use: surfaces}]
methods: [{use: o2n%s}]
generators: {g: {use: dreambooth}}
shots: [2]
seeds: [0]
"""


def problems(tmp_path: Path, method: str, tail: str = "") -> str:
    path = tmp_path / "sweep.yaml"
    path.write_text(SWEEP % method + tail)
    try:
        config.load(path)
    except InputError as error:
        return "\n".join(map(str, error.problems))
    return ""


def test_a_sweep_must_name_a_generator_and_an_auxiliary_dataset(tmp_path: Path) -> None:
    auxiliary = "auxiliary: [{use: mvtec}]"
    assert "o2n needs a generator" in problems(tmp_path, "", auxiliary)
    assert "trains on an auxiliary dataset" in problems(tmp_path, ", generator: g")
    assert problems(tmp_path, ", generator: g", auxiliary) == ""
    assert problems(tmp_path, ", generator: g, params: {text: class-token}") == ""
    wrong = ", generator: g, params: {alpa: 1}"
    assert "no such parameter" in problems(tmp_path, wrong, auxiliary)
    assert "expected a number" in problems(
        tmp_path, ", generator: g, params: {alpha: much}", auxiliary
    )


def test_the_embedded_models_keep_the_promises() -> None:
    features = memory()
    spec = {"model": "micro", "weights": "embedded"}
    if not (Path(__file__).parents[1] / "methods/micro/clip/model.safetensors").is_file():
        pytest.skip("the embedded models are not in this checkout")
    method = O2n(encoder=spec, size=128, text="class-token")
    assert "micro" in method.note
    method.setup("cpu", features)
    prediction = predict(method)
    assert ((prediction.parts["S_P"] > 0) & (prediction.parts["S_N"] > 0)).all()
    for values in (prediction.parts["S_text"], prediction.part_maps["S_text"]):
        assert 0 <= values.min() <= values.max() <= 1
    same = predict(method, POOL[1:4], POOL[1:4])
    assert not same.parts["S_P"].any()
    assert not same.parts["S_N"].any()
    alone = predict(method, QUERIES[1:2], PERSONALIZED[1:2], support(REFERENCES, POOL[::-1]))
    assert np.array_equal(alone.scores, prediction.scores[1:2])
    fewer = predict(method, cell=support(pool=POOL[:3]))
    assert (prediction.parts["S_N"] <= fewer.parts["S_N"] + 1e-6).all()

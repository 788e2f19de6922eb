"""Textual inversion: what is learned and what is not, and the images made under it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness import config
from harness.execution.memory.cache import FeatureMemory
from harness.interface import Arrays, Image, Support
from methods._diffusion import edit as _edit
from methods._diffusion import inversion
from methods._diffusion import model as diffusion
from methods._learned import concepts
from methods.generators.textual_inversion import TextualInversion
from tests.adp_fixtures import FAST, QUERIES, SUPPORT, Pair, learned_on, pair_below, stored
from tests.dreambooth_fixtures import apart, images, reconstructions
from tests.tiny_base import save_tiny_base


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return pair_below(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> tuple[TextualInversion, Arrays]:
    return learned_on(tmp_path_factory.getbasetemp())


# ------------------------------------------------------------------------------ words and captions


def test_a_concept_of_a_words_own_vector_is_that_word(pair: Pair) -> None:
    generator = pair.generator()
    parts, tower = generator._parts, generator._encoder.text
    for words in ("nut", "metal nut"):
        concept = torch.stack([inversion.word_of(parts, word) for word in words.split()])
        patterns = ["a photo of a {}", "{} with damage", "a photo", "the {}, alone"]
        captions = inversion.Captions(parts, patterns, len(concept))
        embedded = captions(concept, torch.tensor([2, 0, 1, 3, 0]))
        filled = [patterns[i].format(words) for i in (2, 0, 1, 3, 0)]
        assert torch.allclose(embedded, diffusion.embed(parts, filled), atol=1e-5)
        sentences = concepts.Sentences(tower, patterns[:2], len(concept))(concept)
        expected = generator._encoder.encode_text([p.format(words) for p in patterns[:2]])
        assert torch.allclose(sentences, expected / expected.norm(dim=1, keepdim=True), atol=1e-5)
        other = captions(concept.flip(1), torch.arange(4))
        plain = diffusion.embed(parts, [p.format(words) for p in patterns])
        assert torch.allclose(other[2], plain[2], atol=1e-5)  # it has no place for a concept
        assert (other - plain).abs().amax((1, 2))[[0, 1, 3]].min() > 1e-3


def test_the_micro_models_share_their_words() -> None:
    generator = TextualInversion(base="micro", encoder={"model": "micro"}, encoder_size=96)
    generator.setup("cpu", FeatureMemory(1 << 28))
    tower, parts = generator._encoder.text, generator._parts
    for word in ("object", "surface", "flawless", "damaged"):
        assert concepts.alike(concepts.word_vector(tower, word), inversion.word_of(parts, word))
    assert not concepts.alike(concepts.word_vector(tower), inversion.word_of(parts, "surface"))
    words = torch.stack([concepts.word_vector(tower, word) for word in ("wire", "grid")])
    expected = concepts.states_of(tower, "wire grid")
    assert torch.allclose(concepts.states_of(tower, words), expected, atol=1e-5)
    assert expected.shape == (2, 22, 128)
    assert generator._tau == pytest.approx(0.065, abs=0.001)


def test_a_clip_of_other_words_is_refused(pair: Pair, tmp_path: Path) -> None:
    strange = save_tiny_base(tmp_path)
    table = Path(strange, "text_encoder", "model.safetensors")
    from safetensors.torch import load_file, save_file

    state = load_file(table)
    name = next(n for n in state if "token_embedding" in n)
    state[name] = torch.randn(state[name].shape)
    save_file(state, table, {"format": "pt"})
    with pytest.raises(ValueError, match="have other vectors for the word 'object'; take the CLIP"):
        pair.generator(base=strange)
    with pytest.raises(ValueError, match="one token; 'photovoltaic cells' is"):
        pair.generator(word="photovoltaic cells")


# --------------------------------------------------------------------------------------- learning


def frozen(generator: TextualInversion) -> dict[str, torch.nn.Module]:
    parts = generator._parts
    encoder = generator._encoder
    named = {"unet": generator._unet, "vae": parts.vae, "text": parts.text_encoder}
    return named | {"clip": encoder.text.tower, "visual": encoder.vision.visual}


def test_gradients_reach_the_concept_and_nothing_else(pair: Pair) -> None:
    generator = pair.generator()
    before = {
        f"{part}.{name}": weight.clone()
        for part, model in frozen(generator).items()
        for name, weight in model.state_dict().items()
    }
    state = generator.customize(SUPPORT, {})
    for part, model in frozen(generator).items():
        assert not model.training
        assert not model._forward_hooks
        for name, weight in model.named_parameters():
            assert weight.grad is None, f"{part}.{name}"
            assert not weight.requires_grad, f"{part}.{name}"
        for name, weight in model.state_dict().items():
            assert torch.equal(weight, before[f"{part}.{name}"]), f"{part}.{name}"
    start = concepts.word_vector(generator._encoder.text).numpy()
    assert np.array_equal(state["object"], start)
    assert np.abs(state["normal"][0] - start).max() > 0.01
    assert np.abs(state["anomalous"] - state["normal"]).max() > 0.01


def test_the_gradient_is_that_of_the_error(pair: Pair) -> None:
    """Central differences of the denoising error along random directions of the concept."""
    generator = pair.generator()
    parts, unet = generator._parts, generator._unet
    captions = inversion.Captions(parts, concepts.INVERSION, 2)
    random = torch.Generator().manual_seed(0)
    z, noise = torch.randn(2, 3, 4, 8, 8, generator=random)
    t, which = torch.tensor([100, 500, 900]), torch.tensor([0, 7, 26])

    def error(concept: torch.Tensor) -> torch.Tensor:
        return inversion.denoising_error(parts, unet, z, noise, t, captions(concept, which)).sum()

    concept = torch.randn(2, 16, generator=random).requires_grad_()
    (gradient,) = torch.autograd.grad(error(concept), [concept])
    assert float(gradient.abs().max()) > 0
    for _ in range(4):
        way = torch.randn(2, 16, generator=random)
        with torch.no_grad():
            rise = float(error(concept + 0.05 * way) - error(concept - 0.05 * way)) / 0.1
        assert rise == pytest.approx(float((gradient * way).sum()), rel=0.05, abs=2e-5)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_error_is_that_of_a_loop(pair: Pair, tmp_path: Path, prediction: str) -> None:
    """log p of Eq. 3, up to its constant, one latent value at a time in float64."""
    base = save_tiny_base(tmp_path, prediction_type=prediction)
    parts, unet = diffusion.load_parts(base, "cpu"), diffusion.load_unet(base, "cpu")
    random = torch.Generator().manual_seed(0)
    z, noise = torch.randn(2, 3, 4, 8, 8, generator=random)
    t, text = torch.tensor([10, 400, 990]), torch.randn(3, 77, 16, generator=random)
    errors = inversion.denoising_error(parts, unet, z, noise, t, text)
    unet.double()
    for i in range(3):
        abar = float(np.prod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000)[: int(t[i]) + 1] ** 2))
        clean, added = z[i].double(), noise[i].double()
        noisy = abar**0.5 * clean + (1 - abar) ** 0.5 * added
        with torch.no_grad():
            predicted = unet(
                noisy[None], t[i], encoder_hidden_states=text[i : i + 1].double()
            ).sample[0]
        target = added
        if prediction == "v_prediction":
            target = abar**0.5 * added - (1 - abar) ** 0.5 * clean
        pairs = zip(predicted.flatten().tolist(), target.flatten().tolist(), strict=True)
        squares = [(a - b) ** 2 for a, b in pairs]
        assert float(errors[i]) == pytest.approx(sum(squares) / len(squares), rel=1e-4)


def test_learning_lowers_the_error_and_raises_the_gain(pair: Pair) -> None:
    generator = pair.generator(train_steps=25, objective="inversion")
    parts, unet = generator._parts, generator._unet
    state = generator.customize(SUPPORT, {})
    z = generator._editor.latents(SUPPORT.images).repeat(10, 1, 1, 1)
    random = torch.Generator().manual_seed(5)
    noise = torch.randn(z.shape, generator=random)
    t = torch.randint(1000, (30,), generator=random)
    captions = inversion.Captions(parts, concepts.INVERSION, 1)
    which = torch.randint(27, (30,), generator=random)

    def error(concept: torch.Tensor) -> float:
        with torch.no_grad():
            text = captions(concept, which)
            return float(inversion.denoising_error(parts, unet, z, noise, t, text).mean())

    assert error(torch.from_numpy(state["normal"])) < error(generator._begin)
    guided = pair.generator(train_steps=15, train_batch=1, anomaly_steps=0, alpha=100.0)
    gain = guided.customize(SUPPORT, {})["losses_normal"][:, 1]
    assert gain[-1] > gain[0]


def test_without_clip_it_is_plain_textual_inversion(pair: Pair, learned: Any) -> None:
    plain = pair.generator(objective="inversion").customize(SUPPORT, {})
    assert set(plain) == {"normal", "losses_normal", "object"}
    assert (plain["losses_normal"][:, 1] == 0).all()
    assert plain["normal"].shape == (1, 16)
    unguided = pair.generator(alpha=0.0).customize(SUPPORT, {})
    assert np.array_equal(unguided["normal"], plain["normal"])
    assert not np.array_equal(learned[1]["normal"], plain["normal"])


def test_the_hinge_counts_in_what_is_learned(pair: Pair, learned: Any) -> None:
    def anomalous(**params: Any) -> np.ndarray:
        return pair.generator(alpha=1.0, **params).customize(SUPPORT, {})["anomalous"]

    assert np.array_equal(anomalous(gamma=1.0), anomalous(gamma=0.99))  # nothing is above either
    assert not np.array_equal(anomalous(gamma=1.0), anomalous(gamma=0.1))
    more = pair.generator(vectors=3).customize(SUPPORT, {})
    assert more["anomalous"].shape == (3, 16)


def test_same_seed_same_state_in_any_order_whatever_the_name(pair: Pair, learned: Any) -> None:
    state = learned[1]
    torch.manual_seed(1)
    other = Support(SUPPORT.images[::-1], "a name that nobody reads", seed=3)
    again = pair.generator().customize(other, {})
    assert state.keys() == again.keys()
    assert all(np.array_equal(state[n], again[n]) for n in state)
    reseeded = pair.generator().customize(Support(SUPPORT.images, "metal nut", 4), {})
    assert not np.array_equal(state["normal"], reseeded["normal"])
    assert not np.array_equal(state["validation"], reseeded["validation"])


def test_a_step_too_large_for_the_memory_goes_in_turns(pair: Pair) -> None:
    states, seen = [], []
    for room in (100, 2):
        generator = pair.generator(train_batch=5, objective="inversion", train_steps=3)

        def tight(module: Any, inputs: Any, output: torch.Tensor, room: int = room) -> None:
            seen.append(len(output))
            if len(output) > room:
                raise torch.OutOfMemoryError("out of memory")

        hook = generator._unet.conv_in.register_forward_hook(tight)
        try:
            states.append(generator.customize(SUPPORT, {}))
        finally:
            hook.remove()
    # whole, whole with activations recomputed, then in turns
    assert seen == [5, 5, 5] + [5, 5, 3] + [2, 2, 1] * 3
    assert np.allclose(states[0]["losses_normal"], states[1]["losses_normal"], rtol=1e-4)
    assert np.allclose(states[0]["normal"], states[1]["normal"], atol=2e-3)
    generator = pair.generator()
    hook = generator._unet.conv_in.register_forward_hook(
        lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("out of memory"))
    )
    with pytest.raises(MemoryError, match="normal concept: one image does not fit"):
        generator.customize(SUPPORT, {})
    hook.remove()
    assert not generator._parts.text_encoder.get_input_embeddings()._forward_hooks


def test_recomputing_activations_changes_nothing(pair: Pair) -> None:
    states = [pair.generator(checkpointing=on).customize(SUPPORT, {}) for on in (False, True)]
    assert np.allclose(states[0]["losses_normal"], states[1]["losses_normal"], rtol=1e-4)
    assert np.allclose(states[0]["anomalous"], states[1]["anomalous"], atol=2e-3)


def test_mixed_precision_stays_close(pair: Pair, learned: Any) -> None:
    state = pair.generator(precision="bf16").customize(SUPPORT, {})
    assert np.allclose(state["losses_normal"], learned[1]["losses_normal"], rtol=0.03)


# ------------------------------------------------------------------------------------------ images


def test_pseudo_anomalies_are_edits_of_the_support_in_turn(pair: Pair) -> None:
    """Hardly edited and not cropped they are the support's reconstructions."""
    generator = pair.generator(strength=0.001, crop=1.0, encoder_size=32, validation=7)
    state = generator.customize(SUPPORT, {})
    assert state["validation"].shape == (7, 32, 32, 3)
    assert state["validation"].dtype == np.uint8
    rebuilt = reconstructions(pair.base, SUPPORT.images)
    near = [
        np.abs(pixels - rebuilt.astype(float)).mean((1, 2, 3)) for pixels in state["validation"]
    ]
    assert [int(gaps.argmin()) for gaps in near] == [0, 1, 2, 0, 1, 2, 0]
    edited = pair.generator(strength=0.6, crop=1.0, encoder_size=32).customize(SUPPORT, {})
    assert len({pixels.tobytes() for pixels in edited["validation"]}) == 5
    moved = np.abs(edited["validation"][:3] - rebuilt.astype(float)).mean()
    assert moved > 2 * np.mean([gaps.min() for gaps in near])


def test_both_sentences_of_damage_are_used(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[tuple[str, ...], torch.Tensor]] = []
    edit = _edit.Editor.edited

    def spy(self: Any, z: Any, noise: Any, conditions: torch.Tensor, *rest: Any) -> Any:
        asked.append(conditions)
        return edit(self, z, noise, conditions, *rest)

    monkeypatch.setattr(_edit.Editor, "edited", spy)
    generator = pair.generator(anomalies=7)
    state = generator.customize(SUPPORT, {})
    first, second = asked
    damage = ["a photo with damage", "a photo of an object with damage"]
    expected = diffusion.embed(generator._parts, damage)
    assert torch.allclose(first, expected[[0, 0, 0, 1, 1, 1, 0]], atol=1e-5)
    concept = torch.from_numpy(state["anomalous"])
    patterns = ["a photo of a damaged {}", "a photo of a {} with damage"]
    expected = inversion.Captions(generator._parts, patterns, 1)(concept, torch.arange(2))
    assert torch.allclose(second, expected[[0, 0, 0, 1, 1]], atol=1e-5)


def test_crops_show_their_share_of_the_image() -> None:
    y, x = np.mgrid[0:64, 0:80] / 255
    ramps = torch.from_numpy(np.stack([y, x, 0 * x]).astype(np.float32))[None].repeat(60, 1, 1, 1)
    random = torch.Generator().manual_seed(0)
    cropped = _edit.crops(ramps, 0.4, 32, random).astype(float)
    assert cropped.shape == (60, 32, 32, 3)
    spans = [np.ptp(cropped[..., c].mean(2 - c), axis=1) * 32 / 31 for c in (0, 1)]
    shares = spans[0] * spans[1] / (64 * 80)
    assert 0.34 < shares.min() < 0.55 < 0.8 < shares.max() <= 1.06
    ratios = spans[1] / spans[0] / (80 / 64)
    assert ratios.min() < 0.85 < 1.2 < ratios.max() < 1.45
    whole = _edit.crops(ramps[:2], 1.0, 32, random)
    assert np.array_equal(whole[0], whole[1])
    assert np.ptp(whole[0, ..., 1]) >= 76


def test_a_state_saved_and_loaded_gives_the_same_images(pair: Pair, learned: Any) -> None:
    generator, state = learned
    other = pair.generator()
    with pytest.raises(RuntimeError, match="load a state first"):
        other.generate(1, 0)
    other.load(stored(state), SUPPORT)
    images = generator.personalize(QUERIES, 5).images
    assert np.array_equal(other.personalize(QUERIES, 5).images, images)
    pool = generator.generate(4, 2)
    assert all(map(np.array_equal, other.generate(4, 2), pool))
    assert [p.shape for p in pool] == [(32, 32, 3)] * 4
    assert generator.generate(0, 2) == []
    plain = {**state, "normal": state["object"][None]}
    other.load(plain, SUPPORT)
    assert not np.array_equal(other.personalize(QUERIES, 5).images, images)
    alone = [generator.personalize((query,), 5).images[0] for query in QUERIES[::-1]]
    assert np.array_equal(np.stack(alone)[::-1], images)
    assert generator.personalize((), 5).images.shape == (0, 32, 32, 3)
    assert not np.array_equal(generator.personalize(QUERIES, 6).images, images)


def test_strength_zero_is_the_reconstruction(pair: Pair, learned: Any) -> None:
    generator = pair.generator(normal_strength=0.0)
    generator.load(learned[1], SUPPORT)
    images = generator.personalize(QUERIES, 0).images
    assert apart(images, reconstructions(pair.base, QUERIES)) <= 1


# ------------------------------------------------------------------------------------------ limits


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"objective": "dream"}, "objective: expected"),
        ({"alpha": -0.1}, "alpha: expected"),
        ({"alpha": float("nan")}, "alpha: expected"),
        ({"gamma": 1.5}, "gamma: expected"),
        ({"strength": 0.0}, "strength: expected"),
        ({"strength": 1.1}, "strength: expected"),
        ({"crop": 0.0}, "crop: expected"),
        ({"learning_rate": 0.0}, "learning_rate: expected"),
        ({"temperature": 0.0}, "temperature: expected"),
        ({"train_steps": -1}, "train_steps: expected"),
        ({"train_batch": 0}, "train_batch: expected"),
        ({"anomalies": 0}, "anomalies: expected"),
        ({"vectors": 0}, "vectors: expected"),
        ({"scheduler": "euler"}, "scheduler: expected"),
        ({"start": "late"}, "start: expected"),
        ({"precision": "fp16"}, "precision: expected"),
        ({"word": " "}, "word: expected"),
        ({"encoder": {"model": "ViT-H-14"}}, "encoder must be"),
    ],
)
def test_wrong_parameters_are_refused(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        config.build("generator", "textual_inversion", params)
    assert "\n" not in str(caught.value)


def test_what_cannot_work_is_said(pair: Pair, learned: Any) -> None:
    with pytest.raises(ValueError, match=r"size .* a multiple of 8 with base"):
        pair.generator(size=36)
    with pytest.raises(ValueError, match="holds no normal concept; name a textual_inversion"):
        pair.generator().load({"loss": np.zeros(3)}, SUPPORT)
    with pytest.raises(ValueError, match="another text encoder than the encoder's"):
        pair.generator().load({**learned[1], "object": np.ones(16, np.float32)}, SUPPORT)
    no_text = TextualInversion(
        base=pair.base, encoder={"model": "resnet10t", "weights": "random:0"}, **FAST
    )
    with pytest.raises(ValueError, match="embeds no sentences; take a CLIP"):
        no_text.setup("cpu", FeatureMemory(1 << 26))
    assert {path.name for path in pair.generator().files()} >= {
        "tiny.json",
        "clip.safetensors",
        "diffusion_pytorch_model.safetensors",
    }


def test_other_sizes_than_the_native_one(pair: Pair) -> None:
    generator = pair.generator(size=48, objective="inversion")
    generator.customize(Support((Image("one", images(1)[0].pixels),), "cable", 0), {})
    assert generator.personalize(QUERIES[:1], 0).images.shape == (1, 48, 48, 3)

"""Prompt sets word by word, and their mean embeddings."""

from __future__ import annotations

import torch

from methods._ops.prompts import (
    LINEAGE_TEMPLATES,
    TEMPLATES,
    anomalous_probability,
    compose,
    inctrl_prompts,
    prototypes,
)
from tests.clip_fixtures import memory


class Letters:
    """Embeds a sentence by its letters, and counts the sentences."""

    name = "letters"

    def __init__(self) -> None:
        self.asked = 0

    def encode_text(self, sentences: list[str]) -> torch.Tensor:
        self.asked += len(sentences)
        return torch.tensor(
            [[float(s.count(letter)) + 0.1 for letter in "aegnw"] for s in sentences]
        )


def test_published_sentences() -> None:
    normal, anomalous = compose("metal_nut")
    assert (len(normal), len(anomalous)) == (154, 88)
    assert len(set(normal)) == 154
    assert len(set(anomalous)) == 88
    assert all(s.endswith(".") and "metal nut" in s and "_" not in s for s in normal + anomalous)
    for sentence in (
        "a cropped photo of the metal nut.",
        "a jpeg corrupted photo of a flawless metal nut.",
        "a photo of a small perfect metal nut.",
        "a photo of the large unblemished metal nut.",
        "a close-up photo of a metal nut without flaw.",
        "a bright photo of the metal nut without defect.",
        "a photo of the metal nut without damage for visual inspection.",
    ):
        assert sentence in normal
    for sentence in (
        "a dark photo of the damaged metal nut.",
        "a blurry photo of a metal nut with flaw.",
        "a photo of a metal nut with defect for anomaly detection.",
        "a photo of the metal nut with damage.",
    ):
        assert sentence in anomalous


def test_lineage_lacks_two_and_repeats_one() -> None:
    assert len(LINEAGE_TEMPLATES) == 21
    assert set(TEMPLATES) - set(LINEAGE_TEMPLATES) == {
        "a cropped photo of a {}.",
        "a jpeg corrupted photo of a {}.",
    }
    assert LINEAGE_TEMPLATES.count("a jpeg corrupted photo of the {}.") == 2


def test_inctrl_asks_differently_of_natural_images() -> None:
    assert inctrl_prompts("horse") == (
        ["a photo of horse for anomaly detection."],
        ["a photo without horse for anomaly detection."],
    )
    assert inctrl_prompts("pill") == compose("pill")


def test_prototypes_are_normalised_means_and_computed_once() -> None:
    encoder, features = Letters(), memory()
    sentences = (["a wagon", "an eggplant"], ["wg"])
    first = prototypes(encoder, features, sentences)
    each = [torch.nn.functional.normalize(encoder.encode_text([s])[0], dim=0) for s in sentences[0]]
    expected = torch.nn.functional.normalize((each[0] + each[1]) / 2, dim=0)
    torch.testing.assert_close(first[0], expected)
    torch.testing.assert_close(first.norm(dim=1), torch.ones(2))

    raw = prototypes(encoder, features, sentences, normalize=False)
    mean = encoder.encode_text(sentences[0]).mean(dim=0)
    torch.testing.assert_close(raw[0], torch.nn.functional.normalize(mean, dim=0))
    assert not torch.allclose(raw, first)

    asked = encoder.asked
    assert prototypes(encoder, features, sentences) is first
    assert encoder.asked == asked
    # Other groups of the same words are other prototypes.
    prototypes(encoder, features, (["a wagon"], ["an eggplant", "wg"]))
    assert encoder.asked == asked + 3


def test_probability_is_the_softmax_over_two() -> None:
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn((2, 3, 4, 8), generator=generator) * 7
    text = torch.nn.functional.normalize(torch.randn((2, 8), generator=generator), dim=1)
    probability = anomalous_probability(embeddings, text, 0.07)
    assert probability.shape == (2, 3, 4)
    cosines = torch.nn.functional.cosine_similarity(embeddings[..., None, :], text, dim=-1)
    expected = (cosines[..., 1] / 0.07).exp() / (cosines / 0.07).exp().sum(dim=-1)
    torch.testing.assert_close(probability, expected)
    alone = anomalous_probability(embeddings[1:], text, 0.07)
    assert torch.equal(alone[0], probability[1])

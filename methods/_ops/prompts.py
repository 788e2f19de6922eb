"""Sentences that describe normal and anomalous objects, and their mean text embeddings.

The states and templates are WinCLIP's (Jeong et al., CVPR 2023, appendix).
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Protocol

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.interface import Features

NORMAL_STATES = (
    "{}",
    "flawless {}",
    "perfect {}",
    "unblemished {}",
    "{} without flaw",
    "{} without defect",
    "{} without damage",
)
ANOMALOUS_STATES = ("damaged {}", "{} with flaw", "{} with defect", "{} with damage")
_PATTERNS = (
    "a cropped photo of {article} {{}}.",
    "a close-up photo of {article} {{}}.",
    "a bright photo of {article} {{}}.",
    "a dark photo of {article} {{}}.",
    "a jpeg corrupted photo of {article} {{}}.",
    "a blurry photo of {article} {{}}.",
    "a photo of {article} {{}}.",
    "a photo of {article} small {{}}.",
    "a photo of {article} large {{}}.",
    "a photo of {article} {{}} for visual inspection.",
    "a photo of {article} {{}} for anomaly detection.",
)
TEMPLATES = tuple(
    pattern.format(article=article) for pattern in _PATTERNS for article in ("a", "the")
)
#: the list that zqhang/Accurate-WinCLIP-pytorch and anomalib share: two templates are missing and
#: one stands twice
LINEAGE_TEMPLATES = (
    *(
        template
        for template in TEMPLATES
        if template not in ("a cropped photo of a {}.", "a jpeg corrupted photo of a {}.")
    ),
    "a jpeg corrupted photo of the {}.",
)
#: whole images of these cannot be damaged; InCTRL asks whether the object is there at all
SEMANTIC = frozenset(
    "airplane automobile bird cat deer dog frog horse ship truck animal".split()  # noqa: SIM905
)


class TextEncoder(Protocol):
    """What prototypes need of an encoder."""

    name: str

    def encode_text(self, sentences: Sequence[str]) -> torch.Tensor:
        """Embeddings of shape (n, e), not normalised."""


def compose(object_name: str, templates: Sequence[str] = TEMPLATES) -> tuple[list[str], list[str]]:
    """Normal and anomalous sentences: every template with every state of the object."""
    words = object_name.replace("_", " ")

    def fill(states: Sequence[str]) -> list[str]:
        return [template.format(state.format(words)) for state in states for template in templates]

    return fill(NORMAL_STATES), fill(ANOMALOUS_STATES)


def inctrl_prompts(object_name: str) -> tuple[list[str], list[str]]:
    """InCTRL's sentences: WinCLIP's, or one pair for the categories of natural images."""
    words = object_name.replace("_", " ")
    if words in SEMANTIC:
        purpose = "for anomaly detection."
        return [f"a photo of {words} {purpose}"], [f"a photo without {words} {purpose}"]
    return compose(words)


def prototypes(
    encoder: TextEncoder,
    features: Features,
    sentences: tuple[Sequence[str], Sequence[str]],
    *,
    normalize: bool = True,
) -> torch.Tensor:
    """Unit mean embeddings of the normal and of the anomalous sentences.

    Computed once per worker, encoder and set of sentences.

    Parameters
    ----------
    encoder : TextEncoder
        Its ``name`` says everything its embeddings depend on besides the sentence.
    features : Features
        The worker's memory.
    sentences : pair of sequences of str
        Normal, anomalous.
    normalize : bool
        Whether each sentence's embedding is scaled to length 1 before they are averaged.

    Returns
    -------
    tensor of shape (2, e)
        Row 0 is normal, row 1 anomalous; each of length 1.
    """

    def compute() -> torch.Tensor:
        means = []
        for group in sentences:
            embeddings = encoder.encode_text(list(group))
            means.append((unit(embeddings) if normalize else embeddings).mean(dim=0))
        return unit(torch.stack(means))

    text = "\x1e".join("\x1f".join(group) for group in sentences)
    digest = hashlib.sha256(text.encode()).hexdigest()[:24]
    return features.get_or_create(f"prototypes {encoder.name} {normalize} {digest}", compute)


def anomalous_probability(
    embeddings: torch.Tensor, text: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Softmax over (normal, anomalous) of cosine / temperature, the anomalous entry.

    Parameters
    ----------
    embeddings : tensor of shape (n, ..., e)
        Embeddings of n images or of their windows, of any length but 0.
    text : tensor of shape (2, e) or (n, 2, e)
        Prototypes of length 1, shared by all images or each image's own.
    temperature : float
        Above 0; CLIP's own is 0.01.

    Returns
    -------
    tensor of shape (n, ...)
        In 0..1.
    """
    images = unit(embeddings).reshape(len(embeddings), -1, embeddings.shape[-1])
    # One product of equal shape per image, so that no image's last bits depend on the others.
    cosines = torch.bmm(images, text.transpose(-1, -2).expand(len(images), -1, -1))
    return torch.softmax(cosines / temperature, dim=-1)[..., 1].reshape(embeddings.shape[:-1])


def unit(vectors: torch.Tensor) -> torch.Tensor:
    """Vectors of shape (..., d) scaled to length 1; zero vectors stay zero."""
    return torch.nn.functional.normalize(vectors, dim=-1)

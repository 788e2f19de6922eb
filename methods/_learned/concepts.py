"""ADP's sentences, with concepts for words in them, and its equations on their embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from methods._ops.prompts import TEMPLATES, anomalous_probability, unit

#: S_n and S_a of section 3
STATES = ("flawless {}", "damaged {}")
#: what pseudo-anomalies are made of: sections 3.2 and 3.3
DAMAGE = ("a photo with damage", "a photo of an object with damage")
CONCEPT_DAMAGE = ("a photo of a damaged {}", "a photo of a {} with damage")
#: T of the diffusion term: the 27 object templates of textual inversion (Gal et al., ICLR 2023)
INVERSION = (
    *(
        f"a {kind} of {article} {{}}"
        for kind in ("photo", "rendition", "cropped photo", "close-up photo", "good photo")
        for article in ("a", "the")
    ),
    *(f"a photo of the {word} {{}}" for word in ("cool", "nice", "clean", "small", "large")),
    *(f"a photo of a {word} {{}}" for word in ("cool", "nice", "clean", "small", "dirty")),
    "a photo of the weird {}",
    "a photo of my {}",
    "a photo of one {}",
    "a bright photo of the {}",
    "a dark photo of the {}",
    "a rendering of a {}",
    "the photo of a {}",
)
#: the states in the templates, all of the normal one first: "a photo of a flawless {}." and so on
PATTERNS = tuple(template.format(state) for state in STATES for template in TEMPLATES)
_FILLER = "x"  # one token of every vocabulary of CLIP's; its vector is replaced
_TOLERANCE = 0.02  # of word vectors that were stored in half precision


class Sentences:
    """Embeddings g of sentences in which a concept stands for words.

    Parameters
    ----------
    tower : TextTower or HuggingTextTower
        CLIP's text encoder, entered at the word embeddings.
    patterns : sequence of str
        Sentences with ``{}`` where the concept comes.
    vectors : int
        Words that the concept is made of.
    """

    def __init__(self, tower: Any, patterns: Sequence[str], vectors: int) -> None:
        self._tower = tower
        words = " ".join([_FILLER] * vectors)
        with torch.no_grad():
            self._words, self._ends = tower.words([p.format(words) for p in patterns])
            # a sentence that stops before the concept ends where the concept begins
            begins = tower.words([p.partition("{}")[0] for p in patterns])[1]
        self._places = begins[:, None] + torch.arange(vectors, device=begins.device)

    def __call__(self, concept: torch.Tensor) -> torch.Tensor:
        """Unit embeddings (n, e) with the concept (vectors, d) in its place; differentiable."""
        words = self._words.clone()
        words[torch.arange(len(words), device=words.device)[:, None], self._places] = concept
        return unit(self._tower(words, self._ends))


def states_of(tower: Any, concept: torch.Tensor | str) -> torch.Tensor:
    """g(T(S(c))) for both states and all templates, of a concept or of plain words.

    Returns
    -------
    tensor of shape (2, T, e)
        Row 0 is S_n, row 1 S_a; each embedding of length 1.
    """
    if isinstance(concept, str):
        sentences = unit(tower(*tower.words([pattern.format(concept) for pattern in PATTERNS])))
    else:
        sentences = Sentences(tower, PATTERNS, len(concept))(concept)
    return sentences.unflatten(0, (2, -1))


def normal_probability(
    images: torch.Tensor, text: torch.Tensor, temperature: float
) -> torch.Tensor:
    """P_CLIP(S_n(c) | x, C(c), T) of Eq. 1.

    Parameters
    ----------
    images : tensor of shape (n, e)
        f(x), of any length but 0.
    text : tensor of shape (2, T, e)
        See ``states_of``.
    temperature : float
        tau.

    Returns
    -------
    tensor of shape (n,), in 0..1
    """
    return 1 - anomalous_probability(images, unit(text.mean(dim=1)), temperature)


def guidance(
    text: torch.Tensor,
    normal: torch.Tensor,
    anomalies: torch.Tensor,
    alpha: float,
    gamma: float,
    temperature: float,
) -> torch.Tensor:
    """What CLIP adds to the objective of a concept: the alpha terms of Eq. 4, divided by K.

    Parameters
    ----------
    text : tensor of shape (2, T, e)
        See ``states_of``.
    normal : tensor of shape (K, e)
        f(x_i) of the support.
    anomalies : tensor of shape (L, e)
        Of pseudo-anomalies; without any (L = 0) this is the alpha term of Eq. 3.
    alpha, gamma, temperature : float
        Weight of the terms; what the normal state's probability of a pseudo-anomaly may be; tau.

    Returns
    -------
    tensor of no dimensions, to be maximised
    """
    gain = normal_probability(normal, text, temperature).sum()
    if len(anomalies):
        excess = normal_probability(anomalies, text, temperature) - gamma
        gain = gain - excess.clamp_min(0).sum()
    return alpha * gain / len(normal)


def importance(
    text: torch.Tensor, normal: torch.Tensor, anomalies: torch.Tensor, temperature: float
) -> torch.Tensor:
    """w(c) of Eq. 5, in 0..2: how well a concept tells support from pseudo-anomalies.

    Parameters
    ----------
    text : tensor of shape (2, T, e)
        See ``states_of``.
    normal, anomalies : tensors of shape (K, e) and (L', e)
    temperature : float

    Returns
    -------
    tensor of no dimensions
    """
    sound = normal_probability(normal, text, temperature).mean()
    return sound + (1 - normal_probability(anomalies, text, temperature)).mean()


def mixed(texts: Sequence[torch.Tensor], weights: Sequence[torch.Tensor]) -> torch.Tensor:
    """Prototypes p_n and p_a of Eq. 6, each of length 1.

    Parameters
    ----------
    texts : sequence of tensors of shape (2, T, e)
        Of each concept, see ``states_of``.
    weights : sequence of tensors of no dimensions
        w of each concept, not all of them 0.

    Returns
    -------
    tensor of shape (2, e)
    """
    shares = torch.stack(list(weights))
    shares = (shares / shares.sum())[:, None, None, None]
    return unit((shares * torch.stack(list(texts))).sum(dim=0).mean(dim=1))


def word_vector(tower: Any, word: str = "object") -> torch.Tensor:
    """Embedding (d,) of a word, float32.

    Raises
    ------
    ValueError
        When the vocabulary has no such single word.
    """
    with torch.no_grad():
        words, ends = tower.words([word])
    if int(ends[0]) != 2:
        raise ValueError(
            f"a concept starts from a word that is one token; {word!r} is {int(ends[0]) - 1}"
        )
    return words[0, 1].float()


def alike(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two vectors of one word come from one table, give or take half precision."""
    if one.shape != other.shape:
        return False
    return bool((one - other).abs().max() <= _TOLERANCE * one.abs().max())


def concept_of(
    state: Mapping[str, np.ndarray], name: str, tower: Any, device: Any, who: str
) -> torch.Tensor:
    """A learned concept (vectors, d) out of a generator's state.

    Parameters
    ----------
    state : what ``textual_inversion`` learned
    name : "normal" or "anomalous"
    tower : text encoder that is to read it
    who : for the messages

    Raises
    ------
    ValueError
        There is no such concept, or it was learned among other words than the tower's.
    """
    if name not in state or "object" not in state:
        raise ValueError(
            f"{who}: the generator's state holds no {name} concept; name a textual_inversion "
            f"generator (with `objective: adp` for both concepts)"
        )
    known = torch.from_numpy(np.array(state["object"], np.float32)).to(device)
    if not alike(word_vector(tower), known):
        raise ValueError(
            f"{who}: the {name} concept was learned for another text encoder than the encoder's; "
            f"give method and generator the same encoder"
        )
    return torch.from_numpy(np.array(state[name], np.float32)).to(device)

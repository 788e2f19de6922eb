"""ADP: sentences with learned concepts for words, and patch association (Kwak et al., 2023)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat

from harness.interface import Features, Image, Method, Prediction, Queries, Support
from methods._encoders.encoding import Encoding
from methods._encoders.load import EncoderSpec, caveat, described
from methods._encoders.pictures import encoder_files
from methods._learned import concepts as adp
from methods._ops.parameters import Size
from methods._ops.prompts import anomalous_probability, unit
from methods._ops.windows import nearest, spread, upsample

_ENCODER = {"model": "ViT-H-14", "weights": "laion2b_s32b_b79k"}
_CONCEPTS: tuple[Literal["normal", "anomalous"], ...] = ("normal", "anomalous")


class Adp(Method):
    """Few-shot anomaly detection via personalization, with the concepts of ``textual_inversion``.

    Kwak et al., "Few-shot Anomaly Detection via Personalization", ICML 2023 workshop (AdvML
    Frontiers). Two prototypes p_n and p_a (Eq. 6) are means of the embeddings of "flawless [c]" and
    "damaged [c]" in templates, over the normal-aware and the anomaly-aware concept. Self-tuning
    weighs a concept by how well it alone tells the support from pseudo-anomalies (Eq. 5). The
    anomaly score is the softmax of an image's embedding over the two prototypes, plus the largest
    distance of a patch to the nearest patch of the support.

    Eq. 7 as printed is the probability of the normal prototype, though it is called a detection
    score and the association score is added to it; the score here takes one minus it, as only that
    grows with anomaly. What the maps show is the association alone.

    Parameters
    ----------
    encoder : mapping, optional
        ``{model, weights}``, the generator's; ViT-H/14 of LAION-2B by default.
    size : int
        Pixels per side that the encoder sees.
    temperature : float, optional
        Cosines are divided by it; by default the one that the encoder was trained with.
    concepts : sequence of str
        Which of "normal" (c_n) and "anomalous" (c_a) are used. With the generator's ``objective:
        inversion``, "normal" is the concept of plain textual inversion. None at all needs
        ``label``, and no generator then.
    label : bool
        Whether the object's name is used as one more concept (ADP_l). Without it the name is not
        looked at.
    self_tuning : bool
        Whether concepts are weighed by Eq. 5; otherwise equally.
    association : bool
        Whether patches are compared with the support's; without, there is no map.
    windows : sequence of int
        Sides, in patches, of windows that are compared besides patches, as in WinCLIP. The paper
        speaks of patches.

    Notes
    -----
    Where the paper leaves things open: embeddings of sentences are scaled to length 1 before they
    are averaged, templates are WinCLIP's 22, patches are those of the last block, and distances
    are half of one minus the cosine, as in WinCLIP. The support is not augmented, and a generator's
    pool is not looked at.
    """

    gpus = 0.25

    def __init__(
        self,
        *,
        encoder: EncoderSpec | None = None,
        size: Size = 224,
        temperature: PositiveFloat | None = None,
        concepts: Sequence[Literal["normal", "anomalous"]] = _CONCEPTS,
        label: bool = False,
        self_tuning: bool = True,
        association: bool = True,
        windows: Sequence[Annotated[int, Field(ge=2)]] = (),
    ) -> None:
        self.encoder = described(encoder or _ENCODER)
        self.note = caveat(self.encoder, "ViT-H/14")
        self.size = size
        self.temperature = temperature
        self.concepts = tuple(concepts)
        self.label = label
        self.self_tuning = self_tuning
        self.association = association
        self.windows = tuple(windows)
        self.generator = bool(self.concepts)
        if len(set(self.concepts)) < len(self.concepts):
            raise _wrong("concepts", "different ones", list(concepts))
        if not self.concepts and not label:
            raise _wrong("concepts", "at least one, or `label` be true", list(concepts))
        if windows and not association:
            raise _wrong("windows", "none without `association`", list(windows))

    def files(self) -> Sequence[Path]:
        """The encoder's local files."""
        return encoder_files(self.encoder)

    def setup(self, device: str, features: Features) -> None:
        """Load the encoder."""
        from methods._encoders.load import load_text_encoder

        self._encoder = load_text_encoder("adp", self.encoder, device, features)
        self._tau = self.temperature or 1 / self._encoder.logit_scale

    def fit(self, support: Support) -> None:
        """Mix the concepts into two prototypes, and keep the support's patches."""
        tower, state = self._encoder.text, support.customized
        encodings = self._encode(sorted(support.images, key=lambda image: image.key))
        normal = torch.stack([encoding.image for encoding in encodings])
        with torch.no_grad():
            words: list[torch.Tensor | str] = [
                adp.concept_of(state, name, tower, normal.device, "adp") for name in self.concepts
            ]
            if self.label:
                words.append(support.object_name.replace("_", " "))
            texts = [adp.states_of(tower, word) for word in words]
            self._weights = self._weighed(texts, normal, state)
            self._prototypes = adp.mixed(texts, self._weights)
        self._references = {}
        if self.association:
            scales = self._scales(encodings)
            self._references = {side: values.flatten(0, 2) for side, values in scales.items()}

    def _weighed(
        self, texts: Sequence[torch.Tensor], normal: torch.Tensor, state: Mapping[str, Any]
    ) -> list[torch.Tensor]:
        """Eq. 5 for each concept; a lone one needs no weight."""
        if not self.self_tuning or len(texts) == 1:
            return [normal.new_ones(()) for _ in texts]
        if "validation" not in state:
            raise ValueError(
                "adp: self_tuning needs pseudo-anomalies; name a generator with `objective: adp`"
            )
        images = [Image(_digest(pixels), pixels) for pixels in state["validation"]]
        encodings = self._encoder.encode(images, size=self.size)
        anomalies = torch.stack([encoding.image for encoding in encodings])
        return [adp.importance(text, normal, anomalies, self._tau) for text in texts]

    def predict(self, queries: Queries) -> Prediction:
        """Score by sentences, and by association if asked for."""
        encodings = self._encode(queries.images)
        embeddings = torch.stack([encoding.image for encoding in encodings])
        parts = {"text": anomalous_probability(embeddings, self._prototypes, self._tau)}
        maps = None
        if self.association:
            association = self._associated(encodings)
            parts["association"] = association.flatten(1).amax(dim=1)
            if queries.maps:
                maps = _floats(upsample(association, (self.size, self.size)))
        scores = torch.stack([value.double() for value in parts.values()]).sum(dim=0)
        named = {name: _floats(value) for name, value in parts.items()}
        return Prediction(scores=_floats(scores), maps=maps, parts=named)

    def _encode(self, images: Sequence[Image]) -> list[Encoding]:
        levels = (max(self._encoder.dims),) if self.association else ()
        return self._encoder.encode(images, size=self.size, levels=levels, windows=self.windows)

    def _scales(self, encodings: Sequence[Encoding]) -> dict[int, torch.Tensor]:
        """Unit vectors of every scale: side -> (n, rows, columns, d); patches have side 1."""
        scales = {1: torch.stack([encoding.levels[0] for encoding in encodings])}
        for side in self.windows:
            scales[side] = torch.stack([encoding.windows[side] for encoding in encodings])
        return {side: unit(values) for side, values in scales.items()}

    def _associated(self, encodings: Sequence[Encoding]) -> torch.Tensor:
        """Distance of each patch to the support (n, h, w), mean over scales."""
        maps = []
        for side, values in self._scales(encodings).items():
            distances = nearest(values.flatten(1, 2), self._references[side])
            maps.append(spread(distances.unflatten(1, values.shape[1:3]), side))
        return torch.stack(maps).mean(dim=0)


def _digest(pixels: NDArray[np.uint8]) -> str:
    return hashlib.sha256(pixels.tobytes()).hexdigest()


def _floats(values: torch.Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = values.float().cpu().numpy()
    return array


def _wrong(name: str, constraint: str, value: Any) -> ValueError:
    return ValueError(f"The {name} parameter of adp must be {constraint}. Got {value!r} instead.")

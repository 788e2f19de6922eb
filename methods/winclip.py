"""WinCLIP: sentences and a few references, compared at window scales (Jeong et al., CVPR 2023)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import PositiveFloat

from harness.interface import Features, Image, Method, Prediction, Queries, Support
from methods._encoders.encoding import Encoding
from methods._encoders.load import EncoderSpec, caveat, described
from methods._encoders.pictures import centred, encoder_files, shapes, uncropped
from methods._ops.parameters import LevelNumbers, Size
from methods._ops.prompts import (
    LINEAGE_TEMPLATES,
    TEMPLATES,
    anomalous_probability,
    compose,
    prototypes,
    unit,
)
from methods._ops.windows import harmonic_mean, nearest, spread, upsample

_TEMPLATES = {"published": TEMPLATES, "lineage": LINEAGE_TEMPLATES}
_MAPS = ("sum", "mean", "text", "association")
_SCORES = ("mean", "text", "association")
_ENCODER = {"model": "ViT-B-16-plus-240", "weights": "laion400m_e31"}


class Winclip(Method):
    """Zero-shot with an empty support, few-shot with references.

    An image's text score is the softmax of its embedding over two prototypes, the means of 154
    normal and 88 anomalous sentences. Windows of 2 x 2 and 3 x 3 patches are embedded as if each
    were all there is of the image; their text scores spread to patches by the harmonic mean. With
    references, each window and each patch of the last block is compared with all windows or patches
    of all references (0.5 * (1 - largest cosine)); the mean of the scales is the association map.

    Parameters
    ----------
    encoder : mapping, optional
        ``{model, weights}``; ViT-B/16+ at 240 pixels of LAION-400M by default.
    size : int
        Pixels per side that the encoder sees.
    crop : bool
        False: the whole image is stretched to the square; True: the shortest side is resized to
        ``size`` and the ends of the longer one are cut off.
    temperature : float
        Cosines are divided by it: 0.01 is CLIP's own and mala-lab's, 0.07 is zqhang's and
        anomalib's. Does not change the ranking of zero-shot image scores.
    windows : sequence of int
        Sides of the windows in patches.
    templates : str
        ``published``: the paper's 22; ``lineage``: zqhang's and anomalib's 21, one of them twice.
    normalize : bool
        Whether sentence embeddings are scaled to length 1 before they are averaged (mala-lab) or
        not (zqhang, anomalib).
    score : str
        Image score of few-shot: ``mean`` of text score and largest association (the paper),
        ``text`` or ``association`` alone.
    map : str
        Map of few-shot: ``sum`` of text map and association map (zqhang), their ``mean``
        (anomalib; equal ranking), ``text`` or ``association`` alone.

    Notes
    -----
    Departures: none from the paper's equations. Pictures that are not square (VisA's) are stretched
    or, with ``crop``, cut; the paper tiles them, which is not done here. Patches are the last
    block's, before the final layer normalisation; anomalib's are after it. On convolutional
    encoders (micro, too) windows are averages of the last level's cells, and the patch scale is
    that level. Scores of exactly 0 count as 0 in harmonic means. Without references, the score and
    map are the text's.
    """

    shots = range(1_000_000)
    gpus = 0.25

    def __init__(
        self,
        *,
        encoder: EncoderSpec | None = None,
        size: Size = 240,
        crop: bool = False,
        temperature: PositiveFloat = 0.01,
        windows: LevelNumbers = (2, 3),
        templates: Literal["published", "lineage"] = "published",
        normalize: bool = True,
        score: Literal["mean", "text", "association"] = "mean",
        map: Literal["sum", "mean", "text", "association"] = "sum",
    ) -> None:
        self.encoder = described(encoder or _ENCODER)
        self.note = caveat(self.encoder, "ViT-B/16+")
        self.size = size
        self.crop = crop
        self.temperature = temperature
        self.windows = tuple(windows)
        self.templates = templates
        self.normalize = normalize
        self.score = score
        self.map = map

    def files(self) -> Sequence[Path]:
        """The encoder's local files."""
        return encoder_files(self.encoder)

    def setup(self, device: str, features: Features) -> None:
        """Load the encoder."""
        from methods._encoders.load import load_text_encoder

        self._features = features
        self._encoder = load_text_encoder("winclip", self.encoder, device, features)

    def fit(self, support: Support) -> None:
        """Embed the object's sentences, and keep the references' windows and patches."""
        sentences = compose(support.object_name, _TEMPLATES[self.templates])
        self._text = prototypes(self._encoder, self._features, sentences, normalize=self.normalize)
        self._references: dict[int, torch.Tensor] = {}
        if support.normals:
            scales = self._scales(self._encode(support.normals))
            self._references = {side: values.flatten(0, -2) for side, values in scales.items()}

    def predict(self, queries: Queries) -> Prediction:
        """Score by sentences, and by references where there are any."""
        encodings = self._encode(queries.images)
        text = self._probability(torch.stack([encoding.image for encoding in encodings]))
        scores, maps = {"text": text}, {}
        if self._references:
            maps["association"] = self._association(encodings)
            scores["association"] = maps["association"].flatten(1).amax(dim=1)
        parts = {name: _floats(values) for name, values in scores.items()}
        scores["mean"] = torch.stack(list(scores.values())).mean(dim=0)
        if queries.maps:
            maps["text"] = self._text_map(encodings, text)
            maps["sum"] = torch.stack(list(maps.values())).sum(dim=0)
            maps["mean"] = maps["sum"] / len(parts)
        return Prediction(
            scores=_floats(scores[self.score if self._references else "text"]),
            maps=self._enlarged(maps, queries.images) if queries.maps else None,
            parts=parts,
        )

    def _encode(self, images: Sequence[Image]) -> list[Encoding]:
        return self._encoder.encode(
            centred(images, self.size) if self.crop else images,
            size=self.size,
            levels=(max(self._encoder.dims),),
            windows=self.windows,
        )

    def _probability(self, embeddings: torch.Tensor) -> torch.Tensor:
        return anomalous_probability(embeddings, self._text, self.temperature)

    def _text_map(self, encodings: Sequence[Encoding], text: torch.Tensor) -> torch.Tensor:
        """Zero-shot map (n, h, w): harmonic over windows, then over scales and the image itself."""
        spreads = []
        for side in self.windows:
            windows = torch.stack([encoding.windows[side] for encoding in encodings])
            spreads.append(spread(self._probability(windows), side))
        return harmonic_mean([*spreads, text[:, None, None]])

    def _scales(self, encodings: Sequence[Encoding]) -> dict[int, torch.Tensor]:
        """Unit vectors of every scale: side -> (n, rows, columns, d); patch tokens have side 0."""
        scales = {0: torch.stack([encoding.levels[0] for encoding in encodings])}
        for side in self.windows:
            scales[side] = torch.stack([encoding.windows[side] for encoding in encodings])
        return {side: unit(values) for side, values in scales.items()}

    def _association(self, encodings: Sequence[Encoding]) -> torch.Tensor:
        """Few-shot map (n, h, w): mean over scales of the distance to the references."""
        maps = []
        for side, values in self._scales(encodings).items():
            distances = nearest(values.flatten(1, 2), self._references[side])
            maps.append(spread(distances.unflatten(1, values.shape[1:3]), max(side, 1)))
        return torch.stack(maps).mean(dim=0)

    def _enlarged(
        self, maps: Mapping[str, torch.Tensor], images: Sequence[Image]
    ) -> NDArray[np.float32]:
        chosen = maps[self.map if self._references else "text"]
        if self.crop:
            return _floats(uncropped(chosen, shapes(images, self._features), self.size))
        return _floats(upsample(chosen, (self.size, self.size)))


def _floats(values: torch.Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = values.float().cpu().numpy()
    return array

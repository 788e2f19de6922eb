"""One-to-Normal: a query against its personalized image, anomaly-free images and sentences.

Li et al., "One-to-Normal: Anomaly Personalization for Few-shot Anomaly Detection", NeurIPS 2024.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from harness.interface import (
    Arrays,
    Auxiliary,
    Features,
    Image,
    Method,
    Prediction,
    Queries,
    Support,
)
from methods._encoders.load import EncoderSpec, caveat, described
from methods._encoders.pictures import centred, encoder_files, shapes
from methods._o2n.branches import Comparison, Levels
from methods._o2n.compare import default_levels, mean_map, score_of
from methods._o2n.fusion import CHOICES, Weights, fused
from methods._o2n.rehearsal import Personalizer, acts
from methods._o2n.views import shaped, unstacked
from methods._ops.crop import framed
from methods._ops.parameters import LevelNumbers, OddSide, Share, Sigma, Size
from methods._ops.prompts import anomalous_probability, compose, prototypes, unit

if TYPE_CHECKING:
    from methods._o2n.text import TextLayers


_log = logging.getLogger(__name__)
#: queries whose features are held at a time; a multiple of what encoders take at a time on a GPU
_BLOCK = 32
_TEXT_BATCH = {"cpu": 1, "cuda": 16}


class O2n(Method):
    """Triplet contrastive inference (section 3.4) on one-to-normal images (section 3.3).

    With F the patch features of a query at one of n levels, its anomaly score is (Eq. 7)

        A = S_P + alpha S_N + beta S_text

    - S_P (Eq. 4): mean over levels of the largest 1 - cosine between a patch and the patch at the
      same place of the query's personalized image;
    - S_N (Eq. 5): the same with the nearest patch of all anomaly-free images, the pool;
    - S_text (Eq. 6): the same with the anomalous probability of a patch, a softmax of its products
      with the mean embeddings of normal and anomalous sentences (WinCLIP's), after a linear layer
      per level which was trained on the auxiliary dataset.

    The map is the same sum before the maximum, averaged over levels, enlarged and smoothed. The
    three branches are kept as parts ``S_P``, ``S_N``, ``S_text`` and as part maps, so that
    fusions can be compared without running anything again.

    Parameters
    ----------
    encoder : mapping, optional
        ``{model, weights}``, and ``quick_gelu`` at will; CLIP ViT-L/14@336 of OpenAI by default.
    size : int
        Pixels per side that the encoder sees.
    crop : bool
        False: the whole query is stretched to the square; True: the ends of its longer side are cut
        off before. Auxiliary images are always stretched.
    levels : sequence of int, optional
        Blocks to read. By default the ends of four equal parts: 6, 12, 18, 24 of ViT-L/14. Of a
        convolutional encoder (micro, too) its stages 2 to 4.
    alpha, beta : float
        Weights of S_N and S_text, at least 0.
    selection : str
        ``generator``: it has selected one image per query. For a generator that keeps the images of
        all prompts: ``mean`` of their S_P maps, or each patch's ``min``.
    against : str
        What S_P compares the personalized image with: the ``query`` (the paper) or, to leave out
        what the autoencoder alone changes, its ``reconstruction``; ``excess``: with the query, and
        of each patch the distance of the reconstruction is taken off; ``bank``: how much farther
        from the bank than its personalized patch the query's is. Two of them need ``autoencoder``.
    fusion : str
        ``sum`` (Eq. 7), or ``min``: the personalized image is one more reference of S_N, aligned
        with the query; that distance, the part ``S_min``, stands for S_P + alpha S_N.
    weights : str
        ``fixed``: 1, alpha and beta; ``synthetic``: for each support those that tell its own images
        from damaged copies of them (``methods/_o2n/defects.py``), each image without itself in the
        bank, S_N's alone unless others add to it; ``discounted``: a quarter of what S_P and S_text
        earn on these (``methods/_o2n/fusion.py``). A support of one image: the fixed ones.
    personalizer : mapping, optional
        The generator's parameters, which weights that are not ``fixed`` need.
    rehearsals : int
        Damaged copies that weights are chosen by.
    autoencoder : str, optional
        The generator's ``base``. S_P between query and the reconstruction by that base's
        autoencoder becomes the part ``floor``: what S_P would be if nothing were changed.
    autoencoder_size : int, optional
        The generator's ``size``.
    search : int
        Side, odd, of the square of patches of the personalized image of which the nearest counts in
        S_P; 1 is the same place alone (the paper).
    bank : str
        ``pool``: support and generated images; ``support``: without the generated ones.
    scope : str
        Which patches of the bank S_N looks at: ``all``, or those in the ``same-cell``.
    maximum : str
        ``per-level`` (the paper): mean over levels of the maximum over patches; ``of-mean``: the
        other way round, as InCTRL.
    text : str
        ``adapter``: linear layers, trained on the auxiliary dataset; ``class-token``: the softmax
        of the image embedding, which needs no training and gives a constant map (zero-shot
        WinCLIP's score, which the paper's Table 4 resembles).
    temperature : float
        Cosines with sentences are divided by it.
    epochs : int, optional
        Of the linear layers' training; by default 3 on MVTec AD, else 15.
    batch : int
        Images per step.
    learning_rate : float
        Of Adam with betas 0.5 and 0.999.
    mosaic : float, optional
        Probability that a training image is replaced by four of its category; by default 0.2 on
        MVTec AD, else 0.
    sigma : float
        Of the Gaussian that smooths maps, in pixels of ``size``. Scores do not use it.

    Notes
    -----
    Other switches of the paper belong to others. To the generator (``dreambooth``): t, steps,
    guidance, prompts, selector, prior preservation and augmentation; ``text_share`` decides what
    generated images are made of. To the sweep: the pool's size, and which dataset is auxiliary;
    the engine never hands a method the dataset that is tested.

    Departures, where the paper leaves things open:

    - F' and the sentences' embeddings are scaled to length 1 and their products divided by a
      temperature; Eq. 6 has neither.
    - The linear layers' training is APRIL-GAN's, except that images are seen at ``size``, that
      softmax maps are enlarged about pixel centres, and that the seed is the sweep's.
    - Support, generated and auxiliary images are not augmented.
    - The paper gives no formula for maps. No branch is normalised over the queries.
    - ``against``, ``fusion`` and ``weights`` other than the defaults are not the paper's. The model
      has seen the images that synthetic weights are found on, which flatters S_P.
    """

    generator = True
    personalized = True
    gpus = 0.25

    def __init__(
        self,
        *,
        encoder: EncoderSpec | None = None,
        size: Size = 240,
        crop: bool = False,
        levels: LevelNumbers | None = None,
        alpha: NonNegativeFloat = 1.0,
        beta: NonNegativeFloat = 0.5,
        selection: Literal["generator", "mean", "min"] = "generator",
        against: Literal["query", "reconstruction", "excess", "bank"] = "query",
        fusion: Literal["sum", "min"] = "sum",
        weights: Literal["fixed", "synthetic", "discounted"] = "fixed",
        personalizer: Mapping[str, Any] | None = None,
        rehearsals: PositiveInt = 12,
        autoencoder: str | None = None,
        autoencoder_size: Size | None = None,
        search: OddSide = 1,
        bank: Literal["pool", "support"] = "pool",
        scope: Literal["all", "same-cell"] = "all",
        maximum: Literal["per-level", "of-mean"] = "per-level",
        text: Literal["adapter", "class-token"] = "adapter",
        temperature: PositiveFloat = 0.01,
        epochs: PositiveInt | None = None,
        batch: PositiveInt = 8,
        learning_rate: PositiveFloat = 1e-3,
        mosaic: Share | None = None,
        sigma: Sigma = 4.0,
    ) -> None:
        self.encoder = described(encoder or {"model": "ViT-L-14-336", "weights": "openai"})
        self.size = size
        self.crop = crop
        self.levels = None if levels is None else tuple(levels)
        self.alpha = alpha
        self.beta = beta
        self.selection = selection
        self.against = against
        self.fusion = fusion
        self.weights = weights
        self.personalizer = None if personalizer is None else dict(personalizer)
        self.rehearsals = rehearsals
        self.autoencoder = autoencoder
        self.autoencoder_size = autoencoder_size
        self.search = search
        self.bank = bank
        self.scope = scope
        self.maximum = maximum
        self.text = text
        self.temperature = temperature
        self.epochs = epochs
        self.batch = batch
        self.learning_rate = learning_rate
        self.mosaic = mosaic
        self.sigma = sigma
        self.auxiliary = text == "adapter"
        self.note = caveat(self.encoder, "ViT-L/14")
        rebuilt = against in ("reconstruction", "excess")
        if autoencoder is None and (rebuilt or autoencoder_size):
            name = f"against: {against}" if rebuilt else "autoencoder_size"
            raise ValueError(f"o2n: {name} needs `autoencoder`, the generator's base")
        if (personalizer is None) != (weights == "fixed"):
            both = "weights by synthetic defects and `personalizer`, the generator's parameters"
            raise ValueError(f"o2n: {both}, belong together")
        self._comparison = Comparison(against, fusion, scope, selection, search)
        self._personalizer = None if personalizer is None else Personalizer(personalizer)

    def files(self) -> Sequence[Path]:
        """Local files of the encoder, and of the autoencoder where one is named."""
        files = list(encoder_files(self.encoder))
        if self._personalizer is not None:
            files += self._personalizer.files()
        if self.autoencoder is not None:
            from methods._diffusion import model

            files += model.weight_files(self.autoencoder)
        return sorted(set(files))

    def setup(self, device: str, features: Features) -> None:
        """Load the encoder, and the autoencoder where one is named."""
        from methods._encoders.load import load_text_encoder
        from methods._o2n.views import Autoencoder

        self._device, self._features = device, features
        self._encoder = load_text_encoder("o2n", self.encoder, device, features)
        self._levels = self.levels or default_levels(self._encoder.dims)
        self._autoencoder = None
        if self.autoencoder is not None:
            named = (self.autoencoder, self.autoencoder_size)
            self._autoencoder = Autoencoder(*named, device, features)
        if self._personalizer is not None:
            self._personalizer.setup(device, features)
        self._layers: TextLayers | None = None  # until ``load``

    def train(self, auxiliary: Auxiliary) -> Arrays:
        """Train the linear layers; see ``methods/_o2n/text.py``."""
        from methods._o2n import text as o2n_text

        recipe = o2n_text.Recipe(
            self.size, self.temperature, self.epochs, self.batch, self.learning_rate, self.mosaic
        )
        texts = [self._prototypes(category.object_name) for category in auxiliary.categories]

        def encode(images: Sequence[Image]) -> list[Any]:
            return self._encoder.encode(images, size=self.size, levels=self._levels)

        return o2n_text.train(auxiliary, encode, texts, recipe, self._device).arrays()

    def load(self, state: Arrays) -> None:
        """Take the linear layers."""
        from methods._o2n.text import TextLayers

        self._layers = layers = TextLayers.of(state, self._device)
        expected = [self._encoder.dims[level] for level in self._levels]
        trained = [weight.shape[1] for weight in layers.weights]
        if trained != expected:
            raise ValueError(
                f"o2n: the trained layers are for levels of {trained} channels, but levels "
                f"{self._levels} of {self._encoder.name} have {expected}"
            )
        digest = hashlib.sha256(b"".join(state[name].tobytes() for name in sorted(state)))
        self._trained = digest.hexdigest()[:24]

    def fit(self, support: Support) -> None:
        """Keep the features of the anomaly-free images, and the object's sentences."""
        if self.text == "adapter" and self._layers is None:
            raise RuntimeError("o2n: load the trained linear layers first")
        images = support.images if self.bank == "support" else support.normals
        ordered = sorted(images, key=lambda image: image.key)  # their order means nothing
        self._bank = self._features_of(ordered)
        self._object = support.object_name
        self._sentences = self._prototypes(support.object_name)
        self._weights = Weights(1.0, self.alpha, self.beta)
        if self._personalizer is not None and len(support.images) > 1:
            self._weights = self._rehearsed(support, self._personalizer)

    def _rehearsed(self, support: Support, personalizer: Personalizer) -> Weights:
        """Weights that tell the support's images from damaged copies of them."""
        images = sorted(support.images, key=lambda image: image.key)
        played = acts(images, self.rehearsals)
        personalized = personalizer.personalized(support, [act.image for act in played])
        bank = self._features_of(images)
        parts: dict[str, list[torch.Tensor]] = {}
        for act, one in zip(played, personalized, strict=True):
            others = [torch.cat([b[: act.source], b[act.source + 1 :]]) for b in bank]
            for name, levels in self._branches([act.image], [one], others):
                parts.setdefault(name, []).append(score_of(levels, self.maximum == "of-mean"))
        scores = {name: torch.cat(values).cpu().numpy() for name, values in parts.items()}
        damaged = np.array([act.damaged for act in played])
        weights = CHOICES[self.weights](scores, damaged, self.fusion)
        _log.info("%s: weights %s by synthetic defects", support.object_name, weights)
        return weights

    def predict(self, queries: Queries) -> Prediction:
        """Score each query by the three branches."""
        if len(queries.personalized) != len(queries.images):
            raise ValueError(
                f"o2n: expected a personalized image of each of {len(queries.images)} queries, "
                f"got {len(queries.personalized)}; name a generator that personalizes"
            )
        parts: dict[str, list[torch.Tensor]] = {}
        part_maps: dict[str, list[torch.Tensor]] = {}
        for start in range(0, len(queries.images), _BLOCK):
            block = slice(start, start + _BLOCK)
            some = queries.images[block], queries.personalized[block]
            for name, levels in self._branches(*some, self._bank):
                parts.setdefault(name, []).append(score_of(levels, self.maximum == "of-mean"))
                if queries.maps and name != "floor":
                    enlarged = self._enlarged(mean_map(levels), queries.images[block])
                    part_maps.setdefault(name, []).append(enlarged)
        scores, maps = (
            {name: torch.cat(values).cpu().numpy() for name, values in branches.items()}
            for branches in (parts, part_maps)
        )
        return Prediction(
            scores=fused(scores, self._weights, self.fusion),
            maps=fused(maps, self._weights, self.fusion) if maps else None,
            parts=scores,
            part_maps=maps,
        )

    def _branches(
        self, images: Sequence[Image], personalized: Sequence[Image], bank: Levels
    ) -> list[tuple[str, Levels]]:
        """Per branch and level, the score of every patch (n, h, w)."""
        like = shapes(images, self._features) if self.crop else []

        def framed_features(some: Sequence[Image]) -> Levels:
            return self._features_of(shaped(some, like) if self.crop else some)

        rebuilt = None
        if self._autoencoder is not None:
            rebuilt = framed_features(self._autoencoder.reconstructions(images))
        several = self.selection != "generator"
        counterparts = [framed_features(one) for one in unstacked(personalized, several)]
        features = self._features_of(images)
        branches = self._comparison.branches(features, rebuilt, counterparts, bank)
        return [*branches.items(), ("S_text", self._text(images))]

    def _text(self, images: Sequence[Image]) -> Levels:
        """Anomalous probability by sentences; one cell per image in the class token's reading."""
        layers = self._layers
        if layers is None:
            embeddings = torch.stack([encoding.image for encoding in self._encode(images)])
            probability = anomalous_probability(embeddings, self._sentences, self.temperature)
            return [probability[:, None, None]]

        def compute(batch: Sequence[Image]) -> list[tuple[torch.Tensor, ...]]:
            levels = zip(*(encoding.levels for encoding in self._encode(batch)), strict=True)
            stacked = [torch.stack(level) for level in levels]
            probabilities = layers.probabilities(stacked, self._sentences, self.temperature)
            return [tuple(level[i].clone() for level in probabilities) for i in range(len(batch))]

        # The same for all supports, so it is remembered.
        space = (
            f"o2n/text/{self._encoder.name}/{self.size}/{self.crop}/{self._levels}/{self._trained}/"
            f"{self.temperature}/{self._object}"
        )
        batch = _TEXT_BATCH.get(torch.device(self._device).type, 1)
        records = self._features.get_or_compute(space, images, compute, batch)
        return [torch.stack(level) for level in zip(*records, strict=True)]

    def _encode(self, images: Sequence[Image]) -> list[Any]:
        views = centred(images, self.size) if self.crop else images
        return self._encoder.encode(views, size=self.size, levels=self._levels)

    def _features_of(self, images: Sequence[Image]) -> Levels:
        """Patch features of length 1 at each level, (n, h, w, d)."""
        levels = zip(*(encoding.levels for encoding in self._encode(images)), strict=True)
        return [unit(torch.stack(level)) for level in levels]

    def _prototypes(self, object_name: str) -> torch.Tensor:
        return prototypes(self._encoder, self._features, compose(object_name))

    def _enlarged(self, maps: torch.Tensor, images: Sequence[Image]) -> torch.Tensor:
        from methods._ops.maps import smooth

        smoothed = smooth(maps, self.size, self.sigma)
        if not self.crop:
            return smoothed
        return framed(smoothed, shapes(images, self._features), 1.0, self.size)

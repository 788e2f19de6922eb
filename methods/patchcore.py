"""PatchCore: distance to the nearest patch of a memory bank.

Roth, Pemula, Zepeda, Schoelkopf, Brox, Gehler, "Towards Total Recall in Industrial Anomaly
Detection", CVPR 2022.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from pydantic import PositiveInt

from harness.interface import Features, Image, Method, Prediction, Queries, Support
from methods._encoders.load import LITE0, EncoderSpec, caveat, described, packages
from methods._encoders.pictures import encoder_files
from methods._ops.parameters import LevelNumbers, OddSide, Sigma, Size, SomeShare

_BLOCK = 25  # queries whose patches are held at a time


class Patchcore(Method):
    """Distance of an image's most distant patch to its nearest neighbour among support patches.

    Against the paper: the whole bank is kept by default, as a tenth of a few images' patches would
    be too few. Against the released code: distances are true Euclidean ones, which ranks images the
    same while ``neighbours`` is 1; the coreset is chosen by the greedy algorithm itself instead of
    an approximation from ten starting points; and pictures are stretched to 256 px by default
    instead of cropped to 224.

    Parameters
    ----------
    encoder : mapping
        ``{model, weights}``; the paper's is wide_resnet50_2.
    levels : sequence of int
        Encoder levels to combine; the first gives the grid, to which the others are enlarged.
    coreset : float
        Share of the bank to keep, chosen by greedy k-centre; 1 keeps all, the paper 0.01 to 0.25.
    neighbours : int
        Nearest neighbours that a score uses, as ``scoring`` says; no more than the bank holds.
    scoring : str
        ``reweighted``: the paper's Eq. 7. The largest distance s* of a patch to its nearest bank
        patch m*, times one minus the softmax share of m* among the distances to the ``neighbours``
        bank patches nearest to m*, itself included; with one neighbour, s* itself. Maps hold
        distances as they are.
        ``mean``: the released code's. The largest mean, over the ``neighbours`` nearest, of a
        patch's squared distances; maps hold these means.
    neighbourhood : int
        Side, odd, of the neighbourhood that every patch pools.
    dims : int, optional
        Length that adaptive average pooling brings neighbourhoods and then patches to (1024 in the
        released code); by default neighbourhoods are averaged and levels concatenated.
    size : int
        Side in pixels that pictures are stretched to; with ``crop``, of their shorter side.
    crop : int, optional
        Side in pixels of the centre square that is looked at, as in the paper (224 of 256).
    sigma : float
        Of the Gaussian that smooths maps, in pixels of the network's input. Scores do not use it.
    """

    def __init__(
        self,
        *,
        encoder: EncoderSpec | None = None,
        levels: LevelNumbers = (2, 3),
        coreset: SomeShare = 1.0,
        neighbours: PositiveInt = 1,
        scoring: Literal["reweighted", "mean"] = "reweighted",
        neighbourhood: OddSide = 3,
        dims: PositiveInt | None = None,
        size: Size = 256,
        crop: PositiveInt | None = None,
        sigma: Sigma = 4.0,
    ) -> None:
        if crop is not None and not 1 <= crop <= size:
            raise ValueError(f"patchcore: crop must be 1 to size = {size}, got {crop}")
        self.encoder = described(encoder or LITE0)
        self.note = caveat(self.encoder, "WideResNet50")
        self.preload = packages(self.encoder)
        self.levels = tuple(levels)
        self.coreset = coreset
        self.neighbours = neighbours
        self.scoring = scoring
        self.neighbourhood = neighbourhood
        self.dims = dims
        self.size = size
        self.crop = crop
        self.sigma = sigma

    def files(self) -> Sequence[Path]:
        """The encoder's local files."""
        return encoder_files(self.encoder)

    def setup(self, device: str, features: Features) -> None:
        """Load the encoder."""
        from methods._encoders.load import load_encoder

        self.features = features
        self._network = load_encoder(self.encoder, device, features)
        self._side = self.crop or self.size
        # One at a time on a CPU, so that shots share what their supports have in common.
        self._batch = 1 if device == "cpu" else _BLOCK
        self._space = (
            f"patchcore/{self._network.name}/{self._side}/{self.levels}/"
            f"{self.neighbourhood}/{self.dims}"
        )

    def fit(self, support: Support) -> None:
        """Keep the support's patches, and generated images' where there are any, or a coreset."""
        from methods._ops.bank import Bank, greedy_coreset

        points = self._embed(self._seen(support.normals)).flatten(0, 2)
        count = max(1, int(len(points) * self.coreset))
        if count < len(points):
            points = points[greedy_coreset(points, count, support.seed)]
        self._bank = Bank(points)

    def predict(self, queries: Queries) -> Prediction:
        """Score each query by its most distant patch."""
        from methods._ops import crop as _crop
        from methods._ops import maps as _maps

        scores, maps = [], []
        for start in range(0, len(queries.images), _BLOCK):
            images = queries.images[start : start + _BLOCK]
            patches = self._bank.centred(self._embed(self._seen(images)))
            distances = self._distances(patches) if queries.maps or self._averages else None
            scores.append(self._scores(patches.flatten(1, 2), distances).cpu())
            if queries.maps:
                smoothed = _maps.smooth(distances, self._side, self.sigma)
                if self.crop:
                    shapes = [image.pixels.shape for image in images]
                    smoothed = _crop.framed(smoothed, shapes, self.crop / self.size, self.size)
                maps.append(smoothed.cpu())
        return Prediction(
            scores=torch.cat(scores).numpy(), maps=torch.cat(maps).numpy() if maps else None
        )

    @property
    def _averages(self) -> bool:
        """Whether a patch's score is a mean over neighbours, so that all patches need theirs."""
        return self.scoring == "mean"

    def _distances(self, patches: torch.Tensor) -> torch.Tensor:
        """Every patch's score (N, h, w), of centred patches (N, h, w, d)."""
        neighbours = min(self.neighbours, len(self._bank)) if self._averages else 1
        squared = self._bank.nearest(patches.flatten(0, 2), neighbours).mean(1)
        return (squared if self._averages else squared.sqrt_()).unflatten(0, patches.shape[:3])

    def _scores(self, patches: torch.Tensor, distances: torch.Tensor | None) -> torch.Tensor:
        """Image scores (N,) of centred patches (N, p, d), whose distances may be known."""
        if self._averages and distances is not None:
            return distances.flatten(1).amax(1)
        farthest = (
            self._bank.farthest(patches) if distances is None else distances.flatten(1).argmax(1)
        )
        rows = patches[torch.arange(len(patches), device=patches.device), farthest]
        nearest, distance = self._bank.closest(rows)
        neighbours = min(self.neighbours, len(self._bank))
        if neighbours == 1:
            return distance
        around = self._bank.points[self._bank.around(nearest, neighbours)]  # (N, neighbours, d)
        spread = (rows[:, None] - around).square().sum(2).sqrt()
        return distance * (1 - spread.softmax(1)[:, 0])

    def _seen(self, images: Sequence[Image]) -> Sequence[Image]:
        """What of the images is looked at."""
        from methods._ops import crop as _crop

        return _crop.centres(images, self.size, self.crop, "bilinear") if self.crop else images

    def _embed(self, images: Sequence[Image]) -> torch.Tensor:
        """Patch features of shape (N, h, w, d)."""
        from methods._ops.maps import patch_features

        def compute(batch: Sequence[Image]) -> list[torch.Tensor]:
            encodings = self._network.encode(batch, size=self._side, levels=self.levels)
            return [
                patch_features(encoding.levels, self.neighbourhood, self.dims)
                for encoding in encodings
            ]

        return torch.stack(self.features.get_or_compute(self._space, images, compute, self._batch))

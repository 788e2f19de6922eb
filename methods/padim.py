"""PaDiM: a Gaussian of patch features at every location (Defard et al., ICPR Workshops 2021)."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from harness.interface import Features, Image, Method, Prediction, Queries, Support
from methods import _weights

CHANNELS = {"wide_resnet50_2": 550, "resnet18": 100}
_BLOCK = 25


class Padim(Method):
    """Mahalanobis distance of each location's features to the support's at that location."""

    shots = range(2, 1_000_000)  # a covariance needs two images

    def __init__(
        self,
        *,
        encoder: Mapping[str, str] | None = None,
        levels: Sequence[int] = (1, 2, 3),
        channels: int | None = None,
        channel_seed: int = 1024,
        ridge: float = 0.01,
        size: int = 256,
        crop: int | None = None,
        sigma: float = 4.0,
    ) -> None:
        self.encoder = dict(encoder or {"model": "tf_efficientnet_lite0", "weights": "imagenet"})
        self.levels = tuple(levels)
        self.channels = channels
        self.channel_seed = channel_seed
        self.ridge = ridge
        self.size = size
        self.crop = crop
        self.sigma = sigma

    def files(self) -> Sequence[Path]:
        """The encoder's weights, when they are a local file."""
        return _weights.files(self.encoder)

    def setup(self, device: str, features: Features) -> None:
        """Load the encoder and draw the channels."""
        from methods._encoders import load_encoder

        self.features = features
        self._encoder = load_encoder(self.encoder, device, features)
        dims = [self._encoder.dims[level] for level in self.levels]
        count = self.channels or CHANNELS.get(self.encoder["model"], 100)
        drawn = sorted(random.Random(self.channel_seed).sample(range(sum(dims)), count))
        starts = [sum(dims[:i]) for i in range(len(dims))]
        self._chosen = [
            torch.tensor([c - start for c in drawn if start <= c < start + dim], device=device)
            for start, dim in zip(starts, dims, strict=True)
        ]
        self._space = (
            f"padim/{self._encoder.name}/{self.size}/{self.levels}/{count}/{self.channel_seed}"
        )

    def fit(self, support: Support) -> None:
        """Learn the Gaussians of the support, and of generated images where there are any."""
        from methods._gaussian import Gaussians

        self._gaussians = Gaussians(self._embed(support.normals), self.ridge)

    def predict(self, queries: Queries) -> Prediction:
        """Score by the largest value of the enlarged, smoothed map of distances."""
        from methods._maps import smooth

        scores, maps = [], []
        for start in range(0, len(queries.images), _BLOCK):
            images = queries.images[start : start + _BLOCK]
            distances = self._gaussians.distances(self._embed(images))
            smoothed = smooth(distances, self.size, self.sigma)
            scores.append(smoothed.amax((1, 2)))
            if queries.maps:
                maps.append(smoothed)
        return Prediction(
            scores=torch.cat(scores).cpu().numpy(),
            maps=torch.cat(maps).cpu().numpy() if maps else None,
        )

    def _embed(self, images: Sequence[Image]) -> list[torch.Tensor]:
        """The drawn channels of each level: tensors (N, h, w, c)."""

        def compute(batch: Sequence[Image]) -> list[tuple[torch.Tensor, ...]]:
            encodings = self._encoder.encode(batch, size=self.size, levels=self.levels)
            return [
                tuple(
                    level[..., chosen]
                    for level, chosen in zip(encoding.levels, self._chosen, strict=True)
                )
                for encoding in encodings
            ]

        records = self.features.many(self._space, images, compute, batch=32)
        return [torch.stack(level) for level in zip(*records, strict=True)]

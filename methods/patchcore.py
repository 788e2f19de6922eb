"""PatchCore: distance to the nearest patch of a memory bank (Roth et al., CVPR 2022)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from harness.interface import Features, Image, Method, Prediction, Queries, Support
from methods import _weights

_BLOCK = 2_000_000  # distances held at a time


class Patchcore(Method):
    """Largest distance of an image's patches to the nearest patch of the support."""

    def __init__(
        self,
        *,
        encoder: Mapping[str, str] | None = None,
        levels: Sequence[int] = (2, 3),
        coreset: float = 1.0,
        neighbours: int = 1,
        size: int = 256,
        sigma: float = 4.0,
    ) -> None:
        self.encoder = dict(encoder or {"model": "tf_efficientnet_lite0", "weights": "imagenet"})
        self.levels = tuple(levels)
        self.coreset = coreset
        self.neighbours = neighbours
        self.size = size
        self.sigma = sigma

    def files(self) -> Sequence[Path]:
        """The encoder's weights, when they are a local file."""
        return _weights.files(self.encoder)

    def setup(self, device: str, features: Features) -> None:
        """Load the encoder."""
        from methods._encoders import load_encoder

        self.features = features
        self._encoder = load_encoder(self.encoder, device, features)
        self._space = f"patchcore/{self._encoder.name}/{self.size}/{self.levels}"

    def fit(self, support: Support) -> None:
        """Keep the patches of the support, and of generated images where there are any."""
        bank = self._embed(support.normals).flatten(0, 2)
        self._center = bank.mean(0)
        self._bank = bank - self._center
        self._lengths = self._bank.square().sum(1)

    def predict(self, queries: Queries) -> Prediction:
        """Score by the largest patch distance."""
        from methods._maps import smooth

        patches = self._embed(queries.images).sub_(self._center)
        grid = patches.shape[:3]
        flat = patches.flatten(0, 2)
        rows = max(1, _BLOCK // len(self._bank))
        nearest = torch.cat(
            [
                torch.addmm(self._lengths, block, self._bank.T, alpha=-2).amin(1)
                for block in flat.split(rows)
            ]
        )
        distances = (nearest + flat.square().sum(1)).clamp_(min=0).sqrt_().unflatten(0, grid)
        return Prediction(
            scores=distances.amax((1, 2)).cpu().numpy(),
            maps=smooth(distances, self.size, self.sigma).cpu().numpy() if queries.maps else None,
        )

    def _embed(self, images: Sequence[Image]) -> torch.Tensor:
        """Patch features (N, h, w, d)."""
        from methods._maps import neighbourhood_mean, stretched

        def compute(batch: Sequence[Image]) -> list[torch.Tensor]:
            records = []
            for encoding in self._encoder.encode(batch, size=self.size, levels=self.levels):
                height, width = encoding.levels[0].shape[:2]
                pooled = [neighbourhood_mean(level) for level in encoding.levels]
                records.append(torch.cat([stretched(p, height, width) for p in pooled], -1))
            return records

        return torch.stack(self.features.many(self._space, images, compute, batch=32))

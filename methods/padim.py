"""PaDiM: a Gaussian of patch features at every location.

Defard, Setkov, Loesch, Audigier, "PaDiM: a Patch Distribution Modeling Framework for Anomaly
Detection and Localization", ICPR Workshops 2021.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import torch
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from harness.interface import Features, Image, Method, Prediction, Queries, Support
from methods._encoders.load import LITE0, EncoderSpec, caveat, described, packages
from methods._encoders.pictures import encoder_files
from methods._ops.parameters import LevelNumbers, Sigma, Size

#: size of the random subset of channels, by model; 100 for those not named
_CHANNELS = {"wide_resnet50_2": 550, "resnet18": 100}
_BLOCK = 25  # queries whose maps are held at a time


class Padim(Method):
    """Mahalanobis distance of each location's features to the support's at that location.

    The map of distances is enlarged to the network's input and smoothed; an image scores its
    maximum.

    Against the paper: the inverse of each covariance is taken by its exact low-rank form, since a
    few images span few dimensions; scores are not normalised over the test set; and pictures
    are stretched to 256 px by default instead of cropped to 224.

    Parameters
    ----------
    encoder : mapping
        ``{model, weights}``; the paper's are wide_resnet50_2 and resnet18.
    levels : sequence of int
        Encoder levels to concatenate, the finest first; coarser ones are repeated.
    channels : int, optional
        Size of the random subset of channels; 550 for wide_resnet50_2, else 100, or all if fewer.
    channel_seed : int
        Of the subset, which is the same in all cells.
    ridge : float
        Added to the diagonal of every covariance.
    size : int
        Side in pixels that pictures are stretched to; with ``crop``, of their shorter side.
    crop : int, optional
        Side in pixels of the centre square that is looked at, as in the paper (224 of 256).
    sigma : float
        Of the Gaussian that smooths the map, in pixels of the network's input.
    """

    shots = range(2, 1_000_000)  # a covariance needs two images

    def __init__(
        self,
        *,
        encoder: EncoderSpec | None = None,
        levels: LevelNumbers = (1, 2, 3),
        channels: PositiveInt | None = None,
        channel_seed: NonNegativeInt = 1024,
        ridge: PositiveFloat = 0.01,
        size: Size = 256,
        crop: PositiveInt | None = None,
        sigma: Sigma = 4.0,
    ) -> None:
        if crop is not None and not 1 <= crop <= size:
            raise ValueError(f"padim: crop must be 1 to size = {size}, got {crop}")
        self.encoder = described(encoder or LITE0)
        self.note = caveat(self.encoder, "WideResNet50")
        self.preload = packages(self.encoder)
        self.levels = tuple(levels)
        self.channels = channels
        self.channel_seed = channel_seed
        self.ridge = ridge
        self.size = size
        self.crop = crop
        self.sigma = sigma

    def files(self) -> Sequence[Path]:
        """The encoder's local files."""
        return encoder_files(self.encoder)

    def setup(self, device: str, features: Features) -> None:
        """Load the encoder and draw the channels."""
        from methods._encoders.load import load_encoder

        self.features = features
        self._network = load_encoder(self.encoder, device, features)
        missing = [level for level in self.levels if level not in self._network.dims]
        if missing:
            raise ValueError(
                f"padim: levels of {self._network.name} are {min(self._network.dims)} to "
                f"{max(self._network.dims)}, got {missing[0]}"
            )
        dims = [self._network.dims[level] for level in self.levels]
        count = min(self.channels or _CHANNELS.get(self.encoder["model"], 100), sum(dims))
        self._chosen = [
            torch.tensor(channels, dtype=torch.int64, device=device)
            for channels in drawn_channels(dims, count, self.channel_seed)
        ]
        self._side = self.crop or self.size
        # One at a time on a CPU, so that shots share what their supports have in common.
        self._batch = 1 if device == "cpu" else _BLOCK
        self._space = (
            f"padim/{self._network.name}/{self._side}/{self.levels}/{count}/{self.channel_seed}"
        )

    def fit(self, support: Support) -> None:
        """Learn the Gaussians of the support, and of generated images where there are any."""
        from methods._ops.gaussian import gaussians

        images = self._seen(support.normals)
        blocks = (self._embed(images[i : i + _BLOCK]) for i in range(0, len(images), _BLOCK))
        self._gaussians = gaussians(blocks, len(images), self.ridge)

    def predict(self, queries: Queries) -> Prediction:
        """Score each query by the maximum of its smoothed map."""
        from methods._ops import crop as _crop
        from methods._ops import maps as _maps

        scores, maps = [], []
        for start in range(0, len(queries.images), _BLOCK):
            images = queries.images[start : start + _BLOCK]
            distances = self._gaussians.distances(self._embed(self._seen(images)))
            smoothed = _maps.smooth(distances, self._side, self.sigma)
            scores.append(smoothed.amax((1, 2)).cpu())
            if queries.maps and self.crop:
                shapes = [image.pixels.shape for image in images]
                smoothed = _crop.framed(smoothed, shapes, self.crop / self.size, self.size)
            if queries.maps:
                maps.append(smoothed.cpu())
        return Prediction(
            scores=torch.cat(scores).numpy(), maps=torch.cat(maps).numpy() if maps else None
        )

    def _seen(self, images: Sequence[Image]) -> Sequence[Image]:
        """What of the images is looked at."""
        from methods._ops import crop as _crop

        return _crop.centres(images, self.size, self.crop, "lanczos") if self.crop else images

    def _embed(self, images: Sequence[Image]) -> list[torch.Tensor]:
        """The drawn channels of each level: tensors of shape (N, h, w, c)."""

        def compute(batch: Sequence[Image]) -> list[tuple[torch.Tensor, ...]]:
            encodings = self._network.encode(batch, size=self._side, levels=self.levels)
            return [
                tuple(
                    level[..., chosen]
                    for level, chosen in zip(encoding.levels, self._chosen, strict=True)
                )
                for encoding in encodings
            ]

        records = self.features.get_or_compute(self._space, images, compute, self._batch)
        return [torch.stack(level) for level in zip(*records, strict=True)]


def drawn_channels(dims: Sequence[int], count: int, seed: int) -> list[list[int]]:
    """A random subset of all levels' channels, as indices into each level, ascending.

    Python's generator draws it, so that ``seed`` 1024 gives the subset of the released code.
    """
    drawn = sorted(random.Random(seed).sample(range(sum(dims)), count))
    starts = [sum(dims[:i]) for i in range(len(dims))]
    return [
        [channel - start for channel in drawn if start <= channel < start + dim]
        for start, dim in zip(starts, dims, strict=True)
    ]

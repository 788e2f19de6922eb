"""RegAD: registration of features learned on other categories, then a Gaussian per location.

Huang, Guan, Jiang, Zhang, Spratling, Wang, "Registration based Few-Shot Anomaly Detection",
ECCV 2022.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from harness.interface import (
    Arrays,
    Auxiliary,
    AuxiliaryCategory,
    Features,
    Image,
    Method,
    Prediction,
    Queries,
    Support,
    progress,
)
from methods._encoders import weights
from methods._encoders.load import EncoderSpec, caveat, described
from methods._encoders.pictures import encoder_files
from methods._learned.checkpoint import Checkpoint
from methods._ops.parameters import Momentum, Sigma

_BLOCK = 25  # queries whose maps are held at a time


class Regad(Method):
    """Mahalanobis distance of registered features to those of the augmented support.

    Training, on the auxiliary categories: a picture and the mean of ``shots`` others of its
    category go through stages with spatial transformers, and a Siamese head pulls the two together
    at every location. Afterwards the head is dropped. An image scores the maximum of its smoothed
    map of distances to the support, augmented 22-fold, at each location of the finest stage.

    For the paper's leave-one-out protocol say ``auxiliary: leave-one-out`` beside the method in the
    sweep; otherwise it trains on the sweep's auxiliary dataset.

    Network, training and scoring are those of the released code, but for this: the last epoch is
    kept, not the one that does best on the tested category; pictures are stretched to a square,
    since its transformers take no other; the Gaussians are computed in float64, by whichever exact
    form is smaller; and training that drives a transformer's scales past 100 is an error.

    Parameters
    ----------
    encoder : mapping
        ``{model, weights}`` of a ResNet or an EfficientNet to start from; the paper's is resnet18.
    size : int
        Side in pixels that pictures are stretched to, at least 64.
    normalise : bool
        Whether pictures are normalised as the encoder's weights were trained; the released code
        leaves them in 0..1.
    epochs : int
        Passes over the auxiliary categories' normal images.
    steps : int, optional
        Batches per epoch at most; all by default.
    batch : int
        Pictures per step, of one category.
    learning_rate : float
        It falls along a cosine, as in the released code from below its value in the first epoch to
        0 in the last, which moves nothing but the statistics of batch normalisation.
    transformers : float
        Of the spatial transformers' learning rate, as a multiple of the others'; 1 in the paper.
        Rates at which a random network learns drive the transformers away: there it is best 0.
    momentum : float
        Of stochastic gradient descent.
    ridge : float
        Added to the diagonal of every covariance.
    sigma : float
        Of the Gaussian that smooths the map, in pixels of ``size``.
    checkpoint : str, optional
        A local checkpoint of the authors' layout, used in place of training. In the path
        ``{shots}`` stands for the number of shots, ``{category}`` for the tested category (with
        ``auxiliary: leave-one-out``, as theirs are) and ``{auxiliary}`` for the auxiliary dataset.
    trained_on : str, optional
        The dataset that a checkpoint with neither of the latter in its path was trained on. It
        needs no auxiliary dataset then, and that one cannot be tested.
    checkpointing : bool
        Compute activations anew on the way back while training, and the largest ones in blocks:
        about 1.6 times the time; at 8 shots the process takes 2.7 GB (3.5 with none in blocks, 5
        without all this). Results differ by rounding.
    """

    shots = range(1, 1_000_000)
    auxiliary: bool = True
    auxiliary_per_shots = True
    gpus = 0.25

    def __init__(
        self,
        *,
        encoder: EncoderSpec | None = None,
        size: Annotated[int, Field(ge=64, le=4096)] = 224,
        normalise: bool = False,
        epochs: NonNegativeInt = 50,
        steps: PositiveInt | None = None,
        batch: PositiveInt = 32,
        learning_rate: PositiveFloat = 1e-4,
        transformers: NonNegativeFloat = 1.0,
        momentum: Momentum = 0.9,
        ridge: PositiveFloat = 0.01,
        sigma: Sigma = 4.0,
        checkpointing: bool = True,
        checkpoint: str | None = None,
        trained_on: str | None = None,
    ) -> None:
        self.encoder = described(encoder or {"model": "resnet18", "weights": "imagenet"})
        self.note = caveat(self.encoder, "ResNet18")
        self.size = size
        self.normalise = normalise
        self.epochs = epochs
        self.steps = steps
        self.batch = batch
        self.learning_rate = learning_rate
        self.transformers = transformers
        self.momentum = momentum
        self.ridge = ridge
        self.sigma = sigma
        self.checkpointing = checkpointing
        self.checkpoint = checkpoint
        self.trained_by, self._read = None, 0
        if checkpoint is not None:
            self.trained_by = Checkpoint("regad", checkpoint, trained_on)
            self.auxiliary, self.trained_on = self.trained_by.chosen, self.trained_by.datasets
            self.auxiliary_per_seed = False  # nothing is drawn

    def files(self) -> Sequence[Path]:
        """The encoder's local files, or the checkpoint's that replace them."""
        return encoder_files(self.encoder) if self.trained_by is None else self.trained_by.files()

    def setup(self, device: str, features: Features) -> None:
        """Keep device and memory: weights are needed for training only."""
        self._device, self.features = device, features

    def train(self, auxiliary: Auxiliary) -> Arrays:
        """Learn to register; the state is the network's, with the mean loss of each epoch."""
        from methods._learned.regad import Head, Registered

        if self.trained_by is not None:
            return _published(self.trained_by.path(auxiliary.shots, auxiliary))
        rng = np.random.default_rng(auxiliary.seed)
        with weights.seeded(auxiliary.seed):
            network = Registered(
                self.encoder["model"], self.encoder["weights"], self.size, self.normalise
            )
            head = Head(network.channels)
        network.to(self._device).train()
        head.to(self._device).train()
        groups = [
            {"params": [*network.stages.parameters(), *head.parameters()], "times": 1.0},
            {"params": [*network.straighten.parameters()], "times": self.transformers},
        ]
        optimizer = torch.optim.SGD(groups, self.learning_rate, self.momentum)
        losses = np.zeros(self.epochs, np.float32)
        each = sum(-(-len(c.train) // self.batch) for c in auxiliary.categories)
        each = min(each, self.steps or each)  # batches of an epoch
        for epoch in range(self.epochs):
            cosine = (1 + math.cos(math.pi * (epoch + 1) / self.epochs)) / 2
            for group in optimizer.param_groups:
                group["lr"] = self.learning_rate * cosine * group["times"]
            seen = []
            for queries, supports in self._batches(auxiliary, rng):
                registered = network(queries, self.checkpointing)
                others = network(supports.flatten(0, 1), self.checkpointing)
                loss = head(registered, others.unflatten(0, supports.shape[:2]).mean(1))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                seen.append(loss.detach())
                progress(epoch * each + len(seen), self.epochs * each, {"loss": seen[-1]})
            losses[epoch] = torch.stack(seen).mean().item()
        return {"losses": losses, **{f"network.{n}": a for n, a in network.arrays().items()}}

    def load(self, state: Arrays) -> None:
        """Take back the network, whose own weights make those it started from unnecessary."""
        from methods._learned.regad import Registered

        own = {
            name.removeprefix("network."): array
            for name, array in state.items()
            if name.startswith("network.")
        }
        self._network = Registered(self.encoder["model"], "random:0", self.size, self.normalise)
        self._network.take(own)
        self._network.to(self._device).eval().requires_grad_(False)
        digest = hashlib.sha256()
        for name in sorted(own):
            digest.update(name.encode() + own[name].tobytes())
        self._space = f"regad/{self.encoder['model']}/{self.size}/{digest.hexdigest()}"

    def fit(self, support: Support) -> None:
        """Learn the Gaussians of the augmented support, and of generated images likewise."""
        from methods._learned.regad import VERSIONS, augmented
        from methods._ops.gaussian import gaussians

        shots = len(support.images)
        if self.trained_by is not None and not self.auxiliary and self._read != shots:
            self.load(_published(self.trained_by.path(shots)))
            self._read = shots
        # One image at a time: with its versions it makes up a block.
        blocks = (self._levels(augmented(self._pictures([one]))) for one in support.normals)
        self._gaussians = gaussians(blocks, VERSIONS * len(support.normals), self.ridge)

    def predict(self, queries: Queries) -> Prediction:
        """Score each query by the maximum of its smoothed map."""
        from methods._ops import maps as _maps

        def compute(batch: Sequence[Image]) -> list[tuple[torch.Tensor, ...]]:
            levels = self._levels(self._pictures(batch))
            return [tuple(level.clone() for level in one) for one in zip(*levels, strict=True)]

        scores, maps = [], []
        batch = 1 if self._device == "cpu" else _BLOCK
        for start in range(0, len(queries.images), _BLOCK):
            images = queries.images[start : start + _BLOCK]
            records = self.features.get_or_compute(self._space, images, compute, batch)
            levels = [torch.stack(level) for level in zip(*records, strict=True)]
            smoothed = _maps.smooth(self._gaussians.distances(levels), self.size, self.sigma)
            scores.append(smoothed.amax((1, 2)).cpu())
            if queries.maps:
                maps.append(smoothed.cpu())
        return Prediction(
            scores=torch.cat(scores).numpy(), maps=torch.cat(maps).numpy() if maps else None
        )

    def _batches(
        self, auxiliary: Auxiliary, rng: np.random.Generator
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """One epoch: uint8 pictures (b, 3, s, s) of a category, and others (b, shots, 3, s, s)."""
        shots = auxiliary.shots or 1
        batches: list[tuple[AuxiliaryCategory, np.ndarray]] = []
        for category in auxiliary.categories:
            if len(category.train) < 2:
                raise ValueError(
                    f"regad: category {category.name} has {len(category.train)} normal images to "
                    f"train on, at least 2 are needed"
                )
            order = rng.permutation(len(category.train))
            starts = range(0, len(order), self.batch)
            batches += [(category, order[start : start + self.batch]) for start in starts]
        for index in rng.permutation(len(batches))[: self.steps]:
            category, chosen = batches[index]
            n = len(category.train)
            # Any of the n - 1 others, perhaps twice; those after the picture itself move up by one.
            others = rng.integers(n - 1, size=(len(chosen), shots))
            others += others >= chosen[:, None]
            supports = self._stretched([category.train[i] for i in others.flatten()])
            yield (
                self._stretched([category.train[i] for i in chosen]),
                supports.unflatten(0, (len(chosen), shots)),
            )

    def _pictures(self, images: Sequence[Image]) -> torch.Tensor:
        """Pictures (N, 3, size, size) in 0..1."""
        return self._stretched(images).float().div_(255)

    def _stretched(self, images: Sequence[Image]) -> torch.Tensor:
        """Pictures (N, 3, size, size), uint8."""
        from methods._encoders.cnn import stretch

        def compute(batch: Sequence[Image]) -> list[np.ndarray]:
            return [stretch(image.pixels, self.size, self.size, "lanczos") for image in batch]

        space = f"stretched/lanczos/{self.size}"
        pixels = np.stack(self.features.get_or_compute(space, images, compute))
        return torch.from_numpy(pixels).to(self._device).permute(0, 3, 1, 2)

    def _levels(self, pictures: torch.Tensor) -> list[torch.Tensor]:
        """Registered features of each stage, (N, h, w, c)."""
        with torch.no_grad():
            return self._network.levels(pictures)


def _published(path: Path) -> Arrays:
    """The state that a checkpoint of the authors stands for."""
    from methods._learned.regad import read_checkpoint

    return {f"network.{name}": array for name, array in read_checkpoint(path).items()}

"""InCTRL: residuals between an image and a few normal ones (Zhu and Pang, CVPR 2024)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from harness.interface import (
    Arrays,
    Auxiliary,
    Features,
    Image,
    Method,
    Prediction,
    Queries,
    Support,
    progress,
)
from methods._encoders.encoding import Encoding
from methods._encoders.load import EncoderSpec, caveat, described
from methods._encoders.pictures import centred, encoder_files, shapes, uncropped
from methods._encoders.weights import seeded
from methods._learned.checkpoint import Checkpoint
from methods._ops.parameters import LevelNumbers, Size
from methods._ops.prompts import anomalous_probability, inctrl_prompts, prototypes, unit
from methods._ops.windows import nearest, upsample

_TEMPERATURE = 0.01
_ENCODER = {"model": "ViT-B-16-plus-240", "weights": "laion400m_e32"}


class Inctrl(Method):
    """Learns on another dataset what a residual to normal references says of an image.

    Each patch's distance to the nearest patch of the references (mean over three blocks) gives a
    map; its largest entry is the patch score. The difference of adapted image embeddings gives an
    image score through a small head. Image score and text score, added to the map, go through a
    second head; the mean of its output and the patch score is the anomaly score.

    Parameters
    ----------
    encoder : mapping, optional
        ``{model, weights}``; ViT-B/16+ at 240 pixels of LAION-400M by default.
    size : int
        Pixels per side that the encoder sees.
    crop : bool
        True (as published): the shortest side is resized to ``size`` and the ends of the longer
        one are cut off; False: the whole image is stretched to the square.
    levels : sequence of int, optional
        Blocks whose patches are compared; by default 7, 9 and 11 of 12, and the same fractions of
        any other depth.
    epochs, steps, batch : int
        Training takes ``epochs * steps`` steps of ``batch`` images, half of them anomalous. The
        authors trained for 10 epochs and tested the state after the 6th, for no stated reason.
    learning_rate, weight_decay : float
        Of AdamW, at a constant rate.
    loss : str
        ``published``: the focal loss takes scores for logits, as the authors' code does;
        ``probability``: for what they are.
    checkpoint : str, optional
        A local checkpoint of the authors, used in place of training; in the path ``{shots}`` stands
        for the number of shots and ``{auxiliary}`` for the auxiliary dataset.
    trained_on : str, optional
        The dataset that a checkpoint without ``{auxiliary}`` in its path was trained on. It needs
        no auxiliary dataset then, and that one cannot be tested.

    Notes
    -----
    Departures from the published code: its training mixes up blocks and images of a batch (features
    are stacked by block and read as if stacked by image), here each image meets its own references
    at its own blocks; a training image is never among its own references; the object's name is the
    dataset's words for it, not its folder's; the map, which the paper does not evaluate, is that of
    patch distances. On convolutional encoders the levels are feature maps, brought to the finest
    one's grid. Scores do not depend on what is scored beside.
    """

    auxiliary: bool = True
    auxiliary_per_shots = True
    gpus = 0.25

    def __init__(
        self,
        *,
        encoder: EncoderSpec | None = None,
        size: Size = 240,
        crop: bool = True,
        levels: LevelNumbers | None = None,
        epochs: PositiveInt = 10,
        steps: PositiveInt = 100,
        batch: Annotated[int, Field(ge=4, multiple_of=2)] = 16,
        learning_rate: PositiveFloat = 1e-3,
        weight_decay: NonNegativeFloat = 0.01,
        loss: Literal["published", "probability"] = "published",
        checkpoint: str | None = None,
        trained_on: str | None = None,
    ) -> None:
        self.encoder = described(encoder or _ENCODER)
        self.note = caveat(self.encoder, "ViT-B/16+")
        self.size = size
        self.crop = crop
        self.levels = None if levels is None else tuple(levels)
        self.epochs = epochs
        self.steps = steps
        self.batch = batch
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.loss = loss
        self.checkpoint = checkpoint
        self.trained_by, self._read = None, 0
        if checkpoint is not None:
            self.trained_by = Checkpoint("inctrl", checkpoint, trained_on)
            self.auxiliary, self.trained_on = self.trained_by.chosen, self.trained_by.datasets
            self.auxiliary_per_seed = False  # nothing is drawn

    def files(self) -> Sequence[Path]:
        """The encoder's local files, and the checkpoint's."""
        checkpoints = () if self.trained_by is None else self.trained_by.files()
        return (*encoder_files(self.encoder), *checkpoints)

    def setup(self, device: str, features: Features) -> None:
        """Load the encoder."""
        from methods._encoders.load import load_text_encoder

        self._device, self._features = device, features
        self._encoder = load_text_encoder("inctrl", self.encoder, device, features)
        depth = max(self._encoder.dims)
        self._levels = self.levels or tuple(round(depth * n / 12) for n in (7, 9, 11))

    def train(self, auxiliary: Auxiliary) -> Arrays:
        """Train the adapter and the heads with as many references as there will be shots."""
        from methods._learned.inctrl import InctrlNet, focal, read_checkpoint

        if self.trained_by is not None:
            return read_checkpoint(self.trained_by.path(auxiliary.shots, auxiliary))
        texts = {c.object_name: self._text(c.object_name) for c in auxiliary.categories}
        net: Any = None  # made as the first batch says how long features are
        optimizer: Any = None
        steps = self.epochs * self.steps
        for step, batch in enumerate(islice(_batches(auxiliary, self.batch), steps), 1):
            images, references, residuals = self._compared(batch)
            text = torch.stack([texts[trial.object_name] for trial in batch])
            if net is None:
                with seeded(auxiliary.seed):
                    net = InctrlNet(images.shape[1], residuals.shape[1]).to(self._device).train()
                optimizer = torch.optim.AdamW(
                    net.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay
                )
            scores = net(images, net.context(references), residuals, _probability(images, text))
            labels = torch.tensor([float(trial.label) for trial in batch], device=self._device)
            published = self.loss == "published"
            loss = focal(scores.final, labels, published) + focal(scores.image, labels, published)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            progress(step, steps, {"loss": loss})
        arrays: Arrays = net.arrays()
        return arrays

    def load(self, state: Arrays) -> None:
        """Take the adapter and the heads."""
        from methods._learned.inctrl import InctrlNet

        # In float64 the heads' rounding, and so the scores, do not depend on the batch.
        self._net = InctrlNet.of(state).double().to(self._device)

    def fit(self, support: Support) -> None:
        """Keep the references' patches and their mean adapted embedding."""
        from methods._learned.inctrl import read_checkpoint

        shots = len(support.images)
        if self.trained_by is not None and not self.auxiliary and self._read != shots:
            self.load(read_checkpoint(self.trained_by.path(shots)))
            self._read = shots
        encodings = self._encode(support.normals)
        self._banks = self._patches(encodings)
        self._prototypes = self._text(support.object_name)
        embeddings = torch.stack([encoding.image for encoding in encodings])
        rows, columns = _grid(encodings[0])
        if (self._net.embedding, self._net.patches) != (embeddings.shape[1], rows * columns):
            raise ValueError(
                f"inctrl: the trained state is for {self._net.patches} patches and embeddings of "
                f"{self._net.embedding}, but {self._encoder.name} at {self.size} pixels gives "
                f"{rows * columns} and {embeddings.shape[1]}"
            )
        with torch.no_grad():
            self._context = self._net.context(embeddings.double()[None])

    def predict(self, queries: Queries) -> Prediction:
        """Score each query by its residuals to the references and by sentences."""
        encodings = self._encode(queries.images)
        images = torch.stack([encoding.image for encoding in encodings])
        residuals = self._residuals(encodings, [bank.flatten(0, 1) for bank in self._banks])
        text = _probability(images, self._prototypes)
        with torch.no_grad():
            scores = self._net(
                images.double(), self._context, residuals.flatten(1).double(), text.double()
            )
        maps = None
        if queries.maps:
            if self.crop:
                enlarged = uncropped(residuals, shapes(queries.images, self._features), self.size)
            else:
                enlarged = upsample(residuals, (self.size, self.size))
            maps = _floats(enlarged)
        return Prediction(
            scores=_floats(scores.final),
            maps=maps,
            parts={
                "image": _floats(scores.image),
                "text": _floats(text),
                "patch": _floats(scores.patch),
                "holistic": _floats(scores.holistic),
            },
        )

    def _encode(self, images: Sequence[Image]) -> list[Encoding]:
        views = centred(images, self.size) if self.crop else images
        return self._encoder.encode(views, size=self.size, levels=self._levels)

    def _text(self, object_name: str) -> torch.Tensor:
        return prototypes(self._encoder, self._features, inctrl_prompts(object_name))

    @staticmethod
    def _patches(encodings: Sequence[Encoding]) -> list[torch.Tensor]:
        """Unit patch vectors of each level, (n, h * w, d)."""
        levels = zip(*(encoding.levels for encoding in encodings), strict=True)
        return [unit(torch.stack(level).flatten(1, 2)) for level in levels]

    def _residuals(
        self, encodings: Sequence[Encoding], banks: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        """Distance of each patch (n, h, w) to the nearest of its level's bank, mean over levels.

        ``banks`` holds unit vectors (m, d), or (n, m, d) where each image has its own.
        """
        finest = _grid(encodings[0])
        maps = []
        for number, (patches, bank) in enumerate(zip(self._patches(encodings), banks, strict=True)):
            grid = encodings[0].levels[number].shape[:2]
            maps.append(upsample(nearest(patches, bank).unflatten(1, grid), finest))
        return torch.stack(maps).mean(dim=0)

    def _compared(self, batch: Sequence[Trial]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Embeddings (n, e), those of the references (n, k, e), and residuals (n, patches)."""
        needed = {image.key: image for trial in batch for image in trial.images}
        encoded = dict(zip(needed, self._encode(tuple(needed.values())), strict=True))
        queries = [encoded[trial.images[0].key] for trial in batch]
        references = [[encoded[i.key] for i in trial.images[1:]] for trial in batch]
        own = [self._patches(encodings) for encodings in references]  # image, level: (k, p, d)
        banks = [torch.stack(level).flatten(1, 2) for level in zip(*own, strict=True)]
        return (
            torch.stack([encoding.image for encoding in queries]),
            torch.stack([torch.stack([e.image for e in group]) for group in references]),
            self._residuals(queries, banks).flatten(1),
        )


@dataclass(frozen=True)
class Trial:
    """A training image followed by its references."""

    images: tuple[Image, ...]
    label: int
    object_name: str


def _batches(auxiliary: Auxiliary, size: int) -> Iterator[list[Trial]]:
    """Endless batches, one half normal and one half anomalous, with references drawn afresh.

    Normal images are the training images and the normal test images of all categories, anomalous
    ones the other test images; each half goes through its images in a new order every time.
    """
    rng = np.random.default_rng(auxiliary.seed)
    shots = auxiliary.shots or 1
    pools: list[list[Image]] = []
    trials: tuple[list[tuple[int, Any]], list[tuple[int, Any]]] = ([], [])  # normal, anomalous
    for number, category in enumerate(auxiliary.categories):
        test = list(zip(category.test, category.labels, strict=True))
        pools.append([*category.train, *(image for image, label in test if not label)])
        trials[0].extend((number, place) for place in range(len(pools[-1])))
        trials[1].extend((number, image) for image, label in test if label)
        if len(pools[-1]) <= shots:
            raise ValueError(
                f"inctrl: auxiliary category {category.name} has {len(pools[-1])} normal images, "
                f"more than {shots} are needed for {shots} shots"
            )
    if not trials[1]:
        raise ValueError("inctrl: the auxiliary dataset has no anomalous images to learn from")

    def trial(label: int, number: int, which: Any) -> Trial:
        pool = pools[number]
        # Indices without the image itself: those from its place on are one further.
        others = rng.choice(len(pool) - (not label), shots, replace=False)
        references = [pool[i + (not label and i >= which)] for i in others]
        image = which if label else pool[which]
        name = auxiliary.categories[number].object_name
        return Trial((image, *references), label, name)

    halves = [_shuffled(group, rng) for group in trials]
    while True:
        yield [
            trial(label, *next(half)) for label, half in enumerate(halves) for _ in range(size // 2)
        ]


def _shuffled(items: Sequence[Any], rng: np.random.Generator) -> Iterator[Any]:
    while True:
        for index in rng.permutation(len(items)):
            yield items[index]


def _grid(encoding: Encoding) -> tuple[int, int]:
    """Rows and columns of the finest level."""
    return max(tuple(level.shape[:2]) for level in encoding.levels)


def _probability(images: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    return anomalous_probability(images, text, _TEMPERATURE)


def _floats(values: torch.Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = values.float().cpu().numpy()
    return array

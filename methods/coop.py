"""CoOp as an anomaly detector: learned words before "normal" and "anomalous" (Zhou, 2022)."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from harness.interface import (
    Arrays,
    Auxiliary,
    Features,
    Image,
    Method,
    Pixels,
    Prediction,
    Queries,
    Support,
    progress,
)
from methods._encoders.load import EncoderSpec, caveat, described
from methods._encoders.pictures import encoder_files
from methods._ops.parameters import Momentum, Size, SomeShare
from methods._ops.prompts import anomalous_probability, unit

_ENCODER = {"model": "ViT-B-16-plus-240", "weights": "laion400m_e31"}


class Coop(Method):
    """Softmax of an image over two prompts whose context words are learned on another dataset.

    The prompts are ``[V1] ... [Vm] normal <object>.`` and ``[V1] ... [Vm] anomalous <object>.``
    with the context [V] shared by both and by all objects. It is trained by cross-entropy on as
    many normal and anomalous images of each auxiliary category as there will be shots; encoders
    stay frozen. The support is not looked at: shots matter through training alone.

    Parameters
    ----------
    encoder : mapping, optional
        ``{model, weights}``; ViT-B/16+ at 240 pixels of LAION-400M by default.
    size : int
        Pixels per side that the encoder sees; images are stretched to the square.
    context : int
        Number of context words.
    epochs : int, optional
        By default CoOp's 50 for 1 shot, 100 for 2 to 4, 200 for more.
    batch : int
        Images per step.
    learning_rate, momentum, weight_decay : float
        Of stochastic gradient descent; the rate is 1e-5 in the first epoch and falls along a
        cosine to 0 after it.
    views : int
        Randomly cropped and flipped views made of each training image beforehand, one of which
        each epoch takes; 0 trains on the images as they are.
    crop : float
        Least share of an image's area that a view shows.

    Notes
    -----
    Our adaptation: the paper that lists CoOp as a detector does not say how. Departures from CoOp:
    two classes per object instead of one per object; training images from an auxiliary dataset;
    views are drawn from a fixed number per image and show at least half of it by default (CoOp's
    8 % would often cut the defect off); float32 throughout.
    """

    auxiliary = True
    auxiliary_per_shots = True
    gpus = 0.25
    note = "our CoOp adaptation"

    def __init__(
        self,
        *,
        encoder: EncoderSpec | None = None,
        size: Size = 240,
        context: PositiveInt = 16,
        epochs: NonNegativeInt | None = None,
        batch: PositiveInt = 32,
        learning_rate: PositiveFloat = 0.002,
        momentum: Momentum = 0.9,
        weight_decay: NonNegativeFloat = 5e-4,
        views: NonNegativeInt = 8,
        crop: SomeShare = 0.5,
    ) -> None:
        self.encoder = described(encoder or _ENCODER)
        self.note = ", ".join(filter(None, (self.note, caveat(self.encoder, "ViT-B/16+"))))
        self.size = size
        self.context = context
        self.epochs = epochs
        self.batch = batch
        self.learning_rate = learning_rate
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.views = views
        self.crop = crop

    def files(self) -> Sequence[Path]:
        """The encoder's local files."""
        return encoder_files(self.encoder)

    def setup(self, device: str, features: Features) -> None:
        """Load the encoder."""
        from methods._encoders.load import load_text_encoder

        self._features = features
        self._encoder = load_text_encoder("coop", self.encoder, device, features)

    def train(self, auxiliary: Auxiliary) -> Arrays:
        """Learn the context words."""
        shots = auxiliary.shots or 1
        rng = np.random.default_rng(auxiliary.seed)
        examples = _drawn(auxiliary, shots, rng)
        views = self._embedded(examples, rng)  # (images, views, e)
        labels = torch.tensor([example.label for example in examples], device=views.device)
        names = sorted({example.object_name for example in examples})
        owners = torch.tensor(
            [names.index(example.object_name) for example in examples], device=views.device
        )
        noise = torch.Generator().manual_seed(auxiliary.seed)
        shape = (self.context, self._encoder.text.width)
        context = (0.02 * torch.randn(shape, generator=noise)).to(views.device).requires_grad_()
        optimizer = torch.optim.SGD(
            [context], self.learning_rate, self.momentum, weight_decay=self.weight_decay
        )
        epochs = self.epochs or (50 if shots == 1 else 100 if shots <= 4 else 200)
        for epoch in range(epochs):
            cosine = 0.5 * self.learning_rate * (1 + math.cos(math.pi * epoch / epochs))
            optimizer.param_groups[0]["lr"] = cosine if epoch else 1e-5
            order = torch.from_numpy(rng.permutation(len(views)))
            choice = torch.from_numpy(rng.integers(0, views.shape[1], len(views)))
            parts = order.split(self.batch)
            for number, part in enumerate(parts, 1):
                present = sorted(set(owners[part].tolist()))
                text = self._prompts(context, [names[i] for i in present])  # (objects, 2, e)
                where = torch.tensor([present.index(i) for i in owners[part].tolist()])
                cosines = torch.bmm(text[where], unit(views[part, choice[part]])[:, :, None])
                logits = self._encoder.logit_scale * cosines[..., 0]
                loss = torch.nn.functional.cross_entropy(logits, labels[part])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                progress(epoch * len(parts) + number, epochs * len(parts), {"loss": loss})
        return {"context": context.detach().cpu().numpy()}

    def load(self, state: Arrays) -> None:
        """Take the context words."""
        width = self._encoder.text.width
        if state["context"].shape[1] != width:
            raise ValueError(
                f"coop: the trained words are of length {state['context'].shape[1]}, those of "
                f"{self._encoder.name} of {width}"
            )
        self._context = state["context"]

    def fit(self, support: Support) -> None:
        """Embed the object's two prompts; the support's images are not looked at."""

        def compute() -> torch.Tensor:
            device = self._encoder.text.device
            with torch.no_grad():
                return self._prompts(
                    torch.from_numpy(np.array(self._context)).to(device), [support.object_name]
                )[0]

        digest = hashlib.sha256(self._context.tobytes()).hexdigest()[:24]
        name = f"coop/{self._encoder.name}/{digest}/{support.object_name}"
        self._prototypes = self._features.get_or_create(name, compute)

    def predict(self, queries: Queries) -> Prediction:
        """Score each query by the softmax over the two prompts; there is no map."""
        encodings = self._encoder.encode(queries.images, size=self.size)
        images = torch.stack([encoding.image for encoding in encodings])
        scores = anomalous_probability(images, self._prototypes, 1 / self._encoder.logit_scale)
        return Prediction(scores.float().cpu().numpy())

    def _prompts(self, context: torch.Tensor, object_names: Sequence[str]) -> torch.Tensor:
        """Unit embeddings (objects, 2, e) of the normal and the anomalous prompt of each object."""
        words = " ".join(["x"] * len(context))
        sentences = [
            f"{words} {state} {name.replace('_', ' ')}."
            for name in object_names
            for state in ("normal", "anomalous")
        ]
        embeddings, ends = self._encoder.text.words(sentences)
        learned = context.expand(len(sentences), -1, -1)
        embeddings = torch.cat(
            [embeddings[:, :1], learned, embeddings[:, 1 + len(context) :]], dim=1
        )
        return unit(self._encoder.text(embeddings, ends)).unflatten(0, (-1, 2))

    def _embedded(self, examples: Sequence[_Example], rng: np.random.Generator) -> torch.Tensor:
        """Image embeddings (images, views, e) of random views, or of the images themselves."""
        images = [
            _view(example.image, self.crop, int(rng.integers(2**32)))
            if self.views
            else example.image
            for example in examples
            for _ in range(max(1, self.views))
        ]
        encodings = self._encoder.encode(images, size=self.size)
        embeddings = torch.stack([encoding.image for encoding in encodings])
        return embeddings.unflatten(0, (len(examples), -1))


@dataclass(frozen=True)
class _Example:
    image: Image
    label: int
    object_name: str


def _drawn(auxiliary: Auxiliary, shots: int, rng: np.random.Generator) -> list[_Example]:
    """``shots`` normal and as many anomalous images of each category, or all there are."""
    examples = []
    for category in auxiliary.categories:
        anomalous = [i for i, label in zip(category.test, category.labels, strict=True) if label]
        for label, images in ((0, category.train), (1, anomalous)):
            chosen = rng.permutation(len(images))[:shots]
            examples += [_Example(images[i], label, category.object_name) for i in chosen]
    if {example.label for example in examples} != {0, 1}:
        raise ValueError("coop: the auxiliary dataset must have normal and anomalous images")
    return examples


def _view(image: Image, least: float, seed: int) -> Image:
    """A random rectangle of an image, perhaps mirrored; made when it is first looked at."""

    def make() -> Pixels:
        rng = np.random.default_rng(seed)
        pixels = image.pixels
        height, width = pixels.shape[:2]
        area = height * width * rng.uniform(least, 1)
        ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        columns = max(1, min(width, round(math.sqrt(area * ratio))))
        rows = max(1, min(height, round(area / columns)))
        top, left = rng.integers(height - rows + 1), rng.integers(width - columns + 1)
        view = pixels[top : top + rows, left : left + columns]
        return np.ascontiguousarray(view[:, ::-1] if rng.random() < 0.5 else view)

    return Image(f"{image.key}/view{least}/{seed}", make)

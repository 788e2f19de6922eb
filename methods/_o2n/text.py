"""Text branch of One-to-Normal: one linear layer per level into the space of sentences.

The paper (section 3.4) says that there is such a layer and what data it learns from, but not how.
The recipe is that of its reference [5] (APRIL-GAN, Chen et al. 2023): the auxiliary data's test
images with their masks; focal and Dice loss of each level's softmax, enlarged; Adam.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as Picture

from harness.interface import Arrays, Auxiliary, AuxiliaryCategory, Image, progress
from methods._encoders.encoding import Encoding
from methods._ops.maps import enlarging
from methods._ops.prompts import unit

#: APRIL-GAN trains 3 epochs, with mosaics, on these, and 15 without on VisA
_MVTEC = frozenset(
    "bottle cable capsule carpet grid hazelnut leather metal_nut pill screw tile toothbrush "  # noqa: SIM905
    "transistor wood zipper".split()
)
_SMOOTH = 1e-5


@dataclass(frozen=True)
class Recipe:
    """How the layers are trained; None: as APRIL-GAN on data of that name."""

    size: int  # side in pixels at which masks are compared
    temperature: float
    epochs: int | None = None
    batch: int = 8
    learning_rate: float = 1e-3
    mosaic: float | None = None  # probability that an image is replaced by four of its category

    def on(self, categories: Sequence[str]) -> tuple[int, float]:
        """Epochs and probability of mosaics on auxiliary data with these categories."""
        mvtec = _MVTEC.issuperset(categories)
        epochs = self.epochs if self.epochs is not None else (3 if mvtec else 15)
        return epochs, self.mosaic if self.mosaic is not None else (0.2 if mvtec else 0.0)


class TextLayers:
    """Linear layers, one per level.

    Parameters
    ----------
    weights : sequence of tensors of shape (e, d)
        d is the level's width, e that of text embeddings.
    biases : sequence of tensors of shape (e,)
    """

    def __init__(self, weights: Sequence[torch.Tensor], biases: Sequence[torch.Tensor]) -> None:
        self.weights = tuple(weights)
        self.biases = tuple(biases)

    @classmethod
    def fresh(cls, dims: Sequence[int], embedding: int, seed: int, device: str) -> TextLayers:
        """Untrained layers from widths ``dims``, drawn as ``torch.nn.Linear`` draws them."""
        random = torch.Generator("cpu").manual_seed(seed)

        def draw(*shape: int, width: int) -> torch.Tensor:
            values = torch.rand(shape, generator=random).mul_(2).sub_(1).mul_(width**-0.5)
            return values.to(device).requires_grad_()

        weights = [draw(embedding, width, width=width) for width in dims]
        return cls(weights, [draw(embedding, width=width) for width in dims])

    @classmethod
    def of(cls, state: Mapping[str, NDArray[np.float32]], device: str) -> TextLayers:
        """Layers from what ``arrays`` gave."""
        count = sum(name.startswith("weight.") for name in state)
        parts = (
            [torch.tensor(state[f"{kind}.{level}"], device=device) for level in range(count)]
            for kind in ("weight", "bias")
        )
        return cls(*parts)

    def arrays(self) -> Arrays:
        """All layers by name: ``weight.0``, ``bias.0`` and so on, float32."""
        named = [(f"weight.{i}", tensor) for i, tensor in enumerate(self.weights)]
        named += [(f"bias.{i}", tensor) for i, tensor in enumerate(self.biases)]
        return {name: tensor.detach().cpu().numpy() for name, tensor in named}

    def logits(
        self, levels: Sequence[torch.Tensor], text: torch.Tensor, temperature: float
    ) -> list[torch.Tensor]:
        """Cosine / temperature with normal and anomalous sentences, one tensor per level.

        Parameters
        ----------
        levels : sequence of tensors of shape (n, h, w, d)
        text : tensor of shape (2, e) or (n, 2, e)
            Vectors of length 1.
        temperature : float

        Returns
        -------
        list of tensors of shape (n, 2, h, w)
        """
        logits = []
        for level, weight, bias in zip(levels, self.weights, self.biases, strict=True):
            n, height, width, d = level.shape
            # One product of equal shape per image, so that no image's last bits depend on others.
            mapped = torch.bmm(level.reshape(n, -1, d), weight.T.expand(n, -1, -1)) + bias
            cosines = torch.bmm(text.expand(n, -1, -1), unit(mapped).mT)
            logits.append((cosines / temperature).unflatten(2, (height, width)))
        return logits

    def probabilities(
        self, levels: Sequence[torch.Tensor], text: torch.Tensor, temperature: float
    ) -> list[torch.Tensor]:
        """Anomalous probability of each cell (n, h, w), one tensor per level (Eq. 6)."""
        return [each.softmax(dim=1)[:, 1] for each in self.logits(levels, text, temperature)]


Encode = Callable[[Sequence[Image]], list[Encoding]]


def train(
    auxiliary: Auxiliary,
    encode: Encode,
    texts: Sequence[torch.Tensor],
    recipe: Recipe,
    device: str,
) -> TextLayers:
    """Layers trained on the test images of all auxiliary categories together; the last epoch's.

    Parameters
    ----------
    auxiliary : Auxiliary
    encode : function from images to their encodings
    texts : tensors of shape (2, e)
        Prototypes of each category.
    recipe : Recipe
    device : str

    Raises
    ------
    ValueError
        When no image with a mask is there to learn from.
    """
    rng = np.random.default_rng(auxiliary.seed)
    masks = [_masks(category, recipe.size) for category in auxiliary.categories]
    items = [(c, i) for c, of_category in enumerate(masks) for i in sorted(of_category)]
    if not any(of_category[i].any() for of_category in masks for i in of_category):
        names = ", ".join(category.name for category in auxiliary.categories)
        raise ValueError(f"o2n: no auxiliary image has a defect mask to learn from, in {names}")
    epochs, mosaic = recipe.on([category.name for category in auxiliary.categories])
    layers: Any = None  # made as the first batch says how long features are
    optimizer: Any = None
    steps = -(-len(items) // recipe.batch)
    for epoch in range(epochs):
        for number, batch in enumerate(_batches(items, recipe.batch, rng), 1):
            images, truth = [], []
            for c, i in batch:
                category = auxiliary.categories[c]
                if rng.random() < mosaic:
                    four = rng.choice(sorted(masks[c]), 4)
                    images.append(_mosaic([category.test[j] for j in four], recipe.size))
                    truth.append(_quartered([masks[c][j] for j in four], recipe.size))
                else:
                    images.append(category.test[i])
                    truth.append(masks[c][i])
            encodings = encode(images)
            levels = [torch.stack(level) for level in zip(*(e.levels for e in encodings))]  # noqa: B905
            if layers is None:
                dims = [level.shape[-1] for level in levels]
                layers = TextLayers.fresh(dims, texts[0].shape[1], auxiliary.seed, device)
                optimizer = torch.optim.Adam(
                    (*layers.weights, *layers.biases), recipe.learning_rate, betas=(0.5, 0.999)
                )
            text = torch.stack([texts[c] for c, _ in batch])
            logits = layers.logits(levels, text, recipe.temperature)
            loss = map_loss(logits, torch.from_numpy(np.stack(truth)).to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            progress(epoch * steps + number, epochs * steps, {"loss": loss})
    trained: TextLayers = layers
    return trained


def map_loss(logits: Sequence[torch.Tensor], masks: torch.Tensor) -> torch.Tensor:
    """Sum over levels of focal and Dice loss of their enlarged softmax.

    Parameters
    ----------
    logits : sequence of tensors of shape (n, 2, h, w)
        Normal, anomalous.
    masks : bool tensor of shape (n, H, W)
        True is defect.
    """
    total = logits[0].new_zeros(())
    truth = masks.to(logits[0])
    for level in logits:
        down, across = (
            torch.from_numpy(enlarging(side, target)).to(level)
            for side, target in zip(level.shape[2:], masks.shape[1:], strict=True)
        )
        anomalous = (down @ (level @ across.T)).softmax(dim=1)[:, 1]
        right = torch.where(masks, anomalous, 1 - anomalous)
        # Of two classes: the label smoothed by clamping, then the other class's share.
        right = right * (1 - _SMOOTH) + (1 - right) * _SMOOTH + _SMOOTH
        focal = -((1 - right) ** 2 * right.log()).mean()
        overlap = (anomalous * truth).sum(dim=(1, 2))
        areas = anomalous.sum(dim=(1, 2)) + truth.sum(dim=(1, 2))
        total = total + focal + (1 - (2 * overlap + 1) / (areas + 1)).mean()
    return total


def _masks(category: AuxiliaryCategory, size: int) -> dict[int, NDArray[np.bool_]]:
    """Masks (size, size) by index; anomalous images without one are left out."""
    nearest = {}
    for i, label in enumerate(category.labels):
        mask = category.masks(i) if label else np.zeros((size, size), dtype=bool)
        if mask is not None:
            nearest[i] = _nearest(mask, size)
    return nearest


def _batches(
    items: Sequence[tuple[int, int]], size: int, rng: np.random.Generator
) -> Iterator[list[tuple[int, int]]]:
    order = rng.permutation(len(items))
    for start in range(0, len(items), size):
        yield [items[i] for i in order[start : start + size]]


def _mosaic(images: Sequence[Image], size: int) -> Image:
    """Four images as the quarters of one."""

    def pixels() -> NDArray[np.uint8]:
        half = (size // 2, size // 2)
        bicubic = Picture.Resampling.BICUBIC
        shrunk = [np.asarray(Picture.fromarray(i.pixels).resize(half, bicubic)) for i in images]
        return np.vstack([np.hstack(shrunk[:2]), np.hstack(shrunk[2:])])

    return Image(f"mosaic/{size}/" + "/".join(image.key for image in images), pixels)


def _quartered(masks: Sequence[NDArray[np.bool_]], size: int) -> NDArray[np.bool_]:
    shrunk = [_nearest(mask, size // 2) for mask in masks]
    whole = np.vstack([np.hstack(shrunk[:2]), np.hstack(shrunk[2:])])
    return _nearest(whole, size)


def _nearest(mask: NDArray[np.bool_], size: int) -> NDArray[np.bool_]:
    """The mask at (size, size), each cell the source pixel at its centre."""
    rows, columns = (((np.arange(size) + 0.5) * side / size).astype(int) for side in mask.shape)
    nearest: NDArray[np.bool_] = mask[rows[:, None], columns]
    return nearest

"""What CLIP methods do before an encoder sees an image: crop it, and name the files it rests on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from harness.interface import Features, Image
from methods._encoders import weights as _weights
from methods._ops.crop import centres
from methods._ops.windows import upsample


def encoder_files(spec: Mapping[str, Any]) -> tuple[Path, ...]:
    """Local files that an encoder's results depend on, without loading anything.

    Those of the embedded micro model are named only where they are.
    """
    model, weights = spec["model"], spec["weights"]
    if model == "micro":
        home = micro_home(weights)
        parts = (home / "clip", home / "diffusion" / "text_encoder")
        trunk = _weights.files({"model": "tf_efficientnet_lite0", "weights": "imagenet"})
        return (*trunk, *(path for part in parts for path in sorted(part.glob("*.safetensors"))))
    config = (Path(model).expanduser().absolute(),) if model.endswith(".json") else ()
    return (*config, *_weights.files(spec))


def micro_home(weights: str) -> Path:
    """Folder of micro models that ``weights`` names: ``embedded`` ones, or a folder."""
    if weights == "embedded":
        return Path(__file__).parents[1] / "micro"
    return Path(weights).expanduser().absolute()


def centred(images: Sequence[Image], size: int) -> list[Image]:
    """The images' centres of ``size`` x ``size`` pixels, the shortest side resized, bicubic."""
    return centres(images, size, size, "bicubic")


def shapes(images: Sequence[Image], features: Features) -> list[tuple[int, int]]:
    """Height and width of each image in pixels."""
    return features.get_or_compute(
        "shape", images, lambda batch: [i.pixels.shape[:2] for i in batch]
    )


def uncropped(maps: torch.Tensor, shapes: Sequence[tuple[int, int]], size: int) -> torch.Tensor:
    """Maps of centre squares, laid over the whole images they will be stretched over.

    Parameters
    ----------
    maps : tensor of shape (n, h, w)
        At least 0.
    shapes : sequence of (int, int)
        Height and width of the n images before ``centre``.
    size : int
        Side of the result in pixels.

    Returns
    -------
    tensor of shape (n, size, size)
        What lies outside the square scores 0. Maps of square images are only enlarged.
    """
    whole = upsample(maps, (size, size))
    if whole is maps:  # of that size already: what follows must not write into the caller's
        whole = maps.clone()
    for height, width in sorted({shape for shape in shapes if shape[0] != shape[1]}):
        same = [i for i, shape in enumerate(shapes) if tuple(shape) == (height, width)]
        rows = max(1, round(size * min(1, width / height)))
        columns = max(1, round(size * min(1, height / width)))
        top, left = (size - rows) // 2, (size - columns) // 2
        whole[same] = 0
        whole[same, top : top + rows, left : left + columns] = upsample(maps[same], (rows, columns))
    return whole

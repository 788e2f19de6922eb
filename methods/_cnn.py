"""Convolutional encoders of timm as one record per image: levels, image embedding, windows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import timm
import torch
import torch.nn.functional as F
from PIL import Image as Picture

from harness.interface import Features, Image
from methods import _weights
from methods._encoding import Encoding

LEVELS = (1, 2, 3, 4)
_CACHED = (1, 2, 3, 4)


class CnnEncoder:
    """A frozen timm network; level n is its last feature map of stride 2^(n + 1).

    Levels 1 to 4 are layer1 to layer4 of a ResNet and blocks.1, blocks.2, blocks.4, blocks.6 of an
    EfficientNet. All four come from one forward pass and are remembered together, so that methods
    that read different levels share it.

    Parameters
    ----------
    model : str
        A timm name.
    weights : str
        ``imagenet``, another tag of timm for this model, a local file, or ``random:SEED``.
    device : str
        Where the network runs and its features stay.
    features : Features
        The worker's memory.

    Raises
    ------
    ValueError
        When the model is unknown or has no such levels, or the weights do not fit it.
    FileNotFoundError
        When the weights are neither here nor reachable.
    """

    def __init__(self, model: str, weights: str, device: str, features: Features) -> None:
        self.name = f"{model}/{weights}"
        self.device = torch.device(device)
        self._features = features
        network, mean, std = build(model, weights)
        self.network = network.to(self.device, memory_format=torch.channels_last)
        self._mean = torch.tensor(mean, device=self.device)
        self._std = torch.tensor(std, device=self.device)
        self.dims: dict[int, int] = dict(zip(LEVELS, network.feature_info.channels(), strict=True))

    def encode(
        self,
        images: Sequence[Image],
        *,
        size: int | tuple[int, int],
        levels: Sequence[int],
        windows: Sequence[int] = (),
    ) -> list[Encoding]:
        """Encodings of images stretched to ``size``.

        Parameters
        ----------
        images : sequence of Image
        size : int or (int, int)
            Height and width in pixels that the network sees; an int is both.
        levels : sequence of int
            Which of 1..4; ``Encoding.levels`` follows their order.
        windows : sequence of int
            Sides, in cells of the last level, of the windows to embed by average pooling.

        Returns
        -------
        list of Encoding
            One per image, each as if it had been alone.
        """
        for level in levels:
            if level not in LEVELS:
                raise ValueError(f"encoder: levels of {self.name} are 1, 2, 3 and 4, got {level}")
        height, width = (size, size) if isinstance(size, int) else size
        space = f"cnn/{self.name}/{height}x{width}"

        def compute(batch: Sequence[Image]) -> list[tuple[torch.Tensor, ...]]:
            return self._forward(batch, height, width)

        # One image at a time on a CPU: other batch sizes give other last bits, and cost more there.
        batch = 1 if self.device.type == "cpu" else 32
        records = self._features.many(space, images, compute, batch)
        return [
            Encoding(
                levels=tuple(stages[level - 1] for level in levels),
                image=stages[-1].mean((0, 1)),
                windows={side: _windows(stages[-1], side) for side in windows},
            )
            for stages in records
        ]

    def _forward(
        self, images: Sequence[Image], height: int, width: int
    ) -> list[tuple[torch.Tensor, ...]]:
        """All levels of a batch: per image a tuple of float32 tensors (h, w, d)."""
        pixels = np.stack([resized(image.pixels, height, width) for image in images])
        with torch.inference_mode():
            batch = torch.from_numpy(pixels).to(self.device).float().div_(255)
            batch = batch.sub_(self._mean).div_(self._std).permute(0, 3, 1, 2)
            # Channels-last maps are (N, h, w, d) in memory: permuting copies nothing, and each
            # record is copied out so that it owns its memory and no more.
            stages = [stage.permute(0, 2, 3, 1) for stage in self.network(batch)]
            return [
                tuple(stage[i].clone(memory_format=torch.contiguous_format) for stage in stages)
                for i in range(len(images))
            ]


def _windows(stage: torch.Tensor, side: int) -> torch.Tensor:
    """Means of all side x side windows: (h, w, d) to (h - side + 1, w - side + 1, d)."""
    pooled = F.avg_pool2d(stage.permute(2, 0, 1)[None], side, stride=1)
    return pooled[0].permute(1, 2, 0)


def resized(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Stretch uint8 (H, W, 3) to (height, width, 3), bilinear with antialiasing."""
    if pixels.shape[:2] == (height, width):
        return pixels
    picture = Picture.fromarray(pixels).resize((width, height), Picture.Resampling.BILINEAR)
    return np.asarray(picture)


def build(model: str, weights: str) -> tuple[torch.nn.Module, tuple[float, ...], tuple[float, ...]]:
    """A frozen feature pyramid of strides 4 to 32 with its input mean and deviation (0..1 scale)."""
    if not timm.is_model(model):
        raise ValueError(f"encoder: timm has no model named {model}")
    seed = _weights.random_seed(weights)
    with _weights.seeded(seed or 0):
        full = timm.create_model(model, pretrained=False)
    mean, std = full.pretrained_cfg["mean"], full.pretrained_cfg["std"]
    if seed is None:
        path = _find(model, weights)
        state = _weights.read(path)
        if path == _weights.packaged_file(model):
            # The package's tensors are timm's in timm's order, under other names.
            state = dict(zip(full.state_dict(), state.values(), strict=True))
            mean, std = (127 / 255,) * 3, (128 / 255,) * 3
        _load(full, state, path, model)
    pyramid = timm.create_model(model, pretrained=False, features_only=True)
    reductions = pyramid.feature_info.reduction()
    indices = [i for i, reduction in enumerate(reductions) if reduction in (4, 8, 16, 32)]
    if len(indices) != len(LEVELS):
        raise ValueError(
            f"encoder: {model} has feature strides {reductions}, 4, 8, 16 and 32 are needed"
        )
    pyramid = timm.create_model(
        model, pretrained=False, features_only=True, out_indices=tuple(indices)
    )
    wanted = pyramid.state_dict()
    own = full.state_dict()
    pyramid.load_state_dict({name: own[name] for name in wanted})
    return pyramid.eval().requires_grad_(False), mean, std


def _find(model: str, weights: str) -> Path:
    if _weights.is_file(weights):
        return _weights.local_file(weights)
    if weights == "imagenet":
        if path := _weights.packaged_file(model):
            return path
        tag = _weights.IMAGENET_TAGS.get(model, "")
    else:
        tag = weights
    name = f"{model}.{tag}" if tag else model
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.hf_hub_id:
        raise ValueError(f"encoder: timm knows no weights {weights} for {model}")
    cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(config.url or "none").name
    return _weights.hub_file(
        config.hf_hub_id, ("model.safetensors", "pytorch_model.bin"), name, also=(cached,)
    )


def _load(
    network: torch.nn.Module, state: Mapping[str, torch.Tensor], path: Path, model: str
) -> None:
    """Load a state that may lack the classifier, which features do not need."""
    own = network.state_dict()
    head = {name for name in own if name.startswith((network.default_cfg["classifier"] + "."))}
    fits = {n: t for n, t in state.items() if n in own and t.shape == own[n].shape}
    missing = sorted(own.keys() - fits.keys() - head)
    if missing:
        raise ValueError(
            f"encoder: {path} does not fit {model}: {len(missing)} tensors are missing or of "
            f"another shape, first {missing[0]}"
        )
    network.load_state_dict(fits, strict=False)

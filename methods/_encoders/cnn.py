"""Convolutional encoders of timm as one record per image: levels, image embedding, windows."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import timm
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image as Picture
from timm.layers import BatchNormAct2d
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from harness.interface import Features, Image
from methods._encoders import pins as _pins
from methods._encoders import weights as _weights
from methods._encoders.encoding import Encoding

_STRIDES = (4, 8, 16, 32)  # of levels 1 to 4
#: images encoded at a time on a GPU; on a CPU it is one, so that no image's bits depend on others
_BATCH = 32
#: input mean and deviation that the packaged weights were trained with
_PACKAGED_SCALE = ((127 / 255,) * 3, (128 / 255,) * 3)

Scale = tuple[tuple[float, ...], tuple[float, ...]]


class CnnEncoder:
    """A frozen timm network; level n is its last feature map of stride 2^(n + 1).

    Levels 1 to 4 are layer1 to layer4 of a ResNet, and blocks.1, blocks.2, blocks.4 and blocks.6 of
    an EfficientNet. One forward pass gives all four and they are remembered together, so that
    methods that read different levels share it.

    Parameters
    ----------
    model : str
        A timm name.
    weights : str
        ``imagenet``, a tag of timm for this model, perhaps with a revision of its repository on the
        hub (``imagenet@0123abc``; else the pinned one), a local file, or ``random:SEED``.
    device : str
        Where the network runs and its features stay.
    features : Features
        The worker's memory.

    Attributes
    ----------
    name : str
        Names the network and its weights; part of every feature space.
    dims : dict of int to int
        Channels of each level.

    Raises
    ------
    ValueError
        When the model is unknown or lacks such levels, or the weights do not fit it.
    FileNotFoundError
        When the weights are neither here nor reachable.
    """

    def __init__(self, model: str, weights: str, device: str, features: Features) -> None:
        network, (mean, std) = build(model, weights)
        strides = [info["reduction"] for info in network.feature_info]
        if not set(_STRIDES) <= set(strides):
            raise ValueError(
                f"encoder: {model} has features of strides {strides}, 4, 8, 16 and 32 are needed"
            )
        # The last map of each stride, as timm counts them.
        self._indices = [len(strides) - 1 - strides[::-1].index(stride) for stride in _STRIDES]
        self.dims = {
            level: int(network.feature_info[index]["num_chs"])
            for level, index in enumerate(self._indices, 1)
        }
        self.name = f"{model}/{weights}"
        self.device = torch.device(device)
        self._features = features
        # Channels last is the faster layout on a CPU, and makes levels (h, w, d) without copying.
        self.network = folded(network).to(self.device, memory_format=torch.channels_last)
        self._mean = torch.tensor(mean, device=self.device)
        self._std = torch.tensor(std, device=self.device)

    def encode(
        self,
        images: Sequence[Image],
        *,
        size: int | tuple[int, int],
        levels: Sequence[int] = (),
        windows: Sequence[int] = (),
    ) -> list[Encoding]:
        """Encodings of images stretched to ``size``.

        Parameters
        ----------
        images : sequence of Image
        size : int or (int, int)
            Height and width in pixels that the network sees; an int is both.
        levels : sequence of int
            Which of 1 to 4; ``Encoding.levels`` follows their order.
        windows : sequence of int
            Sides, in cells of level 4, of the windows to embed by average pooling.

        Returns
        -------
        list of Encoding
            One per image, each as if it had been alone.

        Raises
        ------
        ValueError
            For a level or window that the network does not have.
        """
        for level in levels:
            if level not in self.dims:
                raise ValueError(f"encoder: levels of {self.name} are 1 to 4, got {level}")
        height, width = (size, size) if isinstance(size, int) else size

        def compute(batch: Sequence[Image]) -> list[tuple[torch.Tensor, ...]]:
            return self._forward(batch, height, width)

        batch = 1 if self.device.type == "cpu" else _BATCH
        space = f"cnn/{self.name}/{height}x{width}"
        records = self._features.get_or_compute(space, images, compute, batch)
        return [
            Encoding(
                levels=tuple(stages[level - 1] for level in levels),
                image=stages[-1].mean((0, 1)),
                windows={side: self._windows(stages[-1], side) for side in windows},
            )
            for stages in records
        ]

    def _forward(
        self, images: Sequence[Image], height: int, width: int
    ) -> list[tuple[torch.Tensor, ...]]:
        """All levels of a batch: per image four float32 tensors of shape (h, w, d)."""
        pixels = np.stack([stretch(image.pixels, height, width) for image in images])
        # Not inference mode: some methods train on these features.
        with torch.no_grad():
            batch = torch.from_numpy(pixels).to(self.device).float().div_(255)
            batch = batch.sub_(self._mean).div_(self._std).permute(0, 3, 1, 2)
            stages = self.network.forward_intermediates(
                batch, indices=self._indices, intermediates_only=True
            )
            # Each record is copied out, so that it owns its memory and no more.
            return [
                tuple(
                    stage[i].permute(1, 2, 0).clone(memory_format=torch.contiguous_format)
                    for stage in stages
                )
                for i in range(len(images))
            ]

    def _windows(self, stage: torch.Tensor, side: int) -> torch.Tensor:
        """Means of all side x side windows: (h, w, d) to (h - side + 1, w - side + 1, d)."""
        height, width = stage.shape[:2]
        if not 1 <= side <= min(height, width):
            raise ValueError(
                f"encoder: level 4 of {self.name} is {height} x {width}, "
                f"which holds no window of {side}"
            )
        pooled = F.avg_pool2d(stage.permute(2, 0, 1)[None], side, stride=1)
        return pooled[0].permute(1, 2, 0)


def stretch(
    pixels: NDArray[np.uint8], height: int, width: int, kernel: str = "bilinear"
) -> NDArray[np.uint8]:
    """Stretch uint8 (H, W, 3) to (height, width, 3), antialiased; bilinear, bicubic or lanczos."""
    if pixels.shape[:2] == (height, width):
        return pixels
    how = Picture.Resampling[kernel.upper()]
    return np.asarray(Picture.fromarray(pixels).resize((width, height), how))


def knows(model: str) -> bool:
    """Whether ``model`` is a name of timm."""
    return bool(timm.is_model(model))


def build(model: str, weights: str) -> tuple[nn.Module, Scale]:
    """A frozen timm network in eval mode on the CPU, with its input's mean and deviation in 0..1.

    ``random:SEED`` gives what ``timm.create_model`` does after ``torch.manual_seed(SEED)``.
    """
    if not knows(model):
        close = difflib.get_close_matches(model, timm.list_models(), 1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ValueError(f"encoder: timm has no model named {model}{hint}")
    seed = _weights.random_seed(weights)
    path = _find(model, weights) if seed is None else None  # before time is spent building
    with _weights.seeded(seed or 0):
        network = timm.create_model(model, pretrained=False)
    scale = _scale(model, weights)
    if path is not None:
        state = _weights.read(path)
        own = network.state_dict()
        if model in _weights.PACKAGED and not own.keys() & state.keys() and len(own) == len(state):
            # The package's tensors are timm's, in timm's order, under other names.
            state = dict(zip(own, state.values(), strict=True))
            scale = _PACKAGED_SCALE
        _load(network, state, path, model)
    network.reset_classifier(0)  # features need no classifier
    return network.eval().requires_grad_(False), scale


def _find(model: str, weights: str) -> Path:
    """The file of a description of weights that is not ``random:SEED``."""
    if _weights.is_file(weights):
        return _weights.local_file(weights)
    if weights == "imagenet" and (path := _weights.packaged_file(model)):
        return path
    tags, tag, named = _tags(model), _tag(model, weights), _pins.parted(weights)[1]
    if not tags or (tag and tag not in tags):
        known = ", ".join(["imagenet", *tags]) if tags else "none"
        raise ValueError(
            f"encoder: timm knows no weights {weights} for {model}; known are {known}, a local "
            f".safetensors or .pth file, or random:SEED"
        )
    config = timm.get_pretrained_cfg(f"{model}.{tag}" if tag else model)
    cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(config.url or "none").name
    names = (config.hf_hub_filename or "model.safetensors", "pytorch_model.bin")
    return _weights.hub_file(config.hf_hub_id, names, f"{model} {weights}", (cached,), named)


def _tags(model: str) -> list[str]:
    return [name.partition(".")[2] for name in timm.list_pretrained(f"{model}.*")]


def _tag(model: str, weights: str) -> str:
    """Timm's tag of weights that are no file; "" is the model's default."""
    stem, _ = _pins.parted(weights)
    return _weights.IMAGENET_TAGS.get(model, "") if stem == "imagenet" else stem


def _scale(model: str, weights: str) -> Scale:
    """Mean and deviation that these weights were trained with; of files, the default weights'."""
    tag = _tag(model, weights)
    config = timm.get_pretrained_cfg(f"{model}.{tag}" if tag in _tags(model) else model)
    return config.mean, config.std


def _load(network: nn.Module, state: Mapping[str, torch.Tensor], path: Path, model: str) -> None:
    """Load a state that may lack the classifier or have one of other classes."""
    own = network.state_dict()
    classifier = network.pretrained_cfg.get("classifier") or ()
    heads = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    fits = {
        name: tensor
        for name, tensor in state.items()
        if name in own and tensor.shape == own[name].shape
    }
    missing = sorted(name for name in own.keys() - fits.keys() if not name.startswith(heads))
    if missing:
        raise ValueError(
            f"encoder: {path} does not fit {model}: {len(missing)} tensors are missing or of "
            f"another shape, first {missing[0]}"
        )
    network.load_state_dict(fits, strict=False)


def folded(network: nn.Module) -> nn.Module:
    """A copy with batch normalisation folded into the convolution before it: 10 to 15 % faster.

    Where a module's children do not run in the order they are listed in, folding would change what
    it computes: so it is tried on noise, and the network comes back as it was if that differs.
    """
    copied = copy.deepcopy(network)
    for module in list(copied.modules()):
        for (_, conv), (name, norm) in pairwise(list(module.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                fused = fuse_conv_bn_eval(conv, norm)
                conv.weight, conv.bias = fused.weight, fused.bias
                after = norm.act if isinstance(norm, BatchNormAct2d) else nn.Identity()
                setattr(module, name, after)
    noise = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, got = (
            net.forward_intermediates(noise, intermediates_only=True) for net in (network, copied)
        )
    same = all(
        (w - g).abs().max() <= 1e-4 * w.abs().max() for w, g in zip(expected, got, strict=True)
    )
    return copied.requires_grad_(False) if same else network

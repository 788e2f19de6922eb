"""RegAD's network: convolutional stages that straighten their features, and a Siamese head.

Layers, their order and their initialisation are those of the authors' code, and so is the layout of
the checkpoints that ``read_checkpoint`` takes (Huang et al., ECCV 2022, section 3).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from harness.interface import Arrays
from methods._encoders import weights as _weights
from methods._encoders.cnn import build
from methods._learned.sparing import block_recomputed, in_blocks, recomputed

_HEAD = 256  # channels of the head's hidden layers
VERSIONS = 22  # that ``augmented`` makes of a picture
_Prepare = Callable[[torch.Tensor], torch.Tensor]
_WILD = 100.0  # a scale at which neighbouring cells read whole maps apart
#: the authors' names of what ``Registered`` holds, by how they begin
_AUTHORS = {
    "conv1.": "stages.0.0.conv.",
    "bn1.": "stages.0.0.norm.",
    "layer1.": "stages.0.1.",
    "layer2.": "stages.1.0.",
    "layer3.": "stages.2.0.",
    "stn1.": "straighten.0.",
    "stn2.": "straighten.1.",
    "stn3.": "straighten.2.",
}


class Straighten(nn.Module):
    """A spatial transformer that rotates and scales a feature map, by nothing to begin with.

    Parameters
    ----------
    channels : int
    side : int
        Height and width of the maps.
    """

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(channels, 64, 3, padding=1, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2, padding=1),
            nn.Conv2d(64, 16, 3, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        pooled = (side + 3) // 4  # halved twice, rounding up
        self.fc = nn.Sequential(
            nn.Linear(16 * pooled**2, 1024),
            nn.ReLU(),
            nn.Linear(1024, 3),  # angle in radians, scale across, scale down
        )
        nn.init.zeros_(self.fc[2].weight)
        with torch.no_grad():
            self.fc[2].bias.copy_(torch.tensor([0.0, 1.0, 1.0]))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The straightened map (N, C, h, w) and its matrices (N, 2, 2), from output to input.

        Raises
        ------
        ValueError
            When training has driven the scales away: nothing would be left to register, and
            reading a mirrored map at positions that are not finite crashes the process.
        """
        return self._turned(x, self.conv(x))

    def sparing(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The same in training, at less memory."""
        small = in_blocks(self.conv[0], self.conv[1], self.conv[2:4], x)
        return self._turned(x, recomputed(self.conv[4:], small))

    def _turned(self, x: torch.Tensor, seen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        matrix = rotation_scale(self.fc(seen.flatten(1)))
        if not matrix.detach().abs().amax() < _WILD:  # so that NaN counts
            raise ValueError(
                "regad: training diverged, a spatial transformer scales by more than "
                f"{_WILD:g}; a smaller learning_rate is needed"
            )
        return warped(x, matrix), matrix


def rotation_scale(parameters: torch.Tensor) -> torch.Tensor:
    """Matrices (N, 2, 2) of (N, 3): a rotation by the first, its diagonal scaled by the others."""
    angle, across, down = parameters.unbind(1)
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([cos * across, -sin, sin, cos * down], 1).unflatten(1, (2, 2))


def warped(x: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """Map (N, C, h, w) read at ``matrix`` times each position, in -1..1, mirrored outside."""
    grid = F.affine_grid(F.pad(matrix, (0, 1)), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)


class Stem(nn.Module):
    """The first convolution with its normalisation, and what follows it (activation, pooling)."""

    def __init__(self, conv: nn.Module, norm: nn.Module, *after: nn.Module) -> None:
        super().__init__()
        self.conv, self.norm, self.after = conv, norm, nn.Sequential(*after)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps of pictures (N, 3, s, s)."""
        return self.after(self.norm(self.conv(x)))

    def sparing(self, x: torch.Tensor, prepare: _Prepare) -> torch.Tensor:
        """The same of ``prepare(x)`` in training, at less memory."""
        if not isinstance(self.conv, nn.Conv2d):  # deep stems have normalisation inside
            return recomputed(self, prepare(x))
        return in_blocks(_Prepared(prepare, self.conv), self.norm, self.after, x)


class _Prepared(nn.Module):
    """A convolution of prepared pictures."""

    def __init__(self, prepare: _Prepare, conv: nn.Module) -> None:
        super().__init__()
        self.prepare, self.conv = prepare, conv

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps: torch.Tensor = self.conv(self.prepare(x))
        return maps


class Registered(nn.Module):
    """Three stages of strides 4, 8 and 16, each followed by a transformer.

    Parameters
    ----------
    model, weights : str
        Of a ResNet or an EfficientNet of timm; all of it is trained.
    size : int
        Side of the pictures in pixels.
    normalise : bool
        Whether pictures, 0..1, are normalised as the weights were trained.

    Raises
    ------
    ValueError
        For another kind of network.
    """

    def __init__(self, model: str, weights: str, size: int, normalise: bool) -> None:
        super().__init__()
        network, (mean, std) = build(model, weights)
        self.register_buffer("mean", torch.tensor(mean if normalise else (0.0,) * 3)[:, None, None])
        self.register_buffer("std", torch.tensor(std if normalise else (1.0,) * 3)[:, None, None])
        self.stages = nn.ModuleList(_stages(network, model)).requires_grad_(True)
        self.straighten = nn.ModuleList()
        probe = torch.zeros(1, 3, size, size)
        for stage in self.stages:
            with torch.no_grad():
                probe = stage.eval()(probe)
            self.straighten.append(Straighten(probe.shape[1], probe.shape[2]))
        self.channels = probe.shape[1]

    def forward(self, x: torch.Tensor, sparing: bool = False) -> torch.Tensor:
        """Straightened features (N, C, h, w) of the last stage, of pictures (N, 3, s, s).

        Parameters
        ----------
        x : tensor of shape (N, 3, s, s)
            Pictures in 0..1, or uint8.
        sparing : bool
            Keep only what goes in and out of each block, and compute the rest anew on the way back:
            more time, half the memory. In training only.
        """
        if not sparing:
            x = self._prepared(x)
        for stage, straighten in zip(self.stages, self.straighten, strict=True):
            for block in _blocks(stage):
                if not sparing:
                    x = block(x)
                elif isinstance(block, Stem):  # the first of all
                    x = block.sparing(x, self._prepared)
                else:
                    x = block_recomputed(block, x)
            x, _ = straighten.sparing(x) if sparing else straighten(x)
        return x

    def levels(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Each stage's straightened features put back in place, (N, h, w, C), the finest first.

        A stage's map was turned by its own transformer and all before it: its own turn is undone
        first, each by an interpolation of its own.
        """
        x = self._prepared(x)
        levels, inverses = [], []
        for stage, straighten in zip(self.stages, self.straighten, strict=True):
            x, matrix = straighten(stage(x))
            inverses.append(torch.linalg.inv(matrix))
            back = x
            for inverse in reversed(inverses):
                back = warped(back, inverse)
            levels.append(back.permute(0, 2, 3, 1))
        return levels

    def _prepared(self, pictures: torch.Tensor) -> torch.Tensor:
        """Pictures in 0..1, or uint8, as the network takes them."""
        if pictures.dtype == torch.uint8:
            pictures = pictures.to(self.mean).div_(255)
        return (pictures - self.mean) / self.std

    def arrays(self) -> Arrays:
        """All weights and statistics."""
        return {name: tensor.cpu().numpy() for name, tensor in self.state_dict().items()}

    def take(self, state: Arrays) -> None:
        """Take back what ``arrays`` or ``read_checkpoint`` gave.

        Raises
        ------
        ValueError
            The state is of another encoder or size.
        """
        own = self.state_dict()
        tensors = {name: torch.from_numpy(np.array(a)) for name, a in state.items()}
        for name in sorted(own.keys() | tensors.keys()):
            shapes = [tuple(some[name].shape) if name in some else None for some in (own, tensors)]
            if shapes[0] != shapes[1] and name not in ("mean", "std"):
                raise ValueError(
                    f"regad: the trained state does not fit encoder and size: {name} is "
                    f"{shapes[1] or 'missing'}, expected {shapes[0] or 'nothing of that name'}"
                )
        self.load_state_dict({**own, **tensors})


def read_checkpoint(path: Path) -> Arrays:
    """What ``Registered.take`` takes of a file of the authors': ``{"STN", "ENC", "PRED"}``.

    Only ``STN``, the network itself, is used after training. The file is read without unpickling
    any code.

    Raises
    ------
    ValueError
        Naming the file, when it is not such a checkpoint.
    """
    contents = _weights.unpickled(path)
    network = contents.get("STN") if isinstance(contents, Mapping) else None
    if not isinstance(network, Mapping) or "stn1.fc.2.weight" not in network:
        raise ValueError(f"regad: {path} is not a RegAD checkpoint: it lacks STN: stn1.fc.2.weight")
    if (outputs := len(network["stn1.fc.2.weight"])) != 3:
        raise ValueError(
            f"regad: {path} has transformers of {outputs} parameters; the paper's rotate and "
            f"scale, by 3"
        )
    state = {}
    for name, tensor in network.items():
        start = name.split(".")[0] + "."
        if start not in _AUTHORS:
            raise ValueError(f"regad: {path} is not a RegAD checkpoint: it has STN: {name}")
        state[_AUTHORS[start] + name.removeprefix(start)] = tensor.numpy()
    return state


def _stages(network: nn.Module, model: str) -> Sequence[nn.Module]:
    """Its parts up to strides 4, 8 and 16; each is made of stems and sequences of blocks."""
    if hasattr(network, "layer3"):
        stem = Stem(network.conv1, network.bn1, network.act1, network.maxpool)
        first = nn.Sequential(stem, network.layer1)
        return first, nn.Sequential(network.layer2), nn.Sequential(network.layer3)
    if hasattr(network, "blocks") and hasattr(network, "conv_stem"):
        # The last block of each stride: "blocks.1" and so on.
        ends = [
            int(info["module"].split(".")[1]) + 1
            for info in network.feature_info
            if info["reduction"] in (4, 8, 16)
        ]
        if len(ends) == 3:
            a, b, c = ends
            first = nn.Sequential(Stem(network.conv_stem, network.bn1), *network.blocks[:a])
            return first, network.blocks[a:b], network.blocks[b:c]
    raise ValueError(f"regad: the encoder must be a ResNet or an EfficientNet, got {model}")


def _blocks(stage: nn.Module) -> Iterator[nn.Module]:
    """What a stage runs one after another: sequences, at any depth, are taken apart."""
    if isinstance(stage, nn.Sequential):
        for part in stage:
            yield from _blocks(part)
    else:
        yield stage


class Head(nn.Module):
    """The Siamese head: an encoder of every location, and a predictor on top of it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        point = partial(nn.Conv2d, kernel_size=1, bias=False)
        self.encode = nn.Sequential(
            point(channels, _HEAD),
            nn.BatchNorm2d(_HEAD),
            nn.ReLU(),
            point(_HEAD, _HEAD),
            nn.BatchNorm2d(_HEAD),
            nn.ReLU(),
            point(_HEAD, _HEAD),
        )
        self.predict = nn.Sequential(
            point(_HEAD, _HEAD), nn.BatchNorm2d(_HEAD), nn.ReLU(), point(_HEAD, _HEAD)
        )

    def forward(self, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        """Registration loss, -1 to 1, of two feature maps (N, C, h, w)."""
        one, other = self.encode(one), self.encode(other)
        return registration(self.predict(one), other, self.predict(other), one)


def registration(
    predicted: torch.Tensor, other: torch.Tensor, predicted_back: torch.Tensor, one: torch.Tensor
) -> torch.Tensor:
    """Mean negative cosine over locations, both ways; what is predicted passes no gradient."""
    forth = F.cosine_similarity(predicted, other.detach(), dim=1)
    back = F.cosine_similarity(predicted_back, one.detach(), dim=1)
    return -(forth.mean() + back.mean()) / 2


def augmented(pictures: torch.Tensor) -> torch.Tensor:
    """``VERSIONS`` of each picture: (N, 3, s, s) to (22 * N, 3, s, s), the pictures first.

    As they are; turned by +-11.25, 22.5, 33.75 and 45 degrees; shifted by 0.1 and 0.2 (of half a
    side) in the four diagonal directions; mirrored; grey; turned by 90, 180 and 270 degrees.
    """
    versions = [pictures]
    for degrees in (11.25, 22.5, 33.75, 45.0):
        for sign in (1, -1):
            parameters = torch.tensor([[sign * np.deg2rad(degrees), 1.0, 1.0]])
            matrix = rotation_scale(parameters).to(pictures)
            versions.append(warped(pictures, matrix.expand(len(pictures), 2, 2)))
    for distance in (0.1, 0.2):
        for across in (distance, -distance):
            for down in (distance, -distance):
                matrix = torch.tensor([[[1.0, 0.0, across], [0.0, 1.0, down]]]).to(pictures)
                grid = F.affine_grid(
                    matrix.expand(len(pictures), 2, 3), list(pictures.shape), align_corners=False
                )
                versions.append(
                    F.grid_sample(pictures, grid, padding_mode="reflection", align_corners=False)
                )
    versions.append(pictures.flip(3))
    weights = torch.tensor([0.299, 0.587, 0.114]).to(pictures)
    grey = (pictures * weights[:, None, None]).sum(1, keepdim=True)
    versions.append(grey.expand_as(pictures))
    versions += [pictures.rot90(quarter, (2, 3)) for quarter in (1, 2, 3)]
    return torch.cat(versions)

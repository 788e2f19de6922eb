"""RegAD's network: convolutional stages that straighten their features, and a Siamese head."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from harness.interface import Arrays
from methods._encoders.cnn import build

_HEAD = 256  # channels of the head's hidden layers
_WILD = 100.0  # a scale at which neighbouring cells read whole maps apart


class Straighten(nn.Module):
    """A spatial transformer that rotates and scales a feature map, by nothing to begin with.

    Parameters
    ----------
    channels : int
    side : int
        Height and width of the maps, at least 4.
    """

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        self.look = nn.Sequential(
            nn.Conv2d(channels, 64, 3, padding=1),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(64, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(16 * (side // 4) ** 2, 1024),
            nn.ReLU(),
        )
        self.decide = nn.Linear(1024, 3)  # angle in radians, scale across, scale down
        nn.init.zeros_(self.decide.weight)
        with torch.no_grad():
            self.decide.bias.copy_(torch.tensor([0.0, 1.0, 1.0]))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The straightened map (N, C, h, w) and its matrices (N, 2, 2), from output to input.

        Raises
        ------
        ValueError
            When training has driven the scales away: nothing would be left to register, and
            reading a mirrored map at positions that are not finite crashes the process.
        """
        matrix = rotation_scale(self.decide(self.look(x)))
        if not matrix.abs().amax() < _WILD:  # so that NaN counts
            raise ValueError(
                "regad: training diverged, a spatial transformer scales by more than "
                f"{_WILD:g}; a smaller learning_rate is needed"
            )
        return warped(x, matrix), matrix


def rotation_scale(parameters: torch.Tensor) -> torch.Tensor:
    """Matrices (N, 2, 2) of (N, 3): a rotation by the first, then a scaling by the others."""
    angle, scales = parameters[:, 0], parameters[:, 1:]
    cos, sin = angle.cos(), angle.sin()
    rotation = torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)
    return scales[:, :, None] * rotation


def warped(x: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """Map (N, C, h, w) read at ``matrix`` times each position, in -1..1, mirrored outside."""
    grid = F.affine_grid(F.pad(matrix, (0, 1)), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)


class Registered(nn.Module):
    """Three stages of strides 4, 8 and 16, each followed by a transformer.

    Parameters
    ----------
    model, weights : str
        Of a ResNet or an EfficientNet of timm; all of it is trained.
    size : int
        Side of the pictures in pixels, at least 64.
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

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Straightened features (N, C, h, w) of the last stage, of pictures (N, 3, s, s)."""
        x = (x - self.mean) / self.std
        for stage, straighten in zip(self.stages, self.straighten, strict=True):
            x, _ = straighten(stage(x))
        return x

    def levels(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Each stage's straightened features put back in place, (N, h, w, C), the finest first.

        A stage's map was turned by its own transformer and all before it: with output to input
        matrices A, B, ..., position p of the picture is found at ... B^-1 A^-1 p.
        """
        x = (x - self.mean) / self.std
        levels = []
        back = torch.eye(2).to(x).expand(len(x), 2, 2)
        for stage, straighten in zip(self.stages, self.straighten, strict=True):
            x, matrix = straighten(stage(x))
            back = torch.linalg.solve(matrix, back)
            levels.append(warped(x, back).permute(0, 2, 3, 1))
        return levels

    def arrays(self) -> Arrays:
        """All weights and statistics."""
        return {name: tensor.cpu().numpy() for name, tensor in self.state_dict().items()}

    def take(self, state: Arrays) -> None:
        """Take back what ``arrays`` gave."""
        self.load_state_dict({name: torch.from_numpy(np.array(a)) for name, a in state.items()})


def _stages(network: nn.Module, model: str) -> Sequence[nn.Module]:
    """Its parts up to strides 4, 8 and 16."""
    if hasattr(network, "layer3"):
        stem = (network.conv1, network.bn1, network.act1, network.maxpool)
        return nn.Sequential(*stem, network.layer1), network.layer2, network.layer3
    if hasattr(network, "blocks") and hasattr(network, "conv_stem"):
        # The last block of each stride: "blocks.1" and so on.
        ends = [
            int(info["module"].split(".")[1]) + 1
            for info in network.feature_info
            if info["reduction"] in (4, 8, 16)
        ]
        if len(ends) == 3:
            a, b, c = ends
            first = nn.Sequential(network.conv_stem, network.bn1, *network.blocks[:a])
            return first, network.blocks[a:b], network.blocks[b:c]
    raise ValueError(f"regad: the encoder must be a ResNet or an EfficientNet, got {model}")


class Head(nn.Module):
    """The Siamese head: an encoder of every location, and a predictor on top of it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.encode = nn.Sequential(
            nn.Conv2d(channels, _HEAD, 1, bias=False),
            nn.BatchNorm2d(_HEAD),
            nn.ReLU(),
            nn.Conv2d(_HEAD, _HEAD, 1, bias=False),
            nn.BatchNorm2d(_HEAD),
            nn.ReLU(),
            nn.Conv2d(_HEAD, _HEAD, 1),
        )
        self.predict = nn.Sequential(
            nn.Conv2d(_HEAD, _HEAD, 1, bias=False),
            nn.BatchNorm2d(_HEAD),
            nn.ReLU(),
            nn.Conv2d(_HEAD, _HEAD, 1),
        )

    def forward(self, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        """Registration loss, -1 to 1, of two feature maps (N, C, h, w)."""
        one, other = self.encode(one), self.encode(other)
        return registration(self.predict(one), other, self.predict(other), one)


def registration(
    predicted: torch.Tensor, other: torch.Tensor, predicted_back: torch.Tensor, one: torch.Tensor
) -> torch.Tensor:
    """Mean negative cosine over locations, both ways; what is predicted passes no gradient."""
    there = F.cosine_similarity(predicted, other.detach(), dim=1)
    back = F.cosine_similarity(predicted_back, one.detach(), dim=1)
    return -(there.mean() + back.mean()) / 2


def augmented(pictures: torch.Tensor) -> torch.Tensor:
    """22 versions of each picture: (N, 3, s, s) to (22 * N, 3, s, s), the pictures first.

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

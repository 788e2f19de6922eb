"""RegAD's network is the public one: the same numbers from a checkpoint of the authors' layout."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from harness.execution.memory.cache import FeatureMemory
from harness.interface import Auxiliary, Image, Queries, Support
from methods._learned import sparing
from methods._learned.regad import Head, Registered, read_checkpoint
from methods._learned.sparing import in_blocks
from methods.regad import Regad

SIDE = 64  # of pictures; the authors' is 224


def conv(inside: int, outside: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inside, outside, kernel, stride, kernel // 2, bias=False)


class Block(nn.Module):
    """Two convolutions beside a shortcut, under the names of torchvision's ResNet18."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(inside, outside, 3, stride), nn.BatchNorm2d(outside)
        self.conv2, self.bn2 = conv(outside, outside, 3), nn.BatchNorm2d(outside)
        if stride > 1:
            short = conv(inside, outside, 1, stride)
            self.downsample = nn.Sequential(short, nn.BatchNorm2d(outside))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + (self.downsample(x) if hasattr(self, "downsample") else x))


class Transformer(nn.Module):
    """PROTOCOL C.3 with the pooling and sizes of the released code."""

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        pool = [nn.MaxPool2d(3, 2, 1) for _ in range(2)]
        first = [conv(channels, 64, 3), nn.BatchNorm2d(64), nn.ReLU(), pool[0]]
        second = [conv(64, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), pool[1]]
        self.conv = nn.Sequential(*first, *second)
        inside = 16 * math.ceil(math.ceil(side / 2) / 2) ** 2
        self.fc = nn.Sequential(nn.Linear(inside, 1024), nn.ReLU(), nn.Linear(1024, 3))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        theta = torch.zeros(len(x), 2, 3)
        for row, (angle, across, down) in zip(theta, self.fc(self.conv(x).flatten(1)), strict=True):
            row[0, 0], row[0, 1] = torch.cos(angle) * across, -torch.sin(angle)
            row[1, 0], row[1, 1] = torch.sin(angle), torch.cos(angle) * down
        return read_at(x, theta), theta


def read_at(x: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        for n, (inside, outside) in enumerate(((64, 64), (64, 128), (128, 256)), 1):
            blocks = Block(inside, outside, 2 if n > 1 else 1), Block(outside, outside, 1)
            setattr(self, f"layer{n}", nn.Sequential(*blocks))
            setattr(self, f"stn{n}", Transformer(outside, SIDE // 2 ** (n + 1)))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        stages, inverses = [], []
        last = torch.tensor([0.0, 0.0, 1.0])
        for n in (1, 2, 3):
            x, theta = getattr(self, f"stn{n}")(getattr(self, f"layer{n}")(x))
            whole = torch.cat([theta, last.expand(len(x), 1, 3)], 1)
            inverses.append(torch.tensor(np.linalg.inv(whole.detach().numpy())[:, :2]))
            back = x
            for inverse in inverses[::-1]:
                back = read_at(back, inverse)
            stages.append(back)
        return x, stages


@pytest.fixture(scope="module")
def public() -> Network:
    """Random weights, transformers that turn and squeeze, statistics that are not 0 and 1."""
    torch.manual_seed(0)
    network = Network()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    for n in (1, 2, 3):
        final = getattr(network, f"stn{n}").fc[2]
        nn.init.normal_(final.weight, std=0.05)
        final.bias.data = torch.tensor([0.1 * n, 0.9, 1.1])
    return network.eval()


@pytest.fixture(scope="module")
def checkpoint(public: Network, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("regad") / "bottle_2_rotation_scale_model.pt"
    torch.save({"STN": public.state_dict(), "ENC": {}, "PRED": {}}, path)
    return path


def pictures(n: int) -> torch.Tensor:
    coarse = torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    return F.interpolate(coarse, (SIDE, SIDE), mode="bicubic").clamp(0, 1)


def test_features_equal_the_public_networks(public: Network, checkpoint: Path) -> None:
    ours = Registered("resnet18", "random:7", SIDE, normalise=False)
    ours.take(read_checkpoint(checkpoint))
    ours.eval()
    with torch.no_grad():
        final, stages = public(pictures(3))
        torch.testing.assert_close(ours(pictures(3)), final, rtol=1e-4, atol=1e-5)
        for level, stage in zip(ours.levels(pictures(3)), stages, strict=True):
            torch.testing.assert_close(level.permute(0, 3, 1, 2), stage, rtol=1e-4, atol=1e-5)


def test_a_head_has_the_public_ones_tensors() -> None:
    shapes = [tuple(p.shape) for p in Head(256).parameters()]
    point, norm = (256, 256, 1, 1), (256,)
    assert shapes == [point, norm, norm, point, norm, norm, point, point, norm, norm, point]


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ({"model": 1}, "it lacks STN"),
        ({"STN": {"stn1.fc.2.weight": torch.zeros(6, 1024)}}, "transformers of 6 parameters"),
        ({"STN": {"stn1.fc.2.weight": torch.zeros(3, 9), "layer4.x": torch.zeros(1)}}, "layer4.x"),
    ],
)
def test_other_files_are_named(tmp_path: Path, contents: object, message: str) -> None:
    path = tmp_path / "other.pt"
    torch.save(contents, path)
    with pytest.raises(ValueError, match=message) as caught:
        read_checkpoint(path)
    assert str(path) in str(caught.value)


def test_a_checkpoint_of_another_size_is_refused(checkpoint: Path) -> None:
    network = Registered("resnet18", "random:7", 96, normalise=False)
    with pytest.raises(ValueError, match=r"does not fit encoder and size: straighten.0.fc.0"):
        network.take(read_checkpoint(checkpoint))


def test_a_method_reads_the_checkpoint_of_its_support_and_category(checkpoint: Path) -> None:
    images = tuple(
        Image(str(i), (one.permute(1, 2, 0) * 255).byte().numpy())
        for i, one in enumerate(pictures(4))
    )
    scores = []
    for name, more in (
        ("bottle_{shots}_rotation_scale_model.pt", {"trained_on": "visa"}),
        ("{category}_{shots}_rotation_scale_model.pt", {}),
    ):
        method = Regad(size=SIDE, sigma=1.0, checkpoint=str(checkpoint.parent / name), **more)
        method.setup("cpu", FeatureMemory(1 << 26))
        assert method.files() == [checkpoint]
        if method.auxiliary:
            with pytest.raises(ValueError, match="leave-one-out"):
                method.train(Auxiliary((), 2, 0, "mvtec"))
            method.load(method.train(Auxiliary((), 2, 0, "mvtec", "bottle")))
        method.fit(Support(images[:2]))
        scores.append(method.predict(Queries(images[2:])).scores)
    assert np.ptp(scores[0]) > 0
    np.testing.assert_array_equal(*scores)


# ------------------------------------------------------------------------- sparing memory


def test_blocks_have_the_statistics_and_gradients_of_the_whole() -> None:
    torch.manual_seed(3)
    layer, x = conv(3, 5, 3).double(), torch.randn(21, 3, 9, 9, dtype=torch.float64) + 2
    results = []
    for blocks in (False, True):
        norm = nn.BatchNorm2d(5).double()
        norm.weight.data = torch.linspace(-1, 1, 5, dtype=torch.float64)
        layer.zero_grad()
        out = in_blocks(layer, norm, nn.ReLU(), x) if blocks else F.relu(norm(layer(x)))
        (out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum().backward()
        gradients = [p.grad.clone() for p in (layer.weight, norm.weight, norm.bias)]
        results.append([out.detach(), norm.running_mean, norm.running_var, *gradients])
        assert norm.num_batches_tracked == 1
    for whole, blocked in zip(*results, strict=True):
        torch.testing.assert_close(blocked, whole, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("model", "large"),
    [("resnet18", 0), ("resnet18", 1 << 40), ("test_resnet", 0)],  # the last has a deep stem
)
def test_sparing_memory_changes_only_rounding(
    model: str, large: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sparing, "_LARGE", large)  # blocks go by pictures from this size on
    results = []
    for careful in (False, True):
        torch.manual_seed(5)
        network = Registered(model, "random:7", SIDE, normalise=False).train().double()
        for straighten in network.straighten:
            nn.init.normal_(straighten.fc[2].weight, std=0.01)
        saved: list[int] = []

        def pack(t: torch.Tensor, saved: list[int] = saved) -> torch.Tensor:
            saved.append(t.numel())
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            whole = pictures(9).mul(255).byte()
            out = network(whole if careful else whole.double().div(255), careful)
        out.square().mean().backward()
        buffers = {n: b.clone() for n, b in network.named_buffers()}
        gradients = {n: p.grad for n, p in network.named_parameters() if p.grad is not None}
        results.append((out.detach(), buffers, gradients, sum(saved)))
    (out, buffers, gradients, much), (other, again, same, little) = results
    for ours, plain in ((other, out), (again, buffers), (same, gradients)):
        torch.testing.assert_close(ours, plain, rtol=1e-6, atol=1e-9)
    assert little < (0.4 if model == "resnet18" else 0.7) * much

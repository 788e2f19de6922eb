"""What RegAD's released code makes of given images; run in an environment that has kornia.

    PYTHON benchmarks/conformance_regad.py CHECKOUT FOLDER

``CHECKOUT`` is one of github.com/MediaBrain-SJTU/RegAD. Its network gets random weights, which are
left in ``regad.pt`` in the layout of its own checkpoints; results are left in ``regad.npz``. The
code asks for a GPU by name: here what it would put there stays where it is. Nothing of this project
is imported.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch


def on_the_host() -> None:
    """Let ``.cuda()`` and ``.get_device()`` mean the host, where there is no GPU."""
    torch.Tensor.cuda = lambda self, *_, **__: self
    torch.Tensor.get_device = lambda self: self.device


def random_network(stn_net: Any) -> Any:
    """The network with statistics that are not 0 and 1, and transformers that turn and squeeze."""
    network = stn_net(Namespace(stn_mode="rotation_scale"), pretrained=False)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    for number, straighten in enumerate((network.stn1, network.stn2, network.stn3), 1):
        straighten.fc[2].weight.data.normal_(0, 0.02)
        straighten.fc[2].bias.data.copy_(torch.tensor([0.1 * number, 0.9, 1.1]))
    return network.eval()


def pictures(pixels: np.ndarray) -> torch.Tensor:
    """uint8 (N, H, W, 3) -> float32 (N, 3, H, W) in 0..1."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float().contiguous() / 255


def main() -> None:
    """Run the network alone, then the whole of its test on a support of 2."""
    checkout, folder = map(Path, sys.argv[1:])
    sys.path.insert(0, str(checkout))
    on_the_host()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    released: Any = import_module("test")  # the checkout's test.py
    siamese, stn = import_module("models.siamese"), import_module("models.stn")
    concatenate = released.embedding_concat
    released.embedding_concat = lambda x, y, _: concatenate(x, y, False)
    with np.load(folder / "inputs.npz") as inputs:
        normal, queries = (pictures(inputs[name]) for name in ("regad_normal", "regad_queries"))
    with torch.no_grad():
        network = random_network(stn.stn_net)
        models = [network, siamese.Encoder(), siamese.Predictor()]
        states = dict(zip(("STN", "ENC", "PRED"), (m.state_dict() for m in models), strict=True))
        torch.save(states, folder / "regad.pt")
        results = {"regad/last stage": network(queries)}
        for number in (1, 2, 3):
            stage = getattr(network, f"stn{number}_output")
            results[f"regad/stage {number} put back"] = stage
        loader = [(one[None], None, torch.zeros(1), torch.zeros(1)) for one in queries]
        maps = released.test(Namespace(), models, 0, [normal], loader)[0]
    arrays: dict[str, Any] = {name: np.asarray(tensor) for name, tensor in results.items()}
    arrays["regad/maps"], arrays["regad/scores"] = maps, maps.reshape(len(maps), -1).max(1)
    named = ", ".join(f"{package} {version(package)}" for package in ("torch", "kornia"))
    np.savez(folder / "regad.npz", versions=np.array(named), **arrays)


if __name__ == "__main__":
    main()

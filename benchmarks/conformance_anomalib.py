"""What anomalib makes of given images with given weights; run in an environment that has anomalib.

    PYTHON benchmarks/conformance_anomalib.py FOLDER

``FOLDER`` holds what `benchmarks.conformance` wrote there. Results are left in ``anomalib.npz``:
arrays named ``method/part``, and text under ``versions`` and ``refused/method``. Nothing of this
project is imported.

Aligned, so that rounding and borders do not hide what is compared: anomalib computes in float64;
PatchCore's distances are taken before they are enlarged and blurred; WinCLIP's patches are taken
before the last layer normalisation (anomalib takes them after it).
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
EDGE = 20  # pixels of a blurred map that its border reaches into


class AsIs(torch.nn.Module):
    """Stands where anomalib enlarges and blurs: hands distances on as they are."""

    def forward(self, distances: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        """Distances, (N, 1, h, w)."""
        return distances


def tensors(images: np.ndarray, scale: tuple[tuple[float, ...], tuple[float, ...]]) -> torch.Tensor:
    """uint8 (N, H, W, 3) -> normalised float64 (N, 3, H, W)."""
    mean, std = (torch.tensor(values)[:, None, None] for values in scale)
    return ((torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255 - mean) / std).double()


def load_cnn(model: Any, weights: dict[str, torch.Tensor]) -> None:
    """Give anomalib's feature extractor these weights, all that it has."""
    network = model.feature_extractor.feature_extractor
    lacking = network.load_state_dict(weights, strict=False).missing_keys
    if lacking:
        raise ValueError(f"anomalib's network has tensors that the weights lack: {lacking[:3]}")


def padim(inputs: Any, weights: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Distances of every location, and the map made of them, for PaDiM on all levels."""
    from anomalib.models.image.padim.torch_model import PadimModel

    model = PadimModel("resnet18", ["layer1", "layer2", "layer3"], pre_trained=False)
    load_cnn(model, weights)
    model.idx = torch.from_numpy(inputs["channels"])
    model.train()
    model.feature_extractor.eval()
    model(tensors(inputs["normal"], IMAGENET))
    model.fit()
    grids: list[torch.Tensor] = []
    enlarge = model.anomaly_map_generator.up_sample

    def kept(distances: torch.Tensor, image_size: Any) -> Any:
        grids.append(distances)
        return enlarge(distances, image_size)

    model.anomaly_map_generator.up_sample = kept
    maps = model.eval()(tensors(inputs["queries"], IMAGENET)).anomaly_map
    inside = maps[..., EDGE:-EDGE, EDGE:-EDGE]
    return {"padim/distances": grids[0], f"padim/maps, {EDGE} px inside": inside}


def patchcore(inputs: Any, weights: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Scores and distances of PatchCore with its whole bank and 9 neighbours."""
    from anomalib.models.image.patchcore.torch_model import PatchcoreModel

    model = PatchcoreModel(["layer2", "layer3"], "resnet18", pre_trained=False, num_neighbors=9)
    load_cnn(model, weights)
    model.anomaly_map_generator = AsIs()
    model.train()
    model.feature_extractor.eval()
    model.memory_bank = model(tensors(inputs["normal"], IMAGENET))
    results = model.eval()(tensors(inputs["queries"], IMAGENET))
    return {"patchcore/scores": results.pred_score, "patchcore/distances": results.anomaly_map}


def patches_of_the_last_block(model: Any) -> None:
    """Have WinCLIP compare patches as the last block leaves them."""
    seen: list[torch.Tensor] = []
    encode = model.encode_image
    model.clip.visual.ln_post.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))

    def encode_image(batch: torch.Tensor) -> tuple[Any, Any, torch.Tensor]:
        seen.clear()
        image, windows, _ = encode(batch)
        return image, windows, seen[0][:, 1:]  # the first call is the whole image's

    model.encode_image = encode_image


def winclip(inputs: Any, weights: dict[str, torch.Tensor], folder: Path) -> dict[str, Any]:
    """Scores and maps of WinCLIP without references and with 1, 2 and 4."""
    import open_clip
    from anomalib.models.image.winclip import torch_model

    open_clip.add_model_config(folder / "clip.json")
    torch_model.BACKBONE, torch_model.PRETRAINED = "clip", None
    model = torch_model.WinClipModel().eval()
    if getattr(model.clip.visual.transformer, "batch_first", False):
        reason = (
            f"open_clip_torch {version('open_clip_torch')} takes batches first, and anomalib "
            f"{version('anomalib')} hands it windows last: their attention runs across windows. "
            "Install open_clip_torch<2.25 there"
        )
        return {f"refused/winclip {k}": np.array(reason) for k in (0, 1, 2, 4)}
    model.clip.load_state_dict(weights)
    patches_of_the_last_block(model)
    queries = tensors(inputs["clip_queries"], CLIP)
    results: dict[str, Any] = {}
    for k in (0, 1, 2, 4):
        references = tensors(inputs["clip_normal"][:k], CLIP) if k else None
        model.setup("metal nut", references)
        prediction = model(queries)
        results[f"winclip {k}/scores"] = prediction.pred_score
        results[f"winclip {k}/maps"] = prediction.anomaly_map
    return results


def main() -> None:
    """Run all three."""
    folder = Path(sys.argv[1])
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(json.loads((folder / "settings.json").read_text())["threads"])
    with np.load(folder / "inputs.npz") as inputs, torch.no_grad():
        cnn = load_file(folder / "cnn.safetensors")
        results = padim(inputs, cnn) | patchcore(inputs, cnn)
        results |= winclip(inputs, load_file(folder / "clip.safetensors"), folder)
    arrays = {
        name: value.numpy() if isinstance(value, torch.Tensor) else value
        for name, value in results.items()
    }
    named = ", ".join(f"{p} {version(p)}" for p in ("anomalib", "torch", "timm", "open_clip_torch"))
    np.savez(folder / "anomalib.npz", versions=np.array(named), **arrays)


if __name__ == "__main__":
    main()

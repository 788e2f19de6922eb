"""Write checkpoints as what ships: half-precision safetensors in public formats."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from methods.micro import models
from methods.micro.clip_model import CHANNELS, HIDDEN, LEVELS, TRUNK, MicroClip

LIMIT = 30e6  # bytes of all weights together


def export(out: Path, target: Path) -> int:
    """Write ``target/diffusion`` and ``target/clip`` from the checkpoints in ``out``.

    Returns
    -------
    int
        Bytes of all safetensors together.

    Raises
    ------
    FileNotFoundError
        A stage has no checkpoint yet.
    ValueError
        The files would be larger than 30 MB.
    """
    for name, stage in (
        ("clip.pt", "clip"),
        ("autoencoder.pt", "autoencoder"),
        ("unet.pt", "unet"),
    ):
        if not (out / name).is_file():
            raise FileNotFoundError(f"no {out / name}: run the stage {stage} first")
    clip = MicroClip(models.text_encoder())
    clip.load_state_dict(torch.load(out / "clip.pt", weights_only=True)["model"])
    vae = models.autoencoder()
    vae.load_state_dict(torch.load(out / "autoencoder.pt", weights_only=True)["average"]["model"])
    unet = models.unet()
    unet.load_state_dict(torch.load(out / "unet.pt", weights_only=True)["average"]["model"])
    models.save_diffusion(target / "diffusion", vae, clip.text, unet)
    save_clip(target / "clip", clip)
    files = [*target.glob("diffusion/*/*.safetensors"), *target.glob("clip/*.safetensors")]
    total = sum(path.stat().st_size for path in files)
    if total > LIMIT:
        raise ValueError(f"the micro models take {total / 1e6:.1f} MB, at most 30 were expected")
    for path in sorted(files):
        print(f"{path.relative_to(target)}  {path.stat().st_size / 1e6:.2f} MB")
    return total


def save_clip(folder: Path, clip: MicroClip) -> None:
    """Everything of micro CLIP but the text encoder, which the diffusion's folder holds."""
    folder.mkdir(parents=True, exist_ok=True)
    own = {
        name: tensor.half().contiguous()
        for name, tensor in clip.state_dict().items()
        if not name.startswith("text.text_model.")
    }
    save_file(own, folder / "model.safetensors", metadata={"format": "pt"})
    config = {
        "trunk": TRUNK,
        "trunk_weights": "imagenet",
        "levels": list(LEVELS),
        "channels": list(CHANNELS),
        "hidden": HIDDEN,
        "projection_dim": models.JOINT,
        "image_size": 256,
        "text_encoder": "../diffusion/text_encoder",
        "tokenizer": "../diffusion/tokenizer",
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")

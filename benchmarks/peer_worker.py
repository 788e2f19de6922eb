"""Cells through anomalib, asked for line by line: runs in anomalib's own environment.

Imports nothing of the harness. A line of standard input is a cell in JSON: method, support and
query pictures, weights, parameters. The answer is a line of standard output, after ``CELL ``, with
seconds and raw image scores.

Its kindest settings: no metrics, no visualiser, no logger, no progress bars, no
normalisation of scores, no validation, loading in the process itself, batches of 32, all cores.
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
import time
from typing import Any

import lightning
import numpy as np
import torch
from anomalib.data import ImageBatch, ImageItem
from anomalib.engine import Engine
from anomalib.models import Padim, Patchcore
from anomalib.pre_processing import PreProcessor
from PIL import Image as Picture
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import Normalize

QUIET = {
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
    "limit_val_batches": 0,
    "accelerator": "cpu",
    "devices": 1,
}


class Pictures(Dataset):
    """Pictures from disk, stretched to a square."""

    def __init__(self, paths: list[str], side: int) -> None:
        self.paths, self.side = paths, side

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> ImageItem:
        picture = Picture.open(self.paths[index]).convert("RGB")
        picture = picture.resize((self.side, self.side), Picture.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1).float() / 255
        return ImageItem(image=pixels, image_path=self.paths[index], gt_label=torch.tensor(0))


def loader(paths: list[str], side: int) -> DataLoader:
    """Batches of 32."""
    return DataLoader(Pictures(paths, side), batch_size=32, collate_fn=ImageBatch.collate)


def model(cell: dict[str, Any]) -> lightning.LightningModule:
    """An untrained model with the given backbone weights and channels."""
    scale = Normalize(mean=[127 / 255] * 3, std=[128 / 255] * 3)
    common = {
        "backbone": cell["backbone"],
        "layers": cell["layers"],
        "pre_trained": False,
        "pre_processor": PreProcessor(transform=scale),
        "post_processor": False,
        "evaluator": False,
        "visualizer": False,
    }
    if cell["method"] == "padim":
        detector = Padim(n_features=len(cell["channels"]), **common)
        detector.model.idx = torch.tensor(cell["channels"])
    else:
        detector = Patchcore(
            coreset_sampling_ratio=cell["coreset"], num_neighbors=cell["neighbours"], **common
        )
    network = detector.model.feature_extractor.feature_extractor
    saved = torch.load(cell["weights"], weights_only=True)
    network.load_state_dict({name: saved[name] for name in network.state_dict()})
    return detector


def scored(cell: dict[str, Any]) -> list[float]:
    """Raw image scores of the queries."""
    detector = model(cell)
    with tempfile.TemporaryDirectory() as folder:
        engine = Engine(default_root_dir=folder, **QUIET)
        engine.fit(detector, train_dataloaders=loader(cell["support"], cell["side"]))
        batches = engine.predict(detector, dataloaders=loader(cell["queries"], cell["side"]))
    scores = torch.cat([batch.pred_score.flatten() for batch in batches])
    return [float(score) for score in scores.double()]


def windows(cell: dict[str, Any]) -> dict[str, Any]:
    """Processor seconds of encoding a picture with WinCLIP's windows, and the windows' means."""
    from anomalib.models.image.winclip import torch_model

    torch_model.PRETRAINED = None  # the weights come from a file
    winclip = torch_model.WinClipModel().eval()
    winclip.clip.load_state_dict(torch.load(cell["weights"], weights_only=True))
    pixels = torch.from_numpy(np.load(cell["pixels"]))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    seconds = []
    with torch.no_grad():
        for _ in range(cell["repeats"]):
            began = time.process_time()
            embeddings = winclip.encode_image(pixels)[1]
            seconds.append(time.process_time() - began)
    torch.set_num_threads(before)
    np.savez(cell["into"], *(one[0].numpy() for one in embeddings))
    return {"seconds": seconds}


def main() -> None:
    """Answer one line after another."""
    logging.disable(logging.WARNING)
    torch.set_num_threads(int(sys.argv[1]))
    lightning.seed_everything(0, verbose=False)
    print("READY " + json.dumps({"threads": torch.get_num_threads()}), flush=True)
    for line in sys.stdin:
        cell = json.loads(line)
        if cell["method"] == "winclip":
            print("CELL " + json.dumps(windows(cell)), flush=True)
            continue
        began, cpu = time.perf_counter(), time.process_time()
        scores = scored(cell)
        answer = {
            "seconds": time.perf_counter() - began,
            "cpu": time.process_time() - cpu,
            "scores": scores,
        }
        print("CELL " + json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()

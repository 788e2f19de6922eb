"""What the embedded micro models can do: figures on families they never saw, and contact sheets.

    python -m benchmarks.micro                      # figures on the procedural surfaces
    python -m benchmarks.micro --mvtec ROOT --elpv  # and on real pictures, never trained on
    python -m benchmarks.micro --sheets docs        # contact sheets as PNG

PSNR is of the autoencoder at 128 px, per picture, then averaged. AUROC is zero-shot: cosine to the
mean of WinCLIP's damaged sentences against that of its normal ones (nothing of the category but its
name). ``local`` adds the most damaged patch.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import diffusers
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image as Picture
from sklearn.metrics import roc_auc_score

from datasets.elpv import ELPV
from datasets.mvtec import MVTec
from datasets.surfaces import Surfaces
from harness.interface import Dataset
from methods._encoders import cnn
from methods._ops.prompts import compose
from methods.micro import models
from methods.micro.clip_model import LEVELS, TRUNK, MicroClip

HOME = Path(__file__).parents[1] / "methods" / "micro"
PLACES = {2: 2, 3: 3, 4: 4}  # level to position among timm's feature maps


class ZeroShot:
    """Scores of pictures from the name of what they show."""

    def __init__(self, home: Path = HOME) -> None:
        self.clip = MicroClip.load(home / "clip", home / "diffusion")
        self.words = models.tokenizer(home / "diffusion" / "tokenizer")
        network, _ = cnn.build(TRUNK, "imagenet")
        self.trunk = network.to(memory_format=torch.channels_last)

    def direction(self, name: str) -> torch.Tensor:
        """Mean damaged sentence less mean normal one."""
        means = []
        for sentences in compose(name):
            texts = self.clip.text_features(models.ids(self.words, sentences))
            means.append(F.normalize(F.normalize(texts, dim=-1).mean(0), dim=0))
        return means[1] - means[0]

    def levels(self, pixels: NDArray[np.uint8], side: int = 256) -> list[torch.Tensor]:
        """The trunk's maps of one picture."""
        x = torch.from_numpy(cnn.stretch(pixels, side, side).copy()).permute(2, 0, 1)[None].float()
        maps = self.trunk.forward_intermediates((x - 127) / 128, intermediates_only=True)
        return [maps[PLACES[level]].permute(0, 2, 3, 1) for level in LEVELS]

    def scores(self, pixels: NDArray[np.uint8], direction: torch.Tensor) -> tuple[float, float]:
        """Of the whole picture, and of its most damaged patch."""
        with torch.inference_mode():
            units = self.clip.units(self.clip.gather(self.levels(pixels)))
            image = F.normalize(self.clip.image_of_units(units), dim=-1)
            patches = F.normalize(self.clip.to_patch(units), dim=-1)
            return float(image[0] @ direction), float((patches[0] @ direction).max())


def pictures(data: Dataset, category: str, most: int) -> Iterator[tuple[NDArray[np.uint8], int]]:
    """Up to ``most`` queries, evenly spaced over the test split, with labels."""
    samples = data.test(category)
    for i in np.unique(np.linspace(0, len(samples) - 1, min(most, len(samples))).astype(int)):
        contents = data.open(samples[i].image)
        if isinstance(contents, bytes):
            contents = np.asarray(Picture.open(io.BytesIO(contents)).convert("RGB"))
        yield contents, samples[i].label


def psnr(vae: diffusers.AutoencoderKL, pixels: NDArray[np.uint8]) -> float:
    """Decibels between a picture at 128 px and its reconstruction (mode of the posterior)."""
    small = cnn.stretch(pixels, models.SIZE, models.SIZE)
    back = reconstruct(vae, small)
    return float(10 * np.log10(255**2 / np.square(small.astype(np.float64) - back).mean()))


def reconstruct(vae: diffusers.AutoencoderKL, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Through the latent and back."""
    x = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.inference_mode():
        y = vae.decode(vae.encode(x).latent_dist.mode()).sample
    scaled = (y[0].permute(1, 2, 0).clamp(-1, 1) + 1) * 127.5
    picture: NDArray[np.uint8] = scaled.round().byte().numpy()
    return picture


def zero_shot(data: Dataset, category: str, most: int, judge: ZeroShot) -> tuple[float, float, int]:
    """AUROC of the image's score, AUROC of image + worst patch, number of pictures."""
    direction = judge.direction(data.object_name(category))
    scored = [(*judge.scores(p, direction), label) for p, label in pictures(data, category, most)]
    image, patch, labels = np.array(scored).T
    return (
        float(roc_auc_score(labels, image)),
        float(roc_auc_score(labels, image + patch)),
        len(scored),
    )


def table(sets: Sequence[tuple[str, Dataset]], most: int, home: Path) -> None:
    """Print the figures of every category, and the means of each set."""
    vae = diffusers.AutoencoderKL.from_pretrained(home / "diffusion" / "vae").eval()
    judge = ZeroShot(home)
    for title, data in sets:
        rows = []
        for category in data.categories():
            quality = [psnr(vae, pixels) for pixels, _ in pictures(data, category, most)]
            rows.append((float(np.mean(quality)), *zero_shot(data, category, most, judge)))
            print("{:<10} {:<12} PSNR {:5.2f} dB  AUROC {:.3f}  local {:.3f}  n {}".format(
                title, category, *rows[-1]), flush=True)  # fmt: skip
        means = np.mean(rows, axis=0)
        print(f"{title:<10} {'mean':<12} PSNR {means[0]:5.2f} dB  AUROC {means[1]:.3f}  "
              f"local {means[2]:.3f}", flush=True)  # fmt: skip


def rows_of(pictures: Sequence[NDArray[np.uint8]], columns: int) -> NDArray[np.uint8]:
    """Pictures of one size side by side."""
    blank = np.full_like(pictures[0], 255)
    filled = list(pictures) + [blank] * (-len(pictures) % columns)
    rows = [np.concatenate(filled[i : i + columns], 1) for i in range(0, len(filled), columns)]
    return np.concatenate(rows)


def sheets(folder: Path, home: Path, steps: int, guidance: float) -> None:
    """Write ``micro_samples.png`` and ``micro_reconstructions.png``."""
    import matplotlib.pyplot as plt

    from datasets._rendering.render import TRAINING

    pipe = diffusers.StableDiffusionPipeline.from_pretrained(home / "diffusion")
    pipe.set_progress_bar_config(disable=True)
    names = [words for _, words in TRAINING.values()]
    figure, axes = plt.subplots(len(names) // 4, 4, figsize=(13, 0.98 * len(names) / 4))
    for k, (axis, name) in enumerate(zip(axes.flat, names, strict=True)):
        sentences = [f"a photo of normal {name}"] * 2 + [f"a photo of damaged {name}"] * 2
        noise = [torch.Generator().manual_seed(100 * k + i) for i in range(len(sentences))]
        images = pipe(
            sentences,
            height=models.SIZE,
            width=models.SIZE,
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=noise,
        ).images
        axis.imshow(rows_of([np.asarray(image) for image in images], 4))
        axis.set_title(name, fontsize=8, pad=2)
        axis.axis("off")
    figure.tight_layout(pad=0.3)
    figure.savefig(folder / "micro_samples.png", dpi=90)
    data = Surfaces(n_test=24)
    rows: list[NDArray[np.uint8]] = []
    for category in data.categories():
        for sample in (data.train(category)[0], data.test(category)[-1]):
            pixels = data.open(sample.image)
            back = reconstruct(pipe.vae, pixels)
            error = np.abs(back.astype(int) - pixels).max(2, keepdims=True).repeat(3, 2)
            rows += [pixels, back, np.clip(error * 4, 0, 255).astype(np.uint8)]
    Picture.fromarray(rows_of(rows, 12)).save(folder / "micro_reconstructions.png")


def main() -> None:
    """Print figures, write contact sheets."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--home", type=Path, default=HOME, help="folder of the micro models")
    parser.add_argument("--queries", type=int, default=60, help="pictures per category")
    parser.add_argument("--mvtec", type=Path, help="root of MVTec AD")
    parser.add_argument("--elpv", action="store_true")
    parser.add_argument("--sheets", type=Path, help="write contact sheets to this folder only")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=3.0)
    options = parser.parse_args()
    if options.sheets:
        sheets(options.sheets, options.home, options.steps, options.guidance)
        return
    sets: list[tuple[str, Dataset]] = [("surfaces", Surfaces(n_test=options.queries))]
    if options.mvtec:
        sets.append(("mvtec", MVTec(root=options.mvtec)))
    if options.elpv:
        sets.append(("elpv", ELPV()))
    table(sets, options.queries, options.home)


if __name__ == "__main__":
    main()

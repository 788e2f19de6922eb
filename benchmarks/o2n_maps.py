"""What One-to-Normal's branches see, as one picture: docs/one-to-normal.jpg.

    python -m benchmarks.o2n_maps --sheet docs/one-to-normal.jpg

For each of a few held-out procedural categories: a normal query and damaged ones, what the
autoencoder alone and what the customized model makes of them, the mask, and the maps of S_P in
three readings, of S_N, and of their sum. Models and settings are those of ``conf/o2n_micro.yaml``.
Every column of maps has one scale for all rows, from its median to its 99.8th percentile.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image as Picture
from PIL import ImageDraw

from datasets.surfaces import Surfaces
from harness.execution.memory.cache import FeatureMemory
from harness.interface import Image, Queries, Sample, Support
from methods._o2n.views import Autoencoder
from methods.generators.dreambooth import DreamBooth
from methods.o2n import O2n

READINGS: tuple[Literal["query", "excess", "bank"], ...] = ("query", "excess", "bank")
HEADS = (
    *("query", "reconstruction", "personalized", "mask"),
    *(f"S_P: {reading}" for reading in READINGS),
    *("S_N", "S_N + S_P/2 (bank)"),
)
SIDE, GAP = 128, 4

Pictures = list[NDArray[np.uint8]]


def tiles(
    dataset: Surfaces, category: str, chosen: list[int], shots: int, generator: DreamBooth
) -> tuple[list[Pictures], NDArray[np.float32]]:
    """Pictures of each chosen query, and its maps (n, columns, SIDE, SIDE)."""

    def image(sample: Sample) -> Image:
        return Image(f"{dataset.seed}:{sample.name}", np.asarray(dataset.open(sample.image)))

    memory = FeatureMemory(1 << 30)
    generator.setup("cpu", memory)
    normal = tuple(image(sample) for sample in dataset.train(category)[:shots])
    support = Support(normal, dataset.object_name(category))
    generator.customize(support, generator.prepare(support.object_name, 0))
    samples = [dataset.test(category)[i] for i in chosen]
    queries = tuple(image(sample) for sample in samples)
    personalized = tuple(
        Image(f"{query.key}/personalized", pixels)
        for query, pixels in zip(queries, generator.personalize(queries, 0).images, strict=True)
    )
    rebuilt = Autoencoder("micro", None, "cpu", memory).reconstructions(queries)
    columns = []
    for reading in READINGS:
        method = O2n(
            encoder={"model": "micro", "weights": "embedded"},
            text="class-token",
            temperature=0.25,
            against=reading,
            autoencoder="micro",
        )
        method.setup("cpu", memory)
        method.fit(support)
        maps = method.predict(Queries(queries, personalized)).part_maps
        columns.append(maps["S_P"])
    columns += [maps["S_N"], maps["S_N"] + maps["S_P"] / np.float32(2)]
    pictures = []
    for sample, *views in zip(samples, queries, rebuilt, personalized, strict=True):
        mask = np.zeros((SIDE, SIDE, 3), np.uint8)
        if sample.mask is not None:
            mask = np.asarray(
                Picture.fromarray(np.asarray(dataset.open(sample.mask))).convert("RGB")
            )
        pictures.append([small(view.pixels) for view in views] + [small(mask)])
    every = np.stack([np.stack([small(m) for m in column]) for column in columns], axis=1)
    return pictures, every


def small(pixels: NDArray[Any]) -> NDArray[Any]:
    """A picture (h, w, 3) or map (h, w) at SIDE."""
    return np.asarray(Picture.fromarray(pixels).resize((SIDE, SIDE), Picture.Resampling.BICUBIC))


def sheet(pictures: list[Pictures], maps: NDArray[np.float32]) -> Picture.Image:
    """One row for each query under a line of heads."""
    low, high = np.quantile(maps, [0.5, 0.998], axis=(0, 2, 3))
    scaled = (maps - low[:, None, None]) / (high - low)[:, None, None]
    heat = (colormaps["magma"](scaled.clip(0, 1))[..., :3] * 255).astype(np.uint8)
    step = SIDE + GAP
    whole = Picture.new("RGB", (step * len(HEADS), step * len(pictures) + 18), "white")
    draw = ImageDraw.Draw(whole)
    for column, head in enumerate(HEADS):
        draw.text((column * step + GAP, 3), head, fill="black")
    for row, (views, heats) in enumerate(zip(pictures, heat, strict=True)):
        for column, tile in enumerate([*views, *heats]):
            whole.paste(Picture.fromarray(tile), (column * step, row * step + 18))
    return whole


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sheet", type=Path, required=True, help="JPEG to write")
    parser.add_argument("--config", type=Path, default=Path("conf/o2n_micro.yaml"))
    parser.add_argument(
        "--categories", nargs="*", default=["circuit", "washer", "marble", "leather"]
    )
    parser.add_argument("--queries", nargs="*", type=int, default=[0, 10, 14])
    parser.add_argument("--shots", type=int, default=4)
    parser.add_argument("--seed", type=int, default=11, help="of the procedural images")
    arguments = parser.parse_args(argv)
    dataset = Surfaces(n_train=arguments.shots, n_test=18, size=256, seed=arguments.seed)
    params = yaml.safe_load(arguments.config.read_text())["generators"]["dreambooth"]["params"]
    pictures, maps = [], []
    for category in arguments.categories:
        generator = DreamBooth(**params)
        some, of_category = tiles(dataset, category, arguments.queries, arguments.shots, generator)
        pictures += some
        maps.append(of_category)
    sheet(pictures, np.concatenate(maps)).save(arguments.sheet, quality=80)


if __name__ == "__main__":
    main()

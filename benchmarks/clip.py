"""Encoding a picture with WinCLIP's windows: against a plain implementation, and in bfloat16.

    python -m benchmarks.clip [--quick]

ViT-B/16+ at 240 px, random weights (speed does not depend on them), one picture at a time, one
thread, processor seconds. The plain implementation gathers each window's tokens and runs them
through open_clip's own modules, all windows of a side as one batch, as public code does. Products
set the limit: the last figures say how much of the windows' time they would take at the rate that
a large product reaches here, and what bfloat16 changes in AUROC on solar cells (ViT-B/32, random).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from benchmarks.figures import Figures, figure, interleaved, main, ratio
from harness.execution.memory.cache import FeatureMemory
from harness.interface import Image, Queries, Support
from methods._encoders.clip import build
from methods._encoders.towers import VisionTower
from methods._ops.windows import members
from methods.winclip import Winclip

MODEL, SIZE, SIDES = "ViT-B-16-plus-240", 240, (2, 3)
TOKENS = 4096  # as the encoder takes on a CPU


def plain_windows(tower: VisionTower, pixels: torch.Tensor) -> list[torch.Tensor]:
    """Window embeddings (n, e) of each side, through open_clip's own modules."""
    visual = tower.visual
    patches = visual.conv1(pixels)
    grid = patches.shape[-2:]
    sequence = torch.cat(
        [visual.class_embedding.expand(1, 1, -1), patches.flatten(2).transpose(1, 2)], 1
    ) + tower.positions(*grid)
    embeddings = []
    for side in SIDES:
        index = members(grid[0], grid[1], side) + 1
        index = torch.cat([torch.zeros_like(index[:, :1]), index], 1)
        stream = visual.transformer(visual.ln_pre(sequence[0, index]))
        embeddings.append(visual.ln_post(stream[:, 0]) @ visual.proj)
    return embeddings


def product_rate(repeats: int, rows: int = 2670, inner: int = 896, columns: int = 3584) -> float:
    """FLOP/s of a product of the transformer's own shape, the fastest of several."""
    a, b = torch.randn(rows, inner), torch.randn(inner, columns)
    return 2 * rows * inner * columns / min(interleaved({"": lambda: a @ b}, repeats)[""])


def needed(tower: VisionTower, grid: int) -> float:
    """FLOP of the products that windows need, what is shared or unread left out."""
    width = tower.width
    layers = len(tower.blocks)
    whole = 0.0
    for side in SIDES:
        windows = (grid - side + 1) ** 2
        tokens = windows * (side * side + 1)
        first = 18 * tokens  # the projection of the first block is the picture's
        last = 4 * tokens + 20 * windows  # keys and values of all, the rest of class tokens
        whole += (first + 24 * tokens * (layers - 2) + last) * width**2
    return whole + 6 * (grid * grid + 1) * width**2


def plain_products(tower: VisionTower, grid: int) -> float:
    """FLOP of the products of the plain way: 24 d^2 for each token of each window in each block."""
    tokens = sum((grid - side + 1) ** 2 * (side * side + 1) for side in SIDES)
    return 24.0 * tokens * len(tower.blocks) * tower.width**2


def measure(quick: bool) -> Figures:
    """Windows by both ways, and by bfloat16; then AUROCs."""
    torch.set_num_threads(1)
    visual = build(MODEL, "random:0", False).visual
    exact, half = VisionTower(visual), VisionTower(visual, torch.bfloat16)
    pixels = torch.randn(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        seconds = interleaved(
            {
                "picture": lambda: exact(pixels, (12,), (), TOKENS),
                "picture, bf16": lambda: half(pixels, (12,), (), TOKENS),
                "plain": lambda: plain_windows(exact, pixels),
                "ours": lambda: exact(pixels, (12,), SIDES, TOKENS),
                "bf16": lambda: half(pixels, (12,), SIDES, TOKENS),
            },
            1 if quick else 2,
            warm=not quick,
        )
        expected = plain_windows(exact, pixels)
        windows = exact(pixels, (12,), SIDES, TOKENS).windows
        apart = max(
            float((windows[side].flatten(1, 2)[0] - one).abs().max() / one.abs().max())
            for side, one in zip(SIDES, expected, strict=True)
        )
    alone = np.subtract(seconds["ours"], seconds["picture"])
    halved = np.subtract(seconds["bf16"], seconds["picture, bf16"])
    rate = product_rate(2 if quick else 5)
    limit = needed(exact, SIZE // 16) / rate
    table = {
        "picture without windows": figure(seconds["picture"], "s"),
        "windows of a picture, plain": figure(seconds["plain"], "s", "neither"),
        "windows of a picture": figure(alone, "s"),
        "windows of a picture, bf16": figure(halved, "s"),
        "plain / ours": ratio(seconds["plain"], alone),
        "plain / ours, bf16": ratio(seconds["plain"], halved),
        "products alone at the measured rate": figure(limit, "s", "neither"),
        "share of the windows' time that products need": figure(
            limit / alone, "", "higher", "1 would be the machine's limit in float32"
        ),
        "products of the plain way / those needed": figure(
            plain_products(exact, SIZE // 16) / needed(exact, SIZE // 16),
            "times",
            "neither",
            "all that leaving work out can gain in float32",
        ),
        "largest difference to the plain way": figure(apart, "of the largest", note="float32"),
    }
    return table | aurocs(6 if quick else 24)


def aurocs(queries: int) -> Figures:
    """Few-shot AUROC with random ViT-B/32 in either precision, on as many queries of each kind."""
    images, labels = cells(queries)
    scores = {}
    for precision in ("fp32", "bf16"):
        spec = {"model": "ViT-B-32", "weights": "random:0", "precision": precision}
        method = Winclip(encoder=spec, size=SIZE, score="association")
        method.setup("cpu", FeatureMemory(1 << 30))
        method.fit(Support(tuple(images[:4]), "solar cell"))
        scores[precision] = method.predict(Queries(tuple(images[4:]), maps=False)).scores
    values = {name: float(roc_auc_score(labels, one)) for name, one in scores.items()}
    note = f"{2 * queries} solar cells, 4 shots, ViT-B/32 of random weights"
    return {
        "AUROC, fp32": figure(values["fp32"], "", "neither", note),
        "AUROC, bf16 less fp32": figure(values["bf16"] - values["fp32"], "", "neither", note),
    }


def cells(each: int) -> tuple[Sequence[Image], list[int]]:
    """Four normal solar cells, then as many normal as defective ones, and the labels of these."""
    from elpv_dataset.utils import load_dataset

    probability = load_dataset()[1]
    normal = np.flatnonzero(probability == 0)[: 4 + each]
    defective = np.flatnonzero(probability == 1)[:each]
    everything = load_dataset()[0]
    chosen = [*normal, *defective]
    images = [Image(f"elpv/{i}", np.repeat(everything[i][..., None], 3, axis=2)) for i in chosen]
    return images, [0] * each + [1] * each


if __name__ == "__main__":
    main(__doc__, measure)

"""Fitting and scoring at the sizes of the papers, without networks: random features, one thread.

    python -m benchmarks.scoring [--quick]

PatchCore's nearest neighbours of queries in the bank of 8 pictures by WideResNet50 at 224 px
(28 x 28 patches of 1,024 numbers), whole and a tenth of it, as a share of the rate that a large
matrix product reaches here; the greedy coreset against a plain one, and anomalib's where it is
installed; PaDiM with 550 channels; One-to-Normal's comparison with 30 pictures. Processor seconds.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import partial

import torch

from benchmarks.figures import Figures, figure, interleaved, main, ratio
from methods._ops.bank import Bank, greedy_coreset
from methods._ops.gaussian import gaussians
from methods._ops.windows import nearest

GRID, WIDTH, SHOTS = 28, 1024, 8


def structured(rows: int, width: int, seed: int) -> torch.Tensor:
    """Features of few directions and little noise, as networks make them: (rows, width)."""
    random = torch.Generator().manual_seed(seed)
    basis = torch.randn(40, width, generator=torch.Generator().manual_seed(99))
    few = torch.randn(rows, 40, generator=random) @ basis
    return few + 0.3 * torch.randn(rows, width, generator=random)


def product_rate(repeats: int) -> float:
    """FLOP/s of a large square matrix product, the fastest of several."""
    side = 1536
    a, b = torch.randn(2, side, side)
    return 2 * side**3 / min(interleaved({"": lambda: a @ b}, repeats)[""])


def plain_coreset(points: torch.Tensor, count: int) -> list[int]:
    """Greedy k-centre as its definition reads: differences to the newest centre, then a maximum."""
    random = torch.Generator().manual_seed(0)
    projected = points @ (torch.randn(points.shape[1], 128, generator=random) / 128**0.5)
    chosen = [0]
    least = torch.linalg.norm(projected - projected[0], dim=1)
    while len(chosen) < count:
        chosen.append(int(least.argmax()))
        distance = torch.linalg.norm(projected - projected[chosen[-1]], dim=1)
        least = torch.minimum(least, distance)
    return chosen


def neighbours(queries: int, repeats: int, rate: float) -> Figures:
    """Distances of all patches, and image scores, against banks."""
    support = structured(SHOTS * GRID * GRID, WIDTH, 0)
    rows = structured(queries * GRID * GRID, WIDTH, 1)
    table: Figures = {}
    tenth = support[torch.randperm(len(support))[: len(support) // 10]]
    for name, points in (("whole bank", support), ("tenth of the bank", tenth)):
        bank = Bank(points)
        patches = bank.centred(rows)
        flop = 2.0 * len(patches) * len(points) * WIDTH
        images = patches.unflatten(0, (queries, GRID * GRID))
        seconds = interleaved(
            {"all": partial(bank.nearest, patches), "farthest": partial(bank.farthest, images)},
            repeats,
        )
        note = f"{len(points)} patches of {WIDTH}, {queries} queries of {GRID * GRID}"
        table[f"nearest, {name}: share of the product rate"] = figure(
            [flop / one / rate for one in seconds["all"]], "", "higher", note
        )
        table[f"nearest, {name}: a query"] = figure([one / queries for one in seconds["all"]], "s")
        table[f"image score, {name}: a query"] = figure(
            [one / queries for one in seconds["farthest"]], "s", note="exact, most patches pruned"
        )
    return table


def coreset(repeats: int) -> Figures:
    """A tenth of a bank of 8 pictures, chosen three ways."""
    points = structured(SHOTS * GRID * GRID, WIDTH, 2)
    count = len(points) // 10
    runs: dict[str, Callable[[], object]] = {
        "harness": lambda: greedy_coreset(points, count, 0),
        "plain": lambda: plain_coreset(points, count),
    }
    if importlib.util.find_spec("anomalib"):
        from anomalib.models.components import KCenterGreedy

        runs["anomalib"] = lambda: KCenterGreedy(points, 0.1).select_coreset_idxs()
    seconds = interleaved(runs, repeats)
    note = f"{count} of {len(points)} patches of {WIDTH}"
    table = {"greedy coreset": figure(seconds["harness"], "s", note=note)}
    for name in runs:
        if name != "harness":
            table[f"greedy coreset, {name} / harness"] = ratio(seconds[name], seconds["harness"])
    # how far the worst patch is from its centre: the aim of the choice, less is better
    reach = {name: _reach(points, torch.as_tensor(runs[name]())) for name in ("harness", "plain")}
    table["greedy coreset: largest distance to a centre, of the plain one's"] = figure(
        reach["harness"] / reach["plain"], ""
    )
    return table


def _reach(points: torch.Tensor, chosen: torch.Tensor) -> float:
    bank = Bank(points[chosen])
    return float(bank.nearest(bank.centred(points)).amax().sqrt())


def padim(queries: int, repeats: int) -> Figures:
    """Gaussians of WideResNet50's 550 channels at 56 x 56, of 8 pictures, and scoring."""
    widths, sides = (79, 157, 314), (56, 28, 14)

    def levels(count: int, seed: int) -> list[torch.Tensor]:
        return [
            structured(count * side * side, width, seed).unflatten(0, (count, side, side))
            for side, width in zip(sides, widths, strict=True)
        ]

    support, asked = levels(SHOTS, 3), levels(queries, 4)
    fitted = gaussians([support], SHOTS, 0.01)
    seconds = interleaved(
        {
            "fit": lambda: gaussians([support], SHOTS, 0.01),
            "score": lambda: fitted.distances(asked),
        },
        repeats,
    )
    note = "550 channels, 56 x 56 locations, 8 pictures"
    return {
        "PaDiM, fitting": figure(seconds["fit"], "s", note=note),
        "PaDiM, a query": figure([one / queries for one in seconds["score"]], "s", note=note),
    }


def measure(quick: bool) -> Figures:
    """All of it."""
    torch.set_num_threads(1)
    repeats, queries = (1, 4) if quick else (5, 12)
    rate = product_rate(3 if quick else 7)
    table = {"matrix product": figure(rate / 1e9, "GFLOP/s", "higher")}
    table |= neighbours(queries, repeats, rate)
    table |= coreset(repeats)
    table |= padim(queries, repeats)
    # ViT-L/14@336: 576 patches of 1,024 numbers, against 30 pictures' patches
    bank = torch.nn.functional.normalize(structured(30 * 576, 1024, 5), dim=1)
    asked = torch.nn.functional.normalize(structured(queries * 576, 1024, 6), dim=1)
    asked = asked.unflatten(0, (queries, 576))
    seconds = interleaved({"": lambda: nearest(asked, bank)}, repeats)[""]
    flop = 2.0 * queries * 576 * len(bank) * 1024
    note = "576 patches of 1,024 against those of 30 pictures"
    table["One-to-Normal's bank, a query and level"] = figure(
        [one / queries for one in seconds], "s", note=note
    )
    table["One-to-Normal's bank: share of the product rate"] = figure(
        [flop / one / rate for one in seconds], "", "higher"
    )
    return table


if __name__ == "__main__":
    main(__doc__, measure)

"""Which of One-to-Normal's three scores does what, from a finished sweep's stored parts.

    python -m benchmarks.o2n_ablation runs/o2n-micro
    python -m benchmarks.o2n_ablation runs/o2n-micro --method o2n --alpha 1 --beta 0.5 --weights

Reads the per-query tables that a sweep leaves and recomputes everything from ``part.S_P``,
``part.S_N`` and ``part.S_text``: no encoder and no diffusion model runs, so it takes seconds.
Prints for each method, dataset and number of shots image AUROC and AUPRC of every score, every
pair and all three (as the paper's Table 4), each with its paired difference from all three over the
seeds; the size of each branch, which decides what weights mean; and with ``--weights`` the AUROC of
other weights. Choosing weights by it would be choosing them on the test set.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from harness.results import aggregate, intervals, metrics, significance

BRANCHES = ("S_P", "S_N", "S_text")
ALL = "+".join(BRANCHES)
#: singles, pairs, all
FUSIONS = {
    "+".join(chosen): chosen for n in (1, 2, 3) for chosen in itertools.combinations(BRANCHES, n)
}
ALPHAS = (0.0, 0.25, 0.5, 1.0, 2.0)
BETAS = (0.0, 0.25, 0.5, 1.0, 2.0)


@dataclass(frozen=True)
class Cell:
    """The stored parts of one cell: each of shape (N,)."""

    method: str
    dataset: str
    category: str
    shots: int
    seed: int
    labels: np.ndarray
    parts: Mapping[str, np.ndarray]

    def row(self, name: str, scores: np.ndarray) -> dict[str, object]:
        """A row of results under another method's name."""
        anomalous = int(self.labels.sum())
        figures = metrics.evaluate(self.labels, scores)
        return {
            "method": name,
            "dataset": self.dataset,
            "category": self.category,
            "shots": self.shots,
            "seed": self.seed,
            "n_normal": len(self.labels) - anomalous,
            "n_anomalous": anomalous,
            **figures,
        }


def read_cells(folder: Path, method: str | None = None) -> list[Cell]:
    """Cells of a sweep's folder that have the three parts.

    Raises
    ------
    FileNotFoundError
        When there are none.
    """
    cells = []
    for path in sorted(folder.glob(f"predictions/{method or '*'}/*/*/k*_s*.csv")):
        table = aggregate.read_csv(path, ["query", "label", "score"])
        names = [f"part.{branch}" for branch in BRANCHES]
        if not set(names) <= set(table.columns):
            continue
        shots, seed = path.stem.removeprefix("k").split("_s")
        labels = table["label"].to_numpy().astype(int)
        parts = {
            name.removeprefix("part."): table[name].to_numpy(float)
            for name in table.columns
            if name.startswith("part.")
        }
        of, dataset, category = path.parts[-4:-1]
        cells.append(Cell(of, dataset, category, int(shots), int(seed), labels, parts))
    if not cells:
        which = f"method {method}" if method else "any method"
        raise FileNotFoundError(
            f"{folder}: no predictions of {which} with the parts {', '.join(BRANCHES)}"
        )
    return cells


def fused(cell: Cell, chosen: tuple[str, ...], alpha: float, beta: float) -> np.ndarray:
    """Weighted sum of the chosen branches (Eq. 7 without the others)."""
    weights = {"S_P": 1.0, "S_N": alpha, "S_text": beta}
    return sum((weights[name] * cell.parts[name] for name in chosen), np.zeros(len(cell.labels)))


def ablation(cells: list[Cell], alpha: float, beta: float) -> pd.DataFrame:
    """Results of every fusion, the column ``method`` naming the fusion."""
    rows = [
        cell.row(name, fused(cell, chosen, alpha, beta))
        for cell in cells
        for name, chosen in FUSIONS.items()
    ]
    return aggregate.results_frame(rows)


def table(frame: pd.DataFrame) -> Iterator[str]:
    """Lines of text: means, spreads and paired differences, per dataset and shots."""
    summary: Any = aggregate.summary_frame(frame).set_index(["dataset", "shots", "method"])
    paired: dict[str, Any] = {}
    runs = {m: intervals.runs(frame, None, m) for m in ("image_auroc", "image_auprc")}
    for name in FUSIONS:
        if name != ALL:
            pairs = significance.paired_frame(frame, ALL, name, runs)
            paired[name] = pairs.set_index(["dataset", "shots", "metric"])
    for dataset, shots in sorted({key[:2] for key in summary.index}):
        row = summary.loc[(dataset, shots, ALL)]
        yield ""
        yield f"{dataset}, {shots} shots, {row.n_seeds} seeds, {row.n_categories} categories, in %"
        heads = ("", "AUROC", "all - this", "AUPRC", "all - this")
        yield "{:>16}  {:>11}  {:>12}  {:>11}  {:>12}  wins".format(*heads)
        for name in FUSIONS:
            cells, wins = [], ""
            for metric in ("image_auroc", "image_auprc"):
                one = summary.loc[(dataset, shots, name)]
                cells.append(_spread(one[f"{metric}_mean"], one[f"{metric}_std"]))
                if name == ALL:
                    cells.append("")
                    continue
                difference = paired[name].loc[(dataset, shots, metric)]
                cells.append(_spread(difference["mean"], difference["std"], "+"))
                wins = wins or "/".join(
                    f"{difference[how]:.0f}" for how in ("wins", "ties", "losses")
                )
            a, b, c, d = cells
            yield f"{name:>16}  {a:>11}  {b:>12}  {c:>11}  {d:>12}  {wins}".rstrip()


def sizes(cells: list[Cell], alpha: float, beta: float) -> Iterator[str]:
    """Lines of text: mean and spread of every part over normal and over anomalous queries."""
    weights = {"S_P": 1.0, "S_N": alpha, "S_text": beta}
    groups: dict[tuple[str, int], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.dataset, cell.shots), []).append(cell)
    yield ""
    yield "weighted size of each part, mean (deviation within a cell)"
    yield f"{'':>30}  {'normal':>15}  {'anomalous':>15}"
    for (dataset, shots), group in sorted(groups.items()):
        for part in group[0].parts:
            columns = []
            for label in (0, 1):
                values = [weights.get(part, 1.0) * c.parts[part][c.labels == label] for c in group]
                values = [v for v in values if len(v)]
                mean = np.mean([v.mean() for v in values]) if values else np.nan
                columns.append(f"{mean:.3f} ({np.mean([v.std() for v in values]):.3f})")
            name = f"{dataset}, {shots} shots, {part}"
            yield f"{name:>30}  {columns[0]:>15}  {columns[1]:>15}"


def weights(cells: list[Cell]) -> Iterator[str]:
    """Lines of text: AUROC of other weights, mean over categories and seeds of each dataset."""
    for dataset in sorted({cell.dataset for cell in cells}):
        own = [cell for cell in cells if cell.dataset == dataset]
        yield ""
        yield f"{dataset}: AUROC by weights, all shots and seeds (alpha down, beta across)"
        yield " " * 8 + "".join(f"{beta:>8}" for beta in BETAS)
        for alpha in ALPHAS:
            values = [
                np.mean(
                    [metrics.image_auroc(c.labels, fused(c, BRANCHES, alpha, beta)) for c in own]
                )
                for beta in BETAS
            ]
            yield f"{alpha:>8}" + "".join(f"{100 * value:>8.1f}" for value in values)


def _spread(mean: float, std: float, sign: str = "") -> str:
    deviation = "" if np.isnan(std) else f" ± {100 * std:.1f}"
    return f"{100 * mean:{sign}.1f}{deviation}"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="a sweep's folder in the storage")
    parser.add_argument("--method", help="label in the sweep; by default all that have the parts")
    parser.add_argument("--alpha", type=float, default=1.0)
    parser.add_argument("--beta", type=float, default=0.5)
    parser.add_argument("--weights", action="store_true", help="also other weights")
    arguments = parser.parse_args(argv)
    try:
        cells = read_cells(arguments.folder, arguments.method)
    except (FileNotFoundError, ValueError) as error:
        parser.error(str(error))
    for method in sorted({cell.method for cell in cells}):
        own = [cell for cell in cells if cell.method == method]
        print(f"\n{method}: S_P + {arguments.alpha:g} S_N + {arguments.beta:g} S_text")
        lines = [table(ablation(own, arguments.alpha, arguments.beta))]
        lines.append(sizes(own, arguments.alpha, arguments.beta))
        lines += [weights(own)] if arguments.weights else []
        print("\n".join(itertools.chain(*lines)))


if __name__ == "__main__":
    main()

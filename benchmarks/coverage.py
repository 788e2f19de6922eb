"""How often a 95 % interval of the reports holds the truth, on sweeps whose truth is known.

    python -m benchmarks.coverage [--trials 1000]

A made-up sweep has two methods that score the same queries. A query is easy or hard for both
methods, for one, or for one seed; a seed makes a method a little better or worse. Where queries are
tiles, all tiles of a picture are as easy or hard. The truth is the AUROC over endlessly many seeds
and pictures, which these scores have in closed form. Beside the interval that ships stand Student's
t over the seeds alone, and, where there are tiles, the interval that takes them for independent.
"""

from __future__ import annotations

import argparse
from typing import NamedTuple

import numpy as np
from scipy import stats

from harness.results import intervals


class World(NamedTuple):
    """What a sweep is drawn from; deviations are of scores whose total deviation is 1."""

    name: str
    categories: int
    normal: int
    anomalous: int
    separation: tuple[float, float]  # of the two methods
    seed: float  # deviation of the separation from seed to seed
    both: float  # share of the score's variance that both methods see, in every seed
    one: float  # that one method sees, in every seed
    tiles: int = 1  # queries of a picture, which have these two shares in common
    mixed: bool = False  # whether a picture's tiles are of both kinds

    @property
    def truth(self) -> tuple[float, float]:
        """AUROC of each method over all seeds and queries."""
        a, b = (float(stats.norm.cdf(d / np.sqrt(2 + self.seed**2))) for d in self.separation)
        return a, b

    @property
    def pictures(self) -> np.ndarray:
        """(N,) the picture of each query, normal ones first."""
        count = self.normal + self.anomalous
        return (
            np.arange(count) % (count // self.tiles)
            if self.mixed
            else np.arange(count) // self.tiles
        )


WORLDS = (
    World("queries matter, seeds do not", 1, 40, 40, (1.5, 1.5), 0.0, 0.5, 0.3),
    World("both matter", 1, 40, 60, (1.5, 1.3), 0.2, 0.5, 0.3),
    World("seeds matter most", 1, 60, 80, (1.5, 1.2), 0.4, 0.5, 0.3),
    World("noise of single seeds", 1, 40, 40, (1.0, 0.9), 0.1, 0.3, 0.1),
    World("nearly solved", 1, 60, 60, (2.6, 2.4), 0.2, 0.5, 0.3),
    World("few normal queries", 1, 20, 80, (1.5, 1.5), 0.2, 0.5, 0.3),
    World("five categories", 5, 20, 40, (1.5, 1.3), 0.2, 0.5, 0.3),
    World("five categories, nearly solved", 5, 25, 40, (2.6, 2.4), 0.3, 0.5, 0.3),
    World("tiles of one kind", 1, 160, 120, (1.5, 1.3), 0.2, 0.5, 0.3, tiles=4),
    World("tiles of both kinds", 1, 120, 60, (1.5, 1.3), 0.2, 0.5, 0.3, tiles=6, mixed=True),
)


def sweep(
    world: World, seeds: int, rng: np.random.Generator, apart: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Mean AUROC over categories: (2, seeds), and with the queries drawn anew (2, seeds, draws).

    ``apart`` draws tiles anew one by one, as if they were pictures of their own.
    """
    labels = np.arange(world.normal + world.anomalous) >= world.normal
    pictures = world.pictures
    groups = None if apart else pictures
    values = np.zeros((2, seeds))
    redrawn = np.zeros((2, seeds, intervals.DRAWS))
    once = np.ones((labels.size, 1), np.float32)
    factor = intervals.short_of(labels, groups)
    for _ in range(world.categories):
        drawn = intervals.weights(labels, int(rng.integers(2**63)), groups=groups)
        shared = rng.normal(size=labels.size)[pictures] * np.sqrt(world.both)
        for method in range(2):
            own = rng.normal(size=labels.size)[pictures] * np.sqrt(world.one)
            for seed in range(seeds):
                separation = world.separation[method] + world.seed * rng.normal()
                noise = rng.normal(size=labels.size) * np.sqrt(1 - world.both - world.one)
                scores = separation * labels + shared + own + noise
                value = intervals.auroc(*intervals.ranked(labels, scores, once))
                moved = intervals.auroc(*intervals.ranked(labels, scores, drawn)) - value
                values[method, seed] += value[0] / world.categories
                redrawn[method, seed] += (value + factor * moved) / world.categories
    return values, redrawn


def coverage(world: World, seeds: int, trials: int, rng: np.random.Generator) -> dict[str, float]:
    """Shares of intervals that hold the truth: of a mean and of a difference, of t alone, and of a
    mean with tiles drawn apart (NaN where there are none).
    """
    hits = {"mean": 0.0, "difference": 0.0, "seeds alone": 0.0, "tiles apart": 0.0}
    truth = world.truth
    if world.tiles == 1:
        hits["tiles apart"] = np.nan
    for _ in range(trials):
        values, redrawn = sweep(world, seeds, rng)
        ends = intervals.of_share(intervals.interval(values[0], redrawn[0].T))
        hits["mean"] += ends.low <= truth[0] <= ends.high
        gap, target = values[0] - values[1], truth[0] - truth[1]
        ends = intervals.interval(gap, (redrawn[0] - redrawn[1]).T)
        hits["difference"] += ends.low <= target <= ends.high
        ends = intervals.interval(gap, np.full((intervals.DRAWS, seeds), np.nan))
        hits["seeds alone"] += ends.low <= target <= ends.high
        if world.tiles > 1:
            values, redrawn = sweep(world, seeds, rng, apart=True)
            ends = intervals.of_share(intervals.interval(values[0], redrawn[0].T))
            hits["tiles apart"] += ends.low <= truth[0] <= ends.high
    return {name: count / trials for name, count in hits.items()}


def main() -> None:
    """Print the coverage of every world at 3 and 5 seeds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=1000, help="sweeps of each kind (1000)")
    trials = parser.parse_args().trials
    rng = np.random.default_rng(0)
    print(f"share of 95 % intervals that hold the truth, {trials} sweeps of each kind")
    print(f"{'':32}  seeds   mean  difference  difference, seeds alone  mean, tiles apart")
    for seeds in (3, 5):
        rows = []
        for world in WORLDS:
            rows.append(coverage(world, seeds, trials, rng))
            print(_line(world.name, seeds, rows[-1]), flush=True)
        every = {name: float(np.nanmean([row[name] for row in rows])) for name in rows[0]}
        print(_line("all", seeds, every))


def _line(name: str, seeds: int, row: dict[str, float]) -> str:
    mean, difference, alone, apart = (100 * value for value in row.values())
    line = f"{name:32}  {seeds:5}  {mean:5.1f}  {difference:10.1f}  {alone:23.1f}"
    return line if np.isnan(apart) else f"{line}  {apart:17.1f}"


if __name__ == "__main__":
    main()

"""Does RegAD's training help? Trained, untrained and merely adapted networks, paired over seeds.

Every seed is its own world: other styles and pictures of ``surfaces``, other draws, and other
weights where they are random. In it one network is used thrice on categories that it never saw:
``untrained``, as it starts; ``adapted``, after passes at learning rate 0, which set the statistics
of batch normalisation and nothing else; and ``trained``. Printed are image AUROCs, and the mean
paired differences with their 95 % t-intervals over seeds, of each category and of their mean.

On seeds 60 to 69, which nothing was chosen on (``--first 60 --seeds 10 --epochs 5 --queries 60``),
trained networks were ahead of untrained ones by 0.078 [0.056, 0.099], of adapted ones by 0.026
[0.008, 0.043]; that is with the transformers held still.

    OMP_NUM_THREADS=1 python -m benchmarks.regad
    OMP_NUM_THREADS=1 python -m benchmarks.regad --model tf_efficientnet_lite0 --weights imagenet
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from datasets.surfaces import Surfaces
from harness.execution.memory.cache import FeatureMemory
from harness.interface import Auxiliary, AuxiliaryCategory, Image, Queries, Sample, Support
from harness.results.metrics import image_auroc
from methods.regad import Regad

CONDITIONS = ("untrained", "adapted", "trained")
ADAPTING = 2  # passes that are enough for running statistics


class World:
    """Pictures of one seed: what RegAD is given, by category.

    Parameters
    ----------
    dataset : Surfaces
    shots : int
        Support of each held-out category: the first of its training images.
    """

    def __init__(self, dataset: Surfaces, shots: int) -> None:
        self.dataset, self.shots = dataset, shots
        self._opened: dict[str, Image] = {}

    def images(self, samples: Sequence[Sample]) -> tuple[Image, ...]:
        """The samples' pictures, rendered once."""
        names = [sample.image for sample in samples]
        for name in names:
            if name not in self._opened:
                self._opened[name] = Image(name, np.asarray(self.dataset.open(name)))
        return tuple(self._opened[name] for name in names)

    def auxiliary(self, categories: Sequence[str]) -> Auxiliary:
        """Normal images of the categories to train on."""
        worlds = (
            AuxiliaryCategory(
                name,
                self.dataset.object_name(name),
                self.images(self.dataset.train(name)),
                (),
                np.zeros(0, np.int64),
                lambda index: None,
            )
            for name in categories
        )
        return Auxiliary(tuple(worlds), self.shots, self.dataset.seed)

    def aurocs(self, method: Regad, categories: Sequence[str]) -> list[float]:
        """Image AUROC of a loaded method on each category."""
        values = []
        for name in categories:
            method.fit(Support(self.images(self.dataset.train(name)[: self.shots])))
            samples = self.dataset.test(name)
            prediction = method.predict(Queries(self.images(samples), maps=False))
            values.append(image_auroc([s.label for s in samples], prediction.scores))
        return values


def compare(
    world: World, train: Sequence[str], test: Sequence[str], method: dict[str, object]
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """AUROCs (3, categories) of one seed in the order of ``CONDITIONS``, and the losses.

    Parameters
    ----------
    world : World
    train, test : sequences of str
        Categories to train on, and those held out.
    method : dict
        Parameters of RegAD.
    """
    auxiliary = world.auxiliary(train)
    rows, losses = [], np.zeros(0, np.float32)
    changes: tuple[dict[str, Any], ...] = (
        {"epochs": 0},
        {"epochs": ADAPTING, "learning_rate": 0.0},
        {},
    )
    for changed in changes:
        regad = Regad(**{**method, **changed})
        regad.setup("cpu", FeatureMemory(1 << 28))
        state = regad.train(auxiliary)
        losses = state["losses"]
        regad.load(state)
        rows.append(world.aurocs(regad, test))
    return np.array(rows), losses


def interval(differences: NDArray[np.float64]) -> tuple[float, float, float]:
    """Mean of paired differences (seeds,) with both ends of its 95 % t-interval."""
    n = len(differences)
    half = stats.t.ppf(0.975, n - 1) * differences.std(ddof=1) / n**0.5
    mean = float(differences.mean())
    return mean, mean - half, mean + half


def report(table: NDArray[np.float64], test: Sequence[str]) -> None:
    """Means and paired differences of AUROCs (seeds, 3, categories)."""
    table = np.concatenate([table, table.mean(2, keepdims=True)], 2)
    print(f"\n{'mean of seeds':14}" + "".join(f"{c:>11}" for c in CONDITIONS) + "  ", end="")
    print("".join(f"{'trained - ' + c:>34}" for c in CONDITIONS[:2]))
    for i, name in enumerate([*test, "all"]):
        line = f"{name:14}" + "".join(f"{value:11.3f}" for value in table[:, :, i].mean(0)) + "  "
        for other in (0, 1):
            mean, low, high = interval(table[:, 2, i] - table[:, other, i])
            line += f"{mean:+16.3f} [{low:+.3f}, {high:+.3f}]"
        print(line)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="test_resnet")
    parser.add_argument("--weights", default="random", help="`random`: those of each seed")
    parser.add_argument("--train", nargs="+", default=["bolt", "bottle_top", "circuit"])
    parser.add_argument("--test", nargs="+", default=["capsule", "washer", "wood"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--shots", type=int, default=1)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--images", type=int, default=24, help="to train on, of each category")
    parser.add_argument("--queries", type=int, default=40, help="of each category")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=0.05)
    parser.add_argument("--transformers", type=float, default=0.0, help="of their learning rate")
    parser.add_argument("--sigma", type=float, default=1.0)
    options = parser.parse_args()
    if both := set(options.train) & set(options.test):
        parser.error(f"{', '.join(sorted(both))}: trained on and held out at once")
    if options.seeds < 2:
        parser.error("an interval needs at least 2 seeds")

    tables = []
    print(f"{'seed':>4} {'':10}" + "".join(f"{name:>12}" for name in options.test))
    for seed in range(options.first, options.first + options.seeds):
        dataset = Surfaces(options.images, options.queries, options.size, seed)
        random = options.weights == "random"
        method = {
            "encoder": {
                "model": options.model,
                "weights": f"random:{seed}" if random else options.weights,
            },
            "size": options.size,
            "epochs": options.epochs,
            "batch": options.batch,
            "learning_rate": options.learning_rate,
            "transformers": options.transformers,
            "sigma": options.sigma,
        }
        world = World(dataset, options.shots)
        table, losses = compare(world, options.train, options.test, method)
        tables.append(table)
        for condition, row in zip(CONDITIONS, table, strict=True):
            values = "".join(f"{value:12.3f}" for value in row)
            ending = (
                f"   loss {losses[0]:.2f} to {losses[-1]:.2f}" if condition == "trained" else ""
            )
            print(f"{seed:4} {condition:10}{values}{ending}", flush=True)
    report(np.stack(tables), options.test)


if __name__ == "__main__":
    main()

"""Nonsense, damage and harm, thousands of times, and how often all went as it should.

Seeded configs with one to three mistakes (a plan or clear lines), sweeps' folders damaged at random
(what is damaged is told, no other row is taken), and the hostile methods of the tests (whoever
comes after each has figures equal to the bit to those of a calm sweep, and the cell ends as it
should). Prints "n right of N" for each and for all, and what was not right.

    python -m benchmarks.fuzz [--configs 2000] [--folders 500] [--seed 0]
"""

from __future__ import annotations

import argparse
import importlib
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.sweeps import FAKES, HOME

Faults = list[str]


def configs(folder: Path, first: int, count: int) -> tuple[int, Faults]:
    """So many configs, planned in this process."""
    from tests.test_config_fuzz import mutated, wrong_cases

    return count, wrong_cases(range(first, first + count), mutated, folder / "c.yaml")


def folders(folder: Path, first: int, count: int) -> tuple[int, Faults]:
    """So many damages to a finished sweep's folder."""
    from tests.test_folder_damage import reopener, wrong_damages

    return count, wrong_damages(reopener(folder), range(first, first + count))


def harms(folder: Path, first: int, count: int) -> tuple[int, Faults]:
    """Every hostile method there is, once; also those that never end."""
    from tests.harmed import faults

    table = importlib.import_module("toys.harms")
    mortal = table.QUIET | table.CHANGES | table.FAILS | table.LATER
    wrong, _ = faults(folder / "mortal", mortal)
    hanging, _ = faults(folder / "hanging", table.HANGS, len(table.HANGS), 5.0)
    return len(mortal) + len(table.HANGS), [f"{k}: {v}" for k, v in (wrong | hanging).items()]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--configs", type=int, default=2_000)
    parser.add_argument("--folders", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0, help="of the first case")
    arguments = parser.parse_args()
    sys.path.append(str(FAKES))
    os.environ["PYTHONPATH"] = os.pathsep.join([str(FAKES), str(HOME)])
    os.environ["OMP_NUM_THREADS"] = "1"
    random.seed(arguments.seed)
    parts: dict[str, tuple[Callable[[Path, int, int], tuple[int, Faults]], int]] = {
        "configs": (configs, arguments.configs),
        "damaged folders": (folders, arguments.folders),
        "hostile methods": (harms, 0),
    }
    right = cases = 0
    for name, (tried, count) in parts.items():
        began, cpu = time.perf_counter(), time.process_time()
        with tempfile.TemporaryDirectory() as folder:
            os.environ["HARNESS_CACHE"] = folder
            number, wrong = tried(Path(folder), arguments.seed, count)
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        print(*wrong, sep="\n", end="\n" if wrong else "")
        text = f"{number - len(wrong)} right of {number}"
        print(f"{name}: {text} in {seconds:.0f} s ({cpu:.0f} s of this process's CPU)", flush=True)
        right, cases = right + number - len(wrong), cases + number
    print(f"{right} right of {cases}")
    return 0 if right == cases else 1


if __name__ == "__main__":
    raise SystemExit(main())

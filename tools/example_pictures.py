"""Writes a small dataset in MVTec AD's layout: ``python -m tools.example_pictures FOLDER``.

Rendered bolts and wood, sound and damaged, with masks; for trying things out.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

CATEGORIES, TRAIN, TEST = ("bolt", "wood"), 12, 8


def write(folder: Path) -> int:
    """Write the pictures; how many there are."""
    from PIL import Image

    from datasets.surfaces import Surfaces

    source = Surfaces(n_train=TRAIN, n_test=TEST)
    count = 0
    for category in CATEGORIES:
        for part, samples in (("train", source.train(category)), ("test", source.test(category))):
            for number, sample in enumerate(samples):
                target = folder / category / part / sample.defect / f"{number:03}.png"
                target.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(source.open(sample.image)).save(target)
                count += 1
                if sample.mask is not None:
                    name = f"{number:03}_mask.png"
                    mask = folder / category / "ground_truth" / sample.defect / name
                    mask.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(source.open(sample.mask)).save(mask)
    return count


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m tools.example_pictures FOLDER")
    print(f"wrote {write(Path(sys.argv[1]))} pictures to {os.path.abspath(sys.argv[1])}")

"""Training data of the micro models: pairs of damaged and clean renderings, and their captions.

Rendered once into a memory-mapped file in a scratch folder, by a process of its own; training reads
the part that is there. Families of the ``surfaces`` dataset are never rendered here.

    python -m methods.micro.data --out DIR --pairs 24000
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from datasets._rendering.defects import DEFECTS
from datasets._rendering.render import TRAINING, render

SIZE = 128
MASK = 16  # masks are kept as coverage of 8-pixel cells
_CHUNK = 64

#: words for each kind of damage; captions draw one
DAMAGE = {
    "bend": ("a bend", "a deformed part", "a distortion"),
    "broken": ("a broken thread", "a break", "a broken part"),
    "chip": ("a chip", "a missing piece", "a broken edge"),
    "crack": ("a crack", "cracks", "a fracture"),
    "dent": ("a dent", "a bump"),
    "discolour": ("a discolouration", "a colour spot", "a discolored area"),
    "hole": ("a hole", "a pit"),
    "particle": ("contamination", "a foreign particle", "dirt"),
    "scratch": ("a scratch", "scratches"),
    "stain": ("a stain", "a spot"),
    "worn": ("a worn area", "wear", "a rubbed spot"),
}
#: states of a whole thing, as methods word them; {} is the thing
NORMAL = (
    "{}",
    "normal {}",
    "flawless {}",
    "perfect {}",
    "unblemished {}",
    "good {}",
    "clean {}",
    "{} without flaw",
    "{} without defect",
    "{} without damage",
    "normal {} without flaw",
    "normal {} without defect",
    "normal {} without damage",
)
DAMAGED = (
    "damaged {}",
    "abnormal {}",
    "defective {}",
    "broken {}",
    "{} with flaw",
    "{} with defect",
    "{} with damage",
    "{} with a defect",
)
FRAMES = (
    "a photo of {}",
    "a photo of a {}",
    "a photo of the {}",
    "a cropped photo of a {}.",
    "a close-up photo of the {}.",
    "a bright photo of a {}.",
    "a dark photo of the {}.",
    "a blurry photo of a {}.",
    "a good photo of a {}.",
    "a bad photo of a {}.",
    "a low resolution photo of a {}.",
    "a jpeg corrupted photo of the {}.",
    "a photo of a small {}.",
    "a photo of the large {}.",
    "a photo of a {} for visual inspection.",
    "a photo of the {} for anomaly detection.",
    "{}",
)
#: words for any thing at all: the state must be told whatever the thing is called
ANYTHING = ("object", "surface", "texture", "item", "product", "sample", "material", "thing")


@dataclass(frozen=True)
class Subject:
    """What a pair shows: a family, its words, the kind of damage of its first picture."""

    family: str
    words: str
    defect: str


def subject(index: int) -> Subject:
    """Subject of a pair: families in turn, kinds of damage at random but fixed by the index."""
    families = list(TRAINING)
    family = families[index % len(families)]
    kinds = list(DEFECTS)
    defect = kinds[np.random.default_rng([index, 77]).integers(len(kinds))]
    return Subject(family, TRAINING[family][1], defect)


def caption(rng: np.random.Generator, words: str, defect: str | None) -> str:
    """A sentence for a picture of ``words``, clean when ``defect`` is None."""
    if defect is None:
        state = NORMAL[rng.integers(len(NORMAL))]
    elif rng.random() < 0.4:
        damage = DAMAGE[defect][rng.integers(len(DAMAGE[defect]))]
        state = ("{} with " + damage) if rng.random() < 0.6 else "damaged {} with " + damage
    else:
        state = DAMAGED[rng.integers(len(DAMAGED))]
    return FRAMES[rng.integers(len(FRAMES))].format(state.format(words))


class Corpus:
    """Rendered pairs on disk.

    Attributes
    ----------
    pairs : uint8 (N, 2, 128, 128, 3): damaged, clean
    masks : uint8 (N, 16, 16): 255 times the share of each 8-pixel cell that is damaged
    """

    def __init__(self, folder: Path, pairs: int, write: bool = False) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        if not write and not (folder / "pairs.u8").is_file():
            raise FileNotFoundError(
                f"no renderings in {folder}; run python -m methods.micro.data --out {folder}"
            )
        mode: Literal["r", "r+", "w+"]
        mode = "r" if not write else "r+" if (folder / "pairs.u8").is_file() else "w+"
        self.pairs: NDArray[np.uint8] = np.memmap(
            folder / "pairs.u8", np.uint8, mode, shape=(pairs, 2, SIZE, SIZE, 3)
        )
        self.masks: NDArray[np.uint8] = np.memmap(
            folder / "masks.u8", np.uint8, mode, shape=(pairs, MASK, MASK)
        )

    @property
    def ready(self) -> int:
        """How many pairs, from the first, have been rendered."""
        note = self.folder / "ready"
        return int(note.read_text()) if note.is_file() else 0

    def render(self, seed: int = 0) -> None:
        """Render what is missing, telling ``ready`` after every 64 pairs."""
        for start in range(self.ready, len(self.pairs), _CHUNK):
            stop = min(start + _CHUNK, len(self.pairs))
            for i in range(start, stop):
                what = subject(i)
                drawn = render(what.family, (seed, i), (seed, i), SIZE, what.defect)
                self.pairs[i] = drawn.pixels, drawn.clean
                cells = drawn.mask.reshape(MASK, SIZE // MASK, MASK, SIZE // MASK)
                self.masks[i] = np.round(cells.mean((1, 3)) * 255)
            temporary = self.folder / "ready.part"
            temporary.write_text(str(stop))
            os.replace(temporary, self.folder / "ready")


def main(arguments: Sequence[str] | None = None) -> None:
    """Render the corpus."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="scratch folder, outside the repo")
    parser.add_argument("--pairs", type=int, default=24_000)
    options = parser.parse_args(arguments)
    Corpus(options.out, options.pairs, write=True).render()


if __name__ == "__main__":
    main()

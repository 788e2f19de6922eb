"""Checkpoints of authors: which file is meant, and what it must not be tested on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.interface import Auxiliary

_CHOSEN = ("{auxiliary}", "{category}")


@dataclass(frozen=True)
class Checkpoint:
    """A local file, or one of several, that takes the place of training.

    Attributes
    ----------
    method : str
        Whose it is, for messages.
    pattern : str
        Path in which ``{shots}`` stands for the number of shots, ``{auxiliary}`` for the dataset
        that the sweep would have the method trained on, and ``{category}`` for the category that
        leave-one-out training leaves out.
    trained_on : str, optional
        Dataset that it was trained on, where the path does not follow from the tested one.

    Raises
    ------
    ValueError
        Nobody says what it was trained on.
    """

    method: str
    pattern: str
    trained_on: str | None

    def __post_init__(self) -> None:
        if self.trained_on is None and not self.chosen:
            raise ValueError(
                f"{self.method}: a checkpoint needs `trained_on`, the dataset that it was trained "
                f"on and is not tested on, or {' or '.join(_CHOSEN)} in its path"
            )

    @property
    def chosen(self) -> bool:
        """Whether the file follows from what the sweep would have the method trained on."""
        return any(word in self.pattern for word in _CHOSEN)

    @property
    def datasets(self) -> tuple[str, ...]:
        """What it was trained on, for ``Method.trained_on``."""
        return () if self.trained_on is None else (self.trained_on,)

    def files(self) -> Sequence[Path]:
        """Every file that is meant for some cell.

        Raises
        ------
        FileNotFoundError
            There is none.
        """
        path = Path(self.pattern).expanduser().absolute()
        parts = [str(path)]
        for word in ("{shots}", *_CHOSEN):
            parts = [piece for part in parts for piece in part.split(word)]
        matching = sorted(Path(path.anchor).glob("*".join(parts).removeprefix(path.anchor)))
        if not matching:
            raise FileNotFoundError(f"{self.method}: no checkpoint at {path}")
        return matching

    def path(self, shots: int | None, auxiliary: Auxiliary | None = None) -> Path:
        """The file for a number of shots, and for auxiliary data where they choose it.

        Raises
        ------
        ValueError
            ``{category}`` stands in the path, and no category is left out.
        FileNotFoundError
            Naming the path.
        """
        words = {"{shots}": str(shots)}
        if auxiliary is not None:
            words |= {"{auxiliary}": auxiliary.dataset, "{category}": auxiliary.held_out}
            if "{category}" in self.pattern and not auxiliary.held_out:
                raise ValueError(
                    f"{self.method}: {{category}} in a checkpoint's path needs "
                    f"`auxiliary: leave-one-out` beside the method"
                )
        text = self.pattern
        for word, value in words.items():
            text = text.replace(word, value)
        path = Path(text).expanduser().absolute()
        if not path.is_file():
            raise FileNotFoundError(f"{self.method}: no checkpoint at {path}")
        return path

"""Any dataset laid out like MVTec AD, with names of your own."""

from __future__ import annotations

from pathlib import Path

from datasets._listed import Level, Partition, folders
from datasets._tree import Tree


class Folder(Tree):
    """A tree of ``<category>/train/good``, ``test/<good|defect>`` and ``ground_truth/<defect>``.

    Every folder of the root that has the train folder is a category. A root that has it directly
    is one category, named after the root. Masks are optional, image by image.

    Parameters
    ----------
    root : str or Path
        Folder of the categories, or of the only one.
    train, test, masks : str
        Folders of a category: its train normals, its queries by kind, their masks by kind.
    normal : str
        The folder of ``test`` that holds normal images; each of the others is a kind of defect.
    mask : str
        Stem of a mask's file; ``{stem}`` stands for the image's. The extension may differ.
    threshold : int
        A mask marks what is above it: 127 where masks were saved as JPEG or have soft edges.
    """

    named = True
    levels = 0  # any tree would do, so none is looked for

    def __init__(
        self,
        root: str | Path,
        train: str = "train/good",
        test: str = "test",
        normal: str = "good",
        masks: str = "ground_truth",
        mask: str = "{stem}_mask",
        threshold: Level = 0,
    ) -> None:
        super().__init__(root, threshold)
        if "{stem}" not in mask:
            raise ValueError(f"The mask parameter of Folder must contain '{{stem}}'. Got {mask!r}.")
        self.names = {"train": train, "test": test, "normal": normal, "masks": masks, "mask": mask}
        self.layout = f"{train} and {test}, or folders that have them"

    def _recognises(self, folder: Path) -> bool:
        places = [folder, *(folder / name for name in folders(folder))]
        return any((each / self.names["train"]).is_dir() for each in places)

    @property
    def _single(self) -> bool:
        return (self.base / self.names["train"]).is_dir()

    def categories(self) -> list[str]:
        """Folders that have the train folder; the root's own name if it has it itself."""
        if self._single:
            return [self.base.resolve().name]
        return [
            name for name in folders(self.base) if (self.base / name / self.names["train"]).is_dir()
        ]

    def _prefix(self, category: str) -> str:
        return "" if self._single else f"{category}/"

    def _partition(self, category: str) -> Partition:
        return self._tree(self._prefix(category))

"""Trees of MVTec AD's form: train/good, test/<good|defect>, ground_truth/<defect>."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import ClassVar

from datasets._listed import Masked, Partition, folders, images
from harness.interface import Sample


class Tree(Masked):
    """A dataset whose categories are such trees, by the names in ``names``."""

    names: Mapping[str, str] = {
        "train": "train/good",
        "test": "test",
        "normal": "good",
        "masks": "ground_truth",
        "mask": "{stem}_mask",
    }
    named: ClassVar[bool] = False  # whether ``names`` are parameters that a message may point at

    def _tree(self, prefix: str) -> Partition:
        """List the tree below ``prefix``, "" or a folder's name and "/".

        Raises
        ------
        FileNotFoundError
            A folder that is needed is not there, or no kind of defect is; says which ones are.
        ValueError
            There are no pictures in one.
        """
        train, test, normal = (self.names[name] for name in ("train", "test", "normal"))
        below = self.base / prefix
        for name, place in (("train", train), ("test", test)):
            if not (below / place).is_dir():
                raise self._missing(f"no folder {below / place}", name, below)
        normals = [Sample(f"{prefix}{train}/{name}") for name in images(below / train)]
        kinds = folders(below / test)
        if normal not in kinds:
            message = f"no folder {below / test / normal} of normal queries"
            raise self._missing(message, "normal", below / test)
        if kinds == [normal]:
            message = f"no folder of a defect beside {below / test / normal}"
            raise self._missing(message, "test", below / test)
        queries = [sample for kind in kinds for sample in self._kind(prefix, kind)]
        good = [sample for sample in queries if not sample.label]
        bad = [sample for sample in queries if sample.label]
        places = (train, normals), (f"{test}/{normal}", good), (f"{test} besides {normal}", bad)
        for place, samples in places:
            if not samples:
                raise ValueError(f"no pictures in {below / place}; expected some")
        return normals, queries

    def _missing(self, message: str, parameter: str, where: Path) -> FileNotFoundError:
        listed = ", ".join(folders(where)) if where.is_dir() else ""
        hint = f"; the parameter {parameter} names another" if self.named else ""
        return FileNotFoundError(f"{message}; {where} has {listed or 'no folders'}{hint}")

    def _kind(self, prefix: str, kind: str) -> list[Sample]:
        """Queries of a kind, with those masks that there are."""
        place = f"{prefix}{self.names['test']}/{kind}"
        if kind == self.names["normal"]:
            return [Sample(f"{place}/{name}") for name in images(self.base / place)]
        masks = self._masks(prefix, kind)
        drawn = f"{prefix}{self.names['masks']}/{kind}"
        samples = []
        for name in images(self.base / place):
            mask = masks.get(self.names["mask"].format(stem=Path(name).stem))
            samples.append(Sample(f"{place}/{name}", 1, mask and f"{drawn}/{mask}", kind))
        return samples

    def _masks(self, prefix: str, kind: str) -> dict[str, str]:
        """Mask files of a kind of defect, by their stems."""
        drawn = self.base / f"{prefix}{self.names['masks']}/{kind}"
        return {Path(name).stem: name for name in images(drawn)} if drawn.is_dir() else {}

    def _prefix(self, category: str) -> str:
        """Where a category's tree is below the base."""
        return f"{category}/"

    def remarks(self, category: str) -> list[str]:
        """Besides files left out: pictures beside the folders, empty ones, masks of nothing."""
        lines = super().remarks(category)
        prefix, test = self._prefix(category), self.names["test"]
        _, queries = self._listed(category)
        beside = images(self.base / prefix / test)
        if beside:
            lines.append(f"not read: {len(beside)} pictures beside the folders of {test}")
        read = {sample.defect for sample in queries}
        empty = [k for k in folders(self.base / prefix / test) if k not in read | {self._normal}]
        if empty:
            lines.append(f"no pictures in {', '.join(f'{test}/{kind}' for kind in empty)}")
        used = {sample.mask for sample in queries}
        drawn = self.base / prefix / self.names["masks"]
        kinds = folders(drawn) if drawn.is_dir() else []
        masks = [
            f"{prefix}{self.names['masks']}/{kind}/{name}"
            for kind in kinds
            for name in self._masks(prefix, kind).values()
        ]
        idle = [mask for mask in masks if mask not in used]
        if idle:
            lines.append(f"{len(idle)} of {len(masks)} masks belong to no image ({idle[0]})")
        bare = [s.image for s in queries if s.label and s.mask is None]
        if bare and masks:
            lines.append(f"{len(bare)} anomalous images have no mask ({bare[0]})")
        if bare and not masks and not self.named:
            lines.append(f"no masks below {prefix}{self.names['masks']}: pixel metrics stay empty")
        unread = self._unread(prefix)
        if unread:
            lines.append(f"nothing reads {', '.join(unread)}")
        return lines

    def _unread(self, prefix: str) -> list[str]:
        """Folders of a category, and beside its train normals, that are none of the tree's."""
        places = [PurePosixPath(self.names[name]) for name in ("train", "test", "masks")]
        above = {PurePosixPath("."), places[0].parent}
        known = {parent for place in places for parent in (place, *place.parents)}
        beside = [p / name for p in sorted(above) for name in folders(self.base / prefix / p)]
        return [f"{prefix}{place}" for place in beside if place not in known]

    @property
    def _normal(self) -> str:
        return self.names["normal"]

    def _other_folders(self) -> list[str]:
        """Folders of the base that are no category."""
        known = set(self.categories())
        return [name for name in folders(self.base) if name not in known]

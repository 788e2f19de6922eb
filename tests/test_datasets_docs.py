"""The page on datasets says what the adapters say, and its example works."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture

from harness.data.audit import audit
from harness.interface import Dataset

PAGE = (Path(__file__).parents[1] / "docs/datasets.md").read_text(encoding="utf-8")
ROWS = {cells[1].split("`")[1]: cells for line in PAGE.splitlines() if line.startswith("| `")
        and "use:" not in line
    and len(cells := [cell.strip() for cell in line.split("|")]) == 10}  # fmt: skip


def adapter(name: str) -> type[Dataset]:
    module = importlib.import_module(f"datasets.{name}")
    (classes,) = (
        thing
        for thing in vars(module).values()
        if isinstance(thing, type)
        and issubclass(thing, Dataset)
        and thing.__module__ == module.__name__
    )
    return classes


@pytest.mark.parametrize("name", sorted(set(ROWS) - {"folder"}))
def test_table_says_what_the_adapter_says(name: str) -> None:
    cls = adapter(name)
    _, _, domain, categories, counts, _, licence, folder, *_ = ROWS[name]
    assert domain == cls.domain
    assert int(categories) == len(cls.counts)
    totals = np.sum(list(cls.counts.values()), axis=0)
    assert [int(number.replace(",", "")) for number in counts.split(" / ")] == totals.tolist()
    assert licence == cls.licence
    names = re.findall("`(.+?)`", folder)
    assert names
    assert {each.lower() for each in names} <= {each.lower() for each in cls.folders}
    assert cls.homepage in PAGE


def test_every_adapter_that_reads_files_is_in_the_table() -> None:
    folder = Path(__file__).parents[1] / "datasets"
    names = {path.stem for path in folder.glob("[!_]*.py")} - {"surfaces"}
    assert names == set(ROWS)


def test_example_works(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.+?)```", PAGE, re.DOTALL)
    names: dict[str, type[Dataset]] = {}
    exec(compile(code, "docs/datasets.md", "exec"), names)
    for gear in range(21):
        for kind in ("ok", *(["dent"] if gear % 7 == 0 else [])):
            pixels = np.random.default_rng(gear).integers(0, 256, (20, 20), dtype=np.uint8)
            Picture.fromarray(pixels).save(tmp_path / f"{gear}_1_{kind}.png")
    gears = names["Gears"](root=tmp_path)  # type: ignore[call-arg]
    (category,) = audit(gears, "gears").categories
    assert category.counts == (18, 3, 3)
    assert category.defects == {"dent": 3}

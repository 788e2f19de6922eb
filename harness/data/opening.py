"""A dataset's adapter, made for the folder that holds its files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness import config, plugins
from harness.interface import Dataset
from harness.parameters import parameters


def open_dataset(use: str, params: Mapping[str, Any], data_root: str | None) -> Dataset:
    """Make a dataset adapter; its root, if it takes one, is looked for under the data root.

    Raises
    ------
    ValueError, FileNotFoundError
        With one line that says what was looked for.
    """
    cls = plugins.find("dataset", use)
    known = parameters(cls)
    given = dict(params)
    if "root" in known:
        wanted = given.get("root")
        base = Path(data_root or ".")
        needed = known["root"].default is not None  # its files come with no package
        if wanted is not None:
            given["root"] = str(base / str(wanted))
        elif data_root is not None:
            if not base.is_dir():
                raise FileNotFoundError(f"data root {data_root}: no such folder")
            folders = {n.lower() for n in (*cls.folders, use)}
            found = sorted(p for p in base.iterdir() if p.is_dir() and p.name.lower() in folders)
            if found or needed:
                given["root"] = str(found[0] if found else base)
        elif needed:
            names = " or ".join(cls.folders) or use
            message = f"dataset {use!r} needs --data-root DIR, the folder that holds {names}"
            raise FileNotFoundError(message)
        if "root" in given and not Path(given["root"]).is_dir():
            raise FileNotFoundError(f"dataset {use!r}: no such folder: {given['root']}")
    dataset: Dataset = config.build("dataset", use, given)
    return dataset

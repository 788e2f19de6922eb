"""A dataset's adapter, made for the folder that holds its files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness import config, plugins
from harness.config.parameters import parameters
from harness.interface import Dataset


def open_dataset(use: str, params: Mapping[str, Any], data_root: str | None) -> Dataset:
    """Make a dataset adapter; its root, if it takes one, is looked for under the data root.

    Raises
    ------
    ValueError, FileNotFoundError
        With one line that says what was looked for.
    """
    cls = plugins.find("dataset", use)
    known = parameters(cls)
    arguments = dict(params)
    if "root" in known:
        root = arguments.get("root")
        base = Path(data_root or ".")
        needed = known["root"].default is not None  # its files come with no package
        if root is not None:
            arguments["root"] = str(base / str(root))
        elif data_root is not None:
            if not base.is_dir():
                raise FileNotFoundError(f"data root {data_root}: no such folder")
            folders = {n.lower() for n in (*cls.folders, use)}
            matching = sorted(p for p in base.iterdir() if p.is_dir() and p.name.lower() in folders)
            if matching or needed:
                arguments["root"] = str(matching[0] if matching else base)
        elif needed:
            names = " or ".join(cls.folders) or use
            message = f"dataset {use!r} needs --data-root DIR, the folder that holds {names}"
            raise FileNotFoundError(message)
        if "root" in arguments and not Path(arguments["root"]).is_dir():
            raise FileNotFoundError(f"dataset {use!r}: no such folder: {arguments['root']}")
    dataset: Dataset = config.build("dataset", use, arguments)
    return dataset

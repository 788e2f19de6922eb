"""A Ray cluster of this process and its workers, for the tests of a module to share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.sweeps import Tally


@contextmanager
def cluster(folder: Path, cores: int = 4, **variables: str) -> Iterator[Tally]:
    """Start one; its processes keep the environment of now, so that one file has all calls.

    Parameters
    ----------
    folder : where the file of calls is
    cores : how many Ray is told there are
    variables : of the environment, besides
    """
    import ray

    before = os.environ.copy()
    tally = Tally(folder / "calls.txt")
    os.environ |= {"OMP_NUM_THREADS": "1", "TOYS_LOG": str(tally.path)} | variables
    #: "local": never a cluster that runs here already, or that RAY_ADDRESS names
    options: dict[str, Any] = {"address": "local", "num_cpus": cores, "include_dashboard": False}
    options |= {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        try:
            ray.init(**options)
        except Exception:  # on a busy machine it may not be up within Ray's thirty seconds
            ray.shutdown()
            ray.init(**options)
        yield tally
    finally:
        ray.shutdown()
        os.environ.clear()
        os.environ.update(before)


def address() -> str:
    """Where others find it."""
    import ray

    return str(ray.get_runtime_context().gcs_address)


def published(folder: Path) -> dict[str, bytes]:
    """What a sweep says of its cells: tables and predictions, to the byte."""
    tables = [folder / name for name in ("results.csv", "summary.csv")]
    files = [*tables, *sorted((folder / "predictions").rglob("*.csv"))]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}

"""Files from a hub, whose bytes are counted aloud while they come."""

from __future__ import annotations

import io
import threading
from pathlib import Path
from typing import Any

from harness.interface import progress

EVERY = 0.5  # seconds between two looks at how much has come


def fetch(repo: str, name: str, revision: str | None, answer: float) -> Path:
    """A file of a HuggingFace repository, downloaded into the local cache if it is not there.

    Parameters
    ----------
    repo : ``owner/name`` on the hub
    name : of the file
    revision : commit, tag or branch; None for the newest
    answer : seconds that the hub may take to say what the file is

    Raises
    ------
    OSError, ValueError
        What the hub's own errors derive from.
    """
    from huggingface_hub import hf_hub_download
    from tqdm.std import tqdm  # type: ignore[import-untyped]

    bars: list[Any] = []

    class Counted(tqdm):
        """A bar that draws nothing and is asked how far it is."""

        def __init__(self, *arguments: Any, **options: Any) -> None:
            options.pop("name", None)
            super().__init__(*arguments, **(options | {"disable": False, "file": io.StringIO()}))
            bars.append(self)

        def display(self, *_: Any, **__: Any) -> None:
            """Draw nothing."""

    results: list[str | BaseException] = []

    def download() -> None:
        try:
            options: dict[str, Any] = {"tqdm_class": Counted, "etag_timeout": answer}
            results.append(hf_hub_download(repo, name, revision=revision, **options))
        except BaseException as error:
            results.append(error)

    # Some downloads count in threads of their own; what is said is said from the task's.
    thread = threading.Thread(target=download, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(EVERY)
        if bars and bars[-1].total:
            progress(int(bars[-1].n), int(bars[-1].total), file=name)
    (result,) = results
    if isinstance(result, BaseException):
        raise result
    return Path(result)

"""A disk or bucket without room, told apart from every other error: it meets all tasks alike."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from pathlib import Path

from harness.errors import one_line

EXHAUSTED = (errno.ENOSPC, errno.EDQUOT)
#: What servers with S3's interface answer: MinIO, Ceph.
CODES = ("XMinioStorageFull", "QuotaExceeded", "InsufficientCapacity")
TIGHT = 1 << 20  # bytes free up to which a disk is taken for full
MB = 1e6


class Full(OSError):
    """There is no room. The message says where, and how much was needed."""


def exhausted(error: BaseException | None) -> bool:
    """Whether a disk, a quota or a bucket was full, in an error or what led to it."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in EXHAUSTED:
            return True
        response = getattr(error, "response", None)  # of botocore
        answer = response.get("Error") if isinstance(response, dict) else None
        if isinstance(answer, dict) and answer.get("Code") in CODES:
            return True
        error = error.__cause__ or error.__context__
    return False


def unwritten(root: str, name: str, size: int, error: OSError, local: bool) -> Full:
    """What to raise where a file of a store could not be written for want of room.

    Parameters
    ----------
    root : of the store, without secrets
    name, size : of the file, in bytes
    local : whether the root is a folder
    """
    text = os.strerror(error.errno) if error.errno in EXHAUSTED else one_line(error)
    left = f", {_free(Path(root)) / MB:,.1f} MB are free" if local else ""
    return Full(f"{root}: {text}: {name} takes {size / MB:,.1f} MB{left}")


def tight(storage: str, error: BaseException) -> str:
    """Which disk is full where a plug-in met such an error; empty where none is.

    It may have raised the error for reasons of its own, so the disks are asked.

    Parameters
    ----------
    storage : root of the store
    error : what was raised
    """
    if not exhausted(error):
        return ""
    for folder in (tempfile.gettempdir(), str(Path.home()), storage):
        if Path(folder).is_absolute() and (left := _free(Path(folder))) < TIGHT:
            return f"{folder}: {one_line(error)}: {left / MB:,.1f} MB are free"
    return ""


def _free(folder: Path) -> float:
    """Bytes left where a folder is, or will be; infinite where nobody knows."""
    for place in (folder, *folder.parents):
        try:
            return float(shutil.disk_usage(place).free)
        except FileNotFoundError:
            continue
        except OSError:
            break
    return float("inf")

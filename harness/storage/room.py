"""A disk or bucket without room, told apart from every other error: it meets all tasks alike."""

from __future__ import annotations

import errno
import os
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
    seen: set[int] = set()  # a chain may lead back to itself
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OSError) and error.errno in EXHAUSTED:
            return True
        response = getattr(error, "response", None)  # of botocore
        answer = response.get("Error") if isinstance(response, dict) else None
        if isinstance(answer, dict) and answer.get("Code") in CODES:
            return True
        error = error.__context__ if error.__cause__ is None else error.__cause__
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
    left = f", {_left(Path(root))}" if local else ""
    return Full(f"{root}: {text}: {name} takes {size / MB:,.1f} MB{left}")


def tight(storage: str, error: BaseException) -> str:
    """Which disk is full where a plug-in met such an error; empty where none is.

    It may have raised the error for reasons of its own, so the disks are asked; and the error may
    answer no question, not even of its class.

    Parameters
    ----------
    storage : root of the store
    error : what was raised
    """
    try:
        full = exhausted(error)
    except BaseException:
        return ""
    if not full:
        return ""
    for folder in (tempfile.gettempdir(), str(Path.home()), storage):
        if Path(folder).is_absolute() and _free(Path(folder)) < TIGHT:
            return f"{folder}: {one_line(error)}: {_left(Path(folder))}"
    return ""


def _free(folder: Path) -> float:
    """Bytes left where a folder is, or will be, none where no more files can be made; infinite
    where nobody knows.
    """
    status = _status(folder)
    if status is None:
        return float("inf")
    return 0.0 if _no_more_files(status) else float(status.f_bavail * status.f_frsize)


def _left(folder: Path) -> str:
    """The same in words."""
    status = _status(folder)
    if status is not None and _no_more_files(status):
        return "the disk takes no more files (inodes)"
    return f"{_free(folder) / MB:,.1f} MB are free"


def _no_more_files(status: os.statvfs_result) -> bool:
    return status.f_files > 0 and status.f_favail == 0  # some file systems count none


def _status(folder: Path) -> os.statvfs_result | None:
    for place in (folder, *folder.parents):
        try:
            return os.statvfs(place)
        except FileNotFoundError:
            continue
        except OSError:
            break
    return None

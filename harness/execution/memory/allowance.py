"""How much memory the caches of a worker may take on this machine."""

from __future__ import annotations

import os
from pathlib import Path

SHARE = 0.3  # of the machine's memory, for the caches of all its workers together
MOST = 4500  # megabytes that one worker makes use of
LEAST = 200  # megabytes
_MB = 1 << 20


def caches_mb(gigabytes: float | None, workers: int | None, threads: int) -> int:
    """Megabytes that all caches of one worker may hold together.

    Parameters
    ----------
    gigabytes : what the sweep says, or None for a share of what the machine has
    workers : how many there are in all, or None for one per ``threads`` cores
    threads : cores that each takes

    Notes
    -----
    Libraries take 0.7 GB in each worker, networks and tasks theirs: with the default share two
    workers on 8 GB leave more than 5 GB to these.
    """
    if gigabytes is not None:
        return max(1, round(gigabytes * 1000))
    possible = max(1, (os.cpu_count() or 1) // threads)
    beside = min(possible, workers or possible)
    return int(min(MOST, max(LEAST, SHARE * machine_bytes() / beside / _MB)))


def machine_bytes(root: Path = Path("/")) -> int:
    """Memory of this machine, or of the container it is in where that is less."""
    sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    try:
        own = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        own = []
    groups = [Path(line.split(":", 2)[2].lstrip("/")) for line in own if line.count(":") >= 2]
    for group in {Path(), *groups, *(parent for one in groups for parent in one.parents)}:
        for limit in (
            root / "sys/fs/cgroup" / group / "memory.max",
            root / "sys/fs/cgroup/memory" / group / "memory.limit_in_bytes",
        ):
            try:
                sizes.append(int(limit.read_text(encoding="utf-8")))
            except (OSError, ValueError):  # not there, or "max"
                continue
    return min(size for size in sizes if size > 0)

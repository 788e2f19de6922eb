"""Workers that were ended because their node ran short of memory: whose doing, and what then.

Whoever starts again at once is ended again at once. So both the worker and its task wait, longer
each time, while others go on with what memory there is. A task whose worker had most of what was
used is to blame and has its usual attempts; one that others left no room has many more. Linux
does not say who had how much, and ends who has most: that one is to blame.
"""

from __future__ import annotations

import re
from pathlib import Path

PAUSE, LONGEST = 5.0, 60.0  # seconds that a worker and its task wait, the first time and at most
TRIES = 8  # of a task that is not to blame: four minutes of waiting
BLAME = 0.5  # share of the memory in use from which on a worker is to blame

BY_LINUX = "was ended by the system, for the machine ran short of memory"

_NODE = re.compile(r"\(IP: ([^,\s]+),.*?was ([\d.]+)GB used / ([\d.]+)GB")
_WORKER = re.compile(r"Selected to kill: \(Actor\((\w+)\)[^\n]*?actual memory used=([\d.]+)GB")


def pause(times: int) -> float:
    """Seconds to wait after so many times in a row."""
    return float(min(LONGEST, PAUSE * 2 ** min(times - 1, 20)))


def ended_by_linux(root: Path = Path("/")) -> int:
    """How many processes the system has ended so since it was started; 0 where it does not say."""
    try:
        lines = (root / "proc/vmstat").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return 0
    counts = (line.split() for line in lines)
    return next((int(words[1]) for words in counts if words[0] == "oom_kill"), 0)


def described(message: str, actor: str) -> tuple[str, float]:
    """What Ray's memory monitor says of a worker it ended, in words that go on after "its worker";
    and the worker's share of the memory that was in use, 0..1.

    Parameters
    ----------
    message : of Ray's error
    actor : the worker's id, in hexadecimal digits
    """
    node = _NODE.search(message)
    if node is None:
        return "was ended, for its node ran short of memory", 0.0
    address, used, limit = node[1], float(node[2]), float(node[3])
    held = {name: float(size) for name, size in _WORKER.findall(message)}.get(actor)
    its = "" if held is None else f", {held:.1f} GB by it"
    text = f"was ended, for its node ran short of memory: {used:.1f} of {limit:.1f} GB used{its}"
    return f"{text} ({address})", (held or 0.0) / max(used, 1e-9)

"""Versions and machine: what a reader needs to judge a number."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

from harness import plugins

LIBRARIES = ("torch", "timm", "open_clip_torch", "diffusers", "ray", "mlflow", "numpy", "pillow")


def environment() -> dict[str, Any]:
    """Of the process that asks: python, system, processor, host, versions, and the commit of the
    checkout where it is one, with "-dirty" behind it where files differ from it.
    """
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    facts: dict[str, Any] = {
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": _processor(),
        "host": platform.node(),
        "versions": versions,
    }
    git = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
        cwd=plugins.HOME,
        capture_output=True,
        text=True,
        check=False,
    )
    if git.returncode == 0:
        facts["commit"] = git.stdout.strip()
    return facts


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(x.partition(":")[2].strip() for x in lines if x.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()

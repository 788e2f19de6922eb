"""The stored figures of every machine: kept in ``results.json``, told in ``results.md``."""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console

from benchmarks.figures import Figure, Figures, parsed, shown

HERE = Path(__file__).parent
WORSE = 0.15  # share by which a figure may get worse unsaid
PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "open_clip_torch",
    "diffusers",
    "ray",
    "mlflow",
    "numpy",
)
#: units of what no clock measures: a few units more are the machine's, not a loss
_SETTLED = 1e-9


def machine() -> dict[str, Any]:
    """What speed depends on here, and the name under which figures of such machines are kept."""
    flags = _cpuinfo("flags").split()
    facts = {
        "processor": _cpuinfo("model name") or platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30),
        "vector units": " ".join(
            name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in flags
        ),
        "gpu": _gpu(),
        "system": platform.system(),
    }
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:6]
    parts = [
        facts["processor"],
        f"{facts['cores']} cores",
        f"{facts['memory_gb']} GB",
        facts["gpu"],
    ]
    name = f"{', '.join(filter(None, parts))} ({digest})"
    return {"name": name, **facts}


def _gpu() -> str:
    """Name of the first GPU, "" where there is none."""
    if shutil.which("nvidia-smi") is None:
        return ""
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    return ended.stdout.splitlines()[0].strip() if ended.returncode == 0 and ended.stdout else ""


def _cpuinfo(field: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(field)), "")


def conditions() -> dict[str, Any]:
    """When, with what versions, and how busy the machine was."""
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {
        "taken": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M"),
        "python": platform.python_version(),
        "versions": versions,
        "load": round(os.getloadavg()[0], 2),
    }


def stored(folder: Path = HERE) -> dict[str, Any]:
    """All machines' figures by the machine's name; empty where there are none yet."""
    path = folder / "results.json"
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def worse(old: Figure, new: Figure) -> float:
    """By what share the new figure is worse, 0 where it is not."""
    if old.better == "neither" or old.unit != new.unit:
        return 0.0
    if old.better == "lower":
        return max(0.0, (new.value - old.value) / max(abs(old.value), _SETTLED))
    return max(0.0, (old.value - new.value) / max(abs(new.value), _SETTLED))


def regressions(old: Mapping[str, Figure], new: Mapping[str, Figure]) -> dict[str, float]:
    """Figures that got worse by more than ``WORSE``, and by what share.

    What differs by less than the spread of either measurement is no finding.
    """
    losses = {}
    for name, one in new.items():
        if name not in old:
            continue
        share = worse(old[name], one)
        apart = one.spread[0] > old[name].spread[1] or one.spread[1] < old[name].spread[0]
        if share > WORSE and apart:
            losses[name] = share
    return losses


def keep(
    groups: Mapping[str, Mapping[str, Figure]],
    command: str,
    before: Mapping[str, Any],
    folder: Path = HERE,
) -> dict[str, float]:
    """Put groups of figures beside those stored, and write both files.

    Parameters
    ----------
    groups : the figures of each script, by its name
    command : that measured them
    before : ``conditions()`` of before the first run
    folder : of the results

    Returns
    -------
    dict of str to float
        ``regressions`` against what was stored of this machine.
    """
    everything, own_machine = stored(folder), machine()
    own = everything.setdefault(own_machine["name"], {"machine": own_machine, "groups": {}})
    lost: dict[str, float] = {}
    for group, figures in groups.items():
        old = own["groups"].get(group, {})
        lost |= regressions(parsed(old.get("figures", {})), figures)
        own["groups"][group] = {
            **before,
            "load after": round(os.getloadavg()[0], 2),
            "command": command,
            "figures": {name: asdict(one) for name, one in figures.items()},
        }
    text = json.dumps(everything, indent=1, ensure_ascii=False) + "\n"
    (folder / "results.json").write_text(text, encoding="utf-8")
    (folder / "results.md").write_text(page(everything), encoding="utf-8")
    return lost


def page(everything: Mapping[str, Any]) -> str:
    """All that is stored, as Markdown."""
    lines = [
        "# Measured",
        "",
        "Written by `make bench` and `make bench-peer`; [README.md](README.md) says what each "
        "script claims. Medians, with the smallest and the largest of the repeats. A load above 1 "
        "before the start says that the machine had something else to do.",
    ]
    for name, own in everything.items():
        lines += ["", f"## {name}", ""]
        facts = own["machine"]
        lines.append(f"{facts['system']}, {facts['vector units'] or 'no vector units known'}.")
        for group, record in own["groups"].items():
            versions = ", ".join(f"{k} {v}" for k, v in record["versions"].items())
            lines += [
                "",
                f"### {group}",
                "",
                f"`{record['command']}`, {record['taken']} UTC, load {record['load']} before and "
                f"{record['load after']} after; Python {record['python']}, {versions}.",
                "",
                "| figure | median | smallest to largest | |",
                "|---|---:|---|---|",
            ]
            for figure, one in parsed(record["figures"]).items():
                low, high = (f"{end:.4g}" for end in one.spread)
                spread = "" if low == high else f"{low} to {high}"
                lines.append(f"| {figure} | {one.value:.4g} {one.unit} | {spread} | {one.note} |")
    if not any("gpu" in own["groups"] for own in everything.values()):
        command = "`python -m benchmarks.suite --only gpu`"
        lines += ["", "## GPU", "", f"Not measured: no GPU was at hand. {command} measures it."]
    return "\n".join(lines) + "\n"


def tell(groups: Mapping[str, Figures], lost: Mapping[str, float], console: Console) -> None:
    """Print figures; what got worse is red, and says so in words."""
    for group, figures in groups.items():
        console.print(f"\n{group}", style="bold", highlight=False)
        width = max(map(len, figures), default=0)
        for name, one in figures.items():
            line = f"  {name:{width}}  {shown(one)}"
            if name in lost:
                line += f"  WORSE by {100 * lost[name]:.0f} % than what is stored of this machine"
            console.print(
                line, style="red" if name in lost else None, highlight=False, markup=False
            )
    if lost:
        text = (
            f"\n{len(lost)} figures are worse by more than {100 * WORSE:.0f} %: {', '.join(lost)}"
        )
        console.print(text, style="bold red", highlight=False, markup=False)

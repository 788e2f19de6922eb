"""The same cells through anomalib and through the harness, in turns, on one machine.

    python -m benchmarks.peer --environment .cache/anomalib [--quick]

Same pictures, weights (EfficientNet-Lite0), channels, shots, seeds, sizes, queries; each side may
use all cores. The peer's cells run in one process that imports once, in its kindest settings
(``benchmarks/peer_worker.py``); between them runs the whole sweep through the harness, cold. The
peer is measured as it comes, and with glibc's allocator set as the harness sets it for its own
workers, which is no part of anomalib but a fair part of the difference.

AUROCs of both sides are compared where the recipe is the same: PaDiM, and PatchCore without a
coreset, whose draw is each side's own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import roc_auc_score

from benchmarks.figures import Figures, figure, ratio, tell
from benchmarks.sweep import SWEEP, WORKERS, run
from harness.execution.executors.executor import MALLOC
from methods._encoders import cnn
from methods._encoders.clip import build
from methods._encoders.towers import VisionTower
from methods.padim import drawn_channels

MODEL, SIDE = "tf_efficientnet_lite0", 256
WINCLIP = "ViT-B-16-plus-240"
#: modules of timm that the harness's levels 1 to 3 are
LAYERS = ["blocks.1", "blocks.2", "blocks.4"]
FULL_BANK = {"use": "patchcore", "label": "patchcore-full", "params": {"neighbours": 9}}
HERE = Path(__file__).parent


class Peer:
    """The peer's process, answering one cell after another."""

    def __init__(self, environment: Path, tuned: bool, errors: IO[str]) -> None:
        threads = os.cpu_count() or 1
        python = environment / "bin" / "python"
        began = time.perf_counter()
        self._errors = errors
        self._child = subprocess.Popen(
            [str(python), str(HERE / "peer_worker.py"), str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=os.environ
            | {"OMP_NUM_THREADS": str(threads), "PYTHONWARNINGS": "ignore"}
            | (MALLOC if tuned else {}),
        )
        self._answer("READY ")
        self.imports = time.perf_counter() - began

    def cell(self, cell: Mapping[str, Any]) -> dict[str, Any]:
        """Seconds and scores of one cell."""
        assert self._child.stdin is not None
        self._child.stdin.write(json.dumps(dict(cell)) + "\n")
        self._child.stdin.flush()
        return self._answer("CELL ")

    def _answer(self, mark: str) -> dict[str, Any]:
        assert self._child.stdout is not None
        for line in self._child.stdout:
            if line.startswith(mark):
                return dict(json.loads(line[len(mark) :]))
        status = self._child.wait()
        self._errors.seek(0)
        tail = "".join(self._errors.readlines()[-10:])
        raise RuntimeError(f"anomalib's process ended with status {status}:\n{tail}")

    def close(self) -> None:
        """End it."""
        assert self._child.stdin is not None
        self._child.stdin.close()
        self._child.wait(60)


@contextmanager
def peers(environment: Path, both: bool) -> Iterator[dict[str, Peer]]:
    """The peer as it comes, and with the allocator set."""
    opened: dict[str, Peer] = {}
    with ExitStack() as stack:
        for name in ("as it comes", "allocator set")[: 1 + both]:
            errors = stack.enter_context(tempfile.TemporaryFile("w+"))
            opened[name] = Peer(environment, name == "allocator set", errors)
            stack.callback(opened[name].close)
        yield opened


def weights(folder: Path) -> Path:
    """The backbone's weights under timm's names, in a file that either side reads."""
    path = folder / "weights.pt"
    torch.save(cnn.build(MODEL, "imagenet")[0].state_dict(), path)
    return path


def cells(
    storage: Path, name: str, methods: Sequence[Mapping[str, Any]], file: Path
) -> list[dict[str, Any]]:
    """Every finished cell of a sweep as the peer needs it, with the harness's AUROC."""
    from datasets.elpv import ELPV

    root = ELPV().base
    folder = storage / name
    support = json.loads((folder / "support.json").read_text())["elpv"]["elpv"]
    results = pd.read_csv(folder / "results.csv")
    channels = drawn_channels([24, 40, 112], 100, 1024)
    starts = (0, 24, 64)
    drawn = [start + one for start, level in zip(starts, channels, strict=True) for one in level]
    finished = []
    row: Any
    for row in results.itertuples():
        entry = next(m for m in methods if m.get("label", m["use"]) == row.method)
        params = entry["params"]
        scores = f"predictions/{row.method}/elpv/elpv/k{row.shots}_s{row.seed}.csv"
        queries = pd.read_csv(folder / scores)
        padim = entry["use"] == "padim"
        finished.append(
            {
                "method": entry["use"],
                "label": row.method,
                "shots": int(row.shots),
                "seed": int(row.seed),
                "backbone": MODEL,
                "layers": LAYERS if padim else LAYERS[1:],
                "weights": str(file),
                "side": SIDE,
                "support": [str(root / one) for one in support[str(row.seed)][: row.shots]],
                "queries": [str(root / one) for one in queries["query"]],
                "labels": queries["label"].tolist(),
                "channels": drawn,
                "coreset": params.get("coreset", 1.0),
                "neighbours": params.get("neighbours", 1),
                "auroc": float(row.image_auroc),
            }
        )
    return sorted(finished, key=lambda one: (one["shots"], one["method"], one["seed"]))


def auroc(cell: Mapping[str, Any], answer: Mapping[str, Any]) -> float:
    """Of the peer's raw scores."""
    return float(roc_auc_score(cell["labels"], answer["scores"]))


def measure(environment: Path, quick: bool) -> Figures:
    """Both sides in turns; quick: two of the peer's cells of each method stand for all."""
    table: Figures = {}
    with tempfile.TemporaryDirectory() as scratch, peers(environment, True) as opened:
        folder = Path(scratch)
        file = weights(folder)
        ours = [run(SWEEP, folder).wall]
        asked = cells(folder, "benchmark", SWEEP["methods"], file)
        if quick:  # the fewest and the most shots of one seed
            asked = [c for c in asked if c["seed"] == 0 and c["shots"] in (2, 8)]
        every = max(1, len(asked) // (2 if quick else 4))
        seconds: dict[str, list[tuple[dict[str, Any], float]]] = {name: [] for name in opened}
        apart: list[float] = []
        for number, cell in enumerate(asked):
            for name, peer in opened.items():
                answer = peer.cell(cell)
                seconds[name].append((cell, answer["seconds"]))
            if cell["method"] == "padim":
                apart.append(abs(auroc(cell, answer) - cell["auroc"]))
            if (number + 1) % every == 0:
                with tempfile.TemporaryDirectory() as cold:
                    ours.append(run(SWEEP, cold).wall)
        full = SWEEP | {"name": "full", "methods": [FULL_BANK], "shots": [2], "seeds": [0]}
        run(full, folder)
        for cell in cells(folder, "full", [FULL_BANK], file):
            banked = abs(auroc(cell, opened["allocator set"].cell(cell)) - cell["auroc"])
        table["12 cells through the harness"] = figure(ours, "s", note=f"{WORKERS} workers, cold")
        for name, peer in opened.items():
            whole = peer.imports + total(seconds[name])
            note = "all 12 cells" if not quick else f"of {len(asked)} cells, by shots and method"
            table[f"12 cells through anomalib, {name}"] = figure(whole, "s", "neither", note)
            table[f"anomalib / harness, 12 cells, {name}"] = figure(
                [whole / one for one in ours], "times", "higher"
            )
        table["AUROC apart from anomalib's, PaDiM"] = figure(
            apart, "", note="largest is the end of the spread"
        )
        table["AUROC apart from anomalib's, PatchCore with the whole bank"] = figure(banked, "")
        table |= windows(opened["as it comes"], folder, 1 if quick else 3)
        many = sixty(folder)
        cell_mean = {name: total(seconds[name]) / 12 for name in opened}
        table["60 cells through the harness"] = figure(many, "s", note="5 seeds, 3 shots, 2 x 2")
        for name, peer in opened.items():
            table[f"anomalib / harness, 60 cells, {name}"] = figure(
                (peer.imports + 60 * cell_mean[name]) / many,
                "times",
                "higher",
                "anomalib's 60 by its mean cell: it has nothing in common between cells",
            )
    return table


def total(seconds: Sequence[tuple[Mapping[str, Any], float]]) -> float:
    """Seconds of 12 cells: where not all ran, 2 seeds each, 4 shots between 2 and 8."""
    if len(seconds) == 12:
        return sum(spent for _, spent in seconds)
    by_cell = {(cell["method"], cell["shots"]): spent for cell, spent in seconds}
    whole = 0.0
    for method in ("padim", "patchcore"):
        few, many = by_cell[method, 2], by_cell[method, 8]
        whole += 2 * float(few + many + np.interp(4, [2, 8], [few, many]))
    return whole


def windows(peer: Peer, folder: Path, repeats: int) -> Figures:
    """Encoding a picture with WinCLIP's windows on both sides, in turns, one thread each."""
    network = build(WINCLIP, "random:0", False)
    torch.save(network.state_dict(), folder / "clip.pt")
    pixels = torch.randn(1, 3, 240, 240, generator=torch.Generator().manual_seed(0))
    np.save(folder / "pixels.npy", pixels.numpy())
    asked = {
        "method": "winclip",
        "weights": str(folder / "clip.pt"),
        "pixels": str(folder / "pixels.npy"),
        "into": str(folder / "windows.npz"),
        "repeats": 1,
    }
    towers = {
        "": VisionTower(network.visual),
        ", bf16": VisionTower(network.visual, torch.bfloat16),
    }
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    theirs: list[float] = []
    ours: dict[str, list[float]] = {name: [] for name in towers}
    for _ in range(1 + repeats):  # the first is slower on both sides
        theirs += peer.cell(asked)["seconds"]
        for name, tower in towers.items():
            with torch.no_grad():
                began = time.process_time()
                record = tower(pixels, (12,), (2, 3), 4096)
                ours[name].append(time.process_time() - began)
            if not name:
                windows = record.windows
    torch.set_num_threads(threads)
    with np.load(folder / "windows.npz") as saved:
        apart = max(
            float(np.abs(saved[key] - windows[side][0].flatten(0, 1).numpy()).max())
            for key, side in zip(saved.files, (2, 3), strict=True)
        )
    theirs, ours = theirs[1:], {name: seconds[1:] for name, seconds in ours.items()}
    note = "ViT-B/16+ at 240 px, random weights, one thread"
    return {
        "WinCLIP picture with windows, anomalib": figure(theirs, "s", "neither", note),
        **{f"WinCLIP picture with windows{name}": figure(ours[name], "s") for name in towers},
        **{
            f"anomalib / harness, WinCLIP picture{name}": ratio(theirs, ours[name])
            for name in towers
        },
        "WinCLIP windows apart from anomalib's": figure(apart, "", "neither"),
    }


def sixty(folder: Path) -> float:
    """Seconds of 60 cells through the harness: 5 seeds, 3 shots, 2 methods, 2 categories.

    The categories are the mono- and the polycrystalline cells of ELPV, 200 queries each.
    """
    from datasets.elpv import ELPV

    base, root = ELPV().base, folder / "kinds"
    for line in (base / "labels.csv").read_text(encoding="utf-8").splitlines():
        source, probability, kind = line.split()
        if float(probability) in (0, 1):
            place = root / kind / ("test/defective" if float(probability) else "normal")
            place.mkdir(parents=True, exist_ok=True)
            (place / Path(source).name).symlink_to(base / source)
    for kind in ("mono", "poly"):
        normal = sorted((root / kind / "normal").iterdir())
        for part, paths in (("train/good", normal[:-100]), ("test/good", normal[-100:])):
            (root / kind / part).mkdir(parents=True)
            for path in paths:
                path.rename(root / kind / part / path.name)
    data = {
        "use": "folder",
        "params": {"root": str(root)},
        "queries": {"normal": 100, "anomalous": 100},
    }
    sweep = SWEEP | {"name": "sixty", "datasets": [data], "seeds": list(range(5))}
    with tempfile.TemporaryDirectory() as cold:
        return run(sweep, cold).wall


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--environment", type=Path, required=True, help="a venv with anomalib")
    parser.add_argument("--quick", action="store_true", help="four cells of the peer only")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    arguments = parser.parse_args()
    table = measure(arguments.environment, arguments.quick)
    tell(table, arguments.json)


if __name__ == "__main__":
    main()

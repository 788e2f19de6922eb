"""Differences to public implementations, with the same random weights and images on both sides.

    python -m benchmarks.conformance --environment .cache/anomalib --regad CHECKOUT

prints, by method and part, the largest difference over the largest value of the other side, and
ends with status 1 if one is above ``--tolerance``. Random weights make random scores: equal ones
say that the arithmetic is the same, which is all that is asked here. What is not given is said to
be not compared. ``docs/conformance.md`` holds what was measured.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import timm
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from harness.errors import InputError, Problem
from harness.execution.memory.cache import FeatureMemory
from harness.interface import Image, Method, Prediction, Queries, Support
from methods.padim import Padim, drawn_channels
from methods.patchcore import Patchcore
from methods.regad import Regad
from methods.winclip import Winclip

CNN, CLIP = "resnet18", "ViT-B-16-plus-240"
SHOTS = (0, 1, 2, 4)  # of WinCLIP
#: channels of layer1 to layer3 of ResNet18, and how many of them PaDiM draws
DIMS, DRAWN = (64, 128, 256), 100
EDGE = 20  # pixels of a blurred map that its border reaches into
HERE = Path(__file__).parent
#: a CLIP of the same kind as ViT-B/16+, for ``--small``
SMALL = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 96, "layers": 3, "width": 64, "head_width": 32, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
#: a file that each checkout has, and whose it is
CHECKOUTS = {"regad": ("models/stn.py", "github.com/MediaBrain-SJTU/RegAD")}


@dataclass(frozen=True)
class Line:
    """Of one part of a method: the largest deviation over the largest value of the other side."""

    method: str
    part: str
    relative: float | None  # None: not compared
    against: str  # versions and commit, or why it was not compared


def compared(
    ours: Mapping[str, NDArray[Any]], theirs: Mapping[str, NDArray[Any]], against: str
) -> list[Line]:
    """How far results are from another side's of the same names, ``method/part``.

    What only one side has, or what the other side refused, is a line without a figure.

    Raises
    ------
    ValueError
        A result has other sizes on the other side, or values that are not finite.
    """
    lines = []
    refused = {n.split("/", 1)[1]: str(v) for n, v in theirs.items() if n.startswith("refused/")}
    for name, values in ours.items():
        method, _, part = name.partition("/")
        if name not in theirs:
            reason = refused.get(method, "the other side has no such result")
            lines.append(Line(method, part, None, reason))
            continue
        other = np.asarray(theirs[name], np.float64)
        if other.size != values.size:
            raise ValueError(f"{name}: {values.shape} here, {other.shape} on the other side")
        gaps = np.abs(np.asarray(values, np.float64) - other.reshape(values.shape))
        if not (np.isfinite(gaps).all() and other.any()):
            raise ValueError(f"{name}: not finite, or nothing but zeros on the other side")
        lines.append(Line(method, part, float(gaps.max() / np.abs(other).max()), against))
    return lines


def pictures(count: int, side: int, random: np.random.Generator) -> NDArray[np.uint8]:
    """Smooth random images, uint8 (count, side, side, 3)."""
    coarse = torch.from_numpy(random.random((count, 3, 9, 9), dtype=np.float32))
    smooth = torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic").clamp(0, 1)
    noise = torch.from_numpy(random.random(smooth.shape, dtype=np.float32))
    mixed = (0.9 * smooth + 0.1 * noise) * 255
    return np.ascontiguousarray(mixed.byte().permute(0, 2, 3, 1).numpy())


def prepare(folder: Path, small: bool) -> dict[str, NDArray[Any]]:
    """Leave inputs and random weights for the other sides; returns the inputs."""
    random = np.random.default_rng(0)
    torch.manual_seed(0)
    network = timm.create_model(CNN, pretrained=False)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # statistics that do something
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    save_file(network.state_dict(), folder / "cnn.safetensors")
    described: dict[str, Any] = SMALL if small else dict(open_clip.get_model_config(CLIP))
    (folder / "clip.json").write_text(json.dumps(described))
    clip = open_clip.CLIP(**described)
    weights = {name: tensor.contiguous() for name, tensor in clip.state_dict().items()}
    save_file(weights, folder / "clip.safetensors")
    side = described["vision_cfg"]["image_size"]
    starts = np.cumsum((0, *DIMS[:-1]))
    drawn = drawn_channels(DIMS, DRAWN, 1024)
    channels = [start + c for start, level in zip(starts, drawn, strict=True) for c in level]
    inputs: dict[str, NDArray[Any]] = {
        "normal": pictures(6, 256, random),
        "queries": pictures(3, 256, random),
        "clip_normal": pictures(4, side, random),
        "clip_queries": pictures(2, side, random),
        "regad_normal": pictures(2, 224, random),
        "regad_queries": pictures(2, 224, random),
        "channels": np.array(channels, dtype=np.int64),
    }
    np.savez(folder / "inputs.npz", **dict[str, Any](inputs))
    (folder / "settings.json").write_text(json.dumps({"threads": torch.get_num_threads()}))
    return inputs


def images(pixels: NDArray[np.uint8], stem: str) -> tuple[Image, ...]:
    """Images as methods see them."""
    return tuple(Image(f"{stem}-{i}", picture) for i, picture in enumerate(pixels))


def predicted(method: Method, normal: Sequence[Image], queries: Sequence[Image]) -> Prediction:
    """What a method says after it has seen the normal images."""
    method.fit(Support(tuple(normal), "metal nut"))
    return method.predict(Queries(tuple(queries)))


def of_anomalib(folder: Path, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Results of the methods here under the names of ``conformance_anomalib``."""
    memory, results = FeatureMemory(1 << 30), dict[str, NDArray[Any]]()
    cnn = {"model": CNN, "weights": str(folder / "cnn.safetensors")}
    clip = {"model": str(folder / "clip.json"), "weights": str(folder / "clip.safetensors")}
    padim = Padim(encoder=cnn, channels=DRAWN, ridge=0.01 + 1e-5)  # anomalib adds both
    patchcore = Patchcore(encoder=cnn, neighbours=9, sigma=0.0, size=256)
    winclip = Winclip(
        encoder=clip,
        size=inputs["clip_queries"].shape[1],
        templates="lineage",
        normalize=False,
        temperature=0.07,
        map="mean",
    )
    for method in (padim, patchcore, winclip):
        method.setup("cpu", memory)
    normal, queries = images(inputs["normal"], "n"), images(inputs["queries"], "q")
    maps = predicted(padim, normal, queries).maps
    assert maps is not None
    results["padim/distances"] = padim._gaussians.distances(padim._embed(queries)).numpy()
    results[f"padim/maps, {EDGE} px inside"] = maps[:, EDGE:-EDGE, EDGE:-EDGE]
    results["patchcore/scores"] = predicted(patchcore, normal, queries).scores
    patches = patchcore._bank.centred(patchcore._embed(queries))
    results["patchcore/distances"] = patchcore._distances(patches).numpy()
    normal, queries = images(inputs["clip_normal"], "cn"), images(inputs["clip_queries"], "cq")
    for shots in SHOTS:
        prediction = predicted(winclip, normal[:shots], queries)
        assert prediction.maps is not None
        results[f"winclip {shots}/scores"] = prediction.scores
        results[f"winclip {shots}/maps"] = prediction.maps
    return results


def of_regad(folder: Path, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Results of RegAD here under the names of ``conformance_regad``, from its checkpoint."""
    method = Regad(checkpoint=str(folder / "regad.pt"), trained_on="visa")
    method.setup("cpu", FeatureMemory(1 << 30))
    normal = images(inputs["regad_normal"], "rn")
    prediction = predicted(method, normal, images(inputs["regad_queries"], "rq"))
    assert prediction.maps is not None
    seen = torch.from_numpy(inputs["regad_queries"]).permute(0, 3, 1, 2).float() / 255
    results = {"regad/last stage": method._network(seen).numpy()}
    for number, level in enumerate(method._network.levels(seen), 1):
        results[f"regad/stage {number} put back"] = level.permute(0, 3, 1, 2).numpy()
    return results | {"regad/maps": prediction.maps, "regad/scores": prediction.scores}


def commit(checkout: Path) -> str:
    """The commit of a checkout, and whether it was changed since."""
    git = ["git", "-C", str(checkout)]
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    root = subprocess.run(
        [*git, "rev-parse", "--show-toplevel"], capture_output=True, text=True, check=False
    )
    if head.returncode or Path(root.stdout.strip()).resolve() != checkout.resolve():
        return "no commit known"
    changes = subprocess.run(
        [*git, "status", "--porcelain"], capture_output=True, text=True, check=False
    )
    return head.stdout.strip() + (" with changes" if changes.stdout.strip() else "")


def against(
    python: Path,
    script: str,
    arguments: Sequence[Path],
    folder: Path,
    ours: Callable[[Path, Mapping[str, NDArray[Any]]], dict[str, NDArray[Any]]],
    inputs: Mapping[str, NDArray[Any]],
    named: str = "",
) -> list[Line]:
    """Have another side do its part in a process of its own, and compare.

    Raises
    ------
    RuntimeError
        The other side ended with an error, whose last lines it says.
    """
    command = [str(python), "-W", "ignore", str(HERE / f"conformance_{script}.py")]
    done = subprocess.run(
        [*command, *map(str, arguments), str(folder)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        tail = "\n".join(done.stderr.splitlines()[-8:])
        raise RuntimeError(f"{script}: the other side ended with {done.returncode}:\n{tail}")
    with np.load(folder / f"{script}.npz") as theirs:
        return compared(ours(folder, inputs), theirs, f"{named}{theirs['versions']}")


def problems(environment: Path | None, checkouts: Mapping[str, Path | None]) -> list[Problem]:
    """All that is wrong with what was given."""
    wrong = []
    if environment is not None and not (environment / "bin" / "python").exists():
        wrong.append(
            Problem("--environment", f"expected a virtual environment, {environment} has no python")
        )
    for name, path in checkouts.items():
        file, home = CHECKOUTS[name]
        if path is not None and not (path / file).is_file():
            wrong.append(
                Problem(f"--{name}", f"expected a checkout of {home}, {path} has no {file}")
            )
        elif path is not None and environment is None:
            wrong.append(Problem(f"--{name}", "needs --environment too, whose packages it uses"))
    return wrong


def lines(
    environment: Path | None, checkouts: Mapping[str, Path | None], small: bool
) -> Iterable[Line]:
    """Every comparison, one side after the other.

    Raises
    ------
    InputError
        Something given is not what it should be.
    """
    if wrong := problems(environment, checkouts):
        raise InputError(*wrong)
    absent = "not compared: no --{} was given".format
    with tempfile.TemporaryDirectory() as name, torch.no_grad():
        folder = Path(name)
        inputs = prepare(folder, small) if environment is not None else {}
        if environment is None:
            for method in ("padim", "patchcore", *(f"winclip {shots}" for shots in SHOTS)):
                yield Line(method, "all", None, absent("environment"))
        else:
            python = environment / "bin" / "python"
            yield from against(python, "anomalib", [], folder, of_anomalib, inputs)
        checkout = checkouts["regad"]
        if checkout is None or environment is None:
            yield Line("regad", "all", None, absent("regad"))
        else:
            named = f"RegAD {commit(checkout)}, "
            yield from against(
                environment / "bin" / "python",
                "regad",
                [checkout.resolve()],
                folder,
                of_regad,
                inputs,
                named,
            )
    yield Line("inctrl", "all", None, "not compared here: see tests/test_inctrl.py")


def table(rows: Iterable[Line]) -> str:
    """Markdown."""
    shown = ["| method | part | relative difference | against |", "|---|---|---|---|"]
    for row in rows:
        figure = "–" if row.relative is None else f"{row.relative:.1e}"
        shown.append(f"| {row.method} | {row.part} | {figure} | {row.against} |")
    return "\n".join(shown)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; the exit status: 0 close, 1 something is not, 2 bad input."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.conformance",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--environment", type=Path, help="a virtual environment with anomalib")
    parser.add_argument("--regad", type=Path, help=f"a checkout of {CHECKOUTS['regad'][1]}")
    parser.add_argument("--small", action="store_true", help="a small CLIP: seconds, not minutes")
    parser.add_argument("--tolerance", type=float, default=1e-4)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    try:
        rows = list(lines(options.environment, {"regad": options.regad}, options.small))
    except InputError as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)
        return 2
    print(f"here: torch {version('torch')}, timm {version('timm')}\n")
    print(table(rows))
    far = [row for row in rows if row.relative is not None and row.relative > options.tolerance]
    for row in far:
        print(f"{row.method}, {row.part}: above {options.tolerance:g}", file=sys.stderr)
    return 1 if far else 0


if __name__ == "__main__":
    sys.exit(main())

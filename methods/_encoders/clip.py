"""CLIP encoders of open_clip: patch tokens, image, window and text embeddings, in one record."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from PIL import Image as Picture

from harness.interface import Features, Image
from methods._encoders import pins
from methods._encoders import weights as _weights
from methods._encoders.encoding import Encoding
from methods._encoders.towers import TextTower, VisionTower

#: tokens of windows that go through the transformer at a time: fastest on a CPU, ample on a GPU
_TOKENS = {"cpu": 4096, "cuda": 131072}
#: images encoded at a time on a GPU; on a CPU it is one, so that no image's bits depend on others
_BATCH = 16
_PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
#: tags for which open_clip's table names the hub's copy of other weights
_MISNAMED = {("ViT-B-16-plus-240", "laion400m_e32")}


class ClipEncoder:
    """A frozen CLIP; level n is the residual stream after block n, from 1.

    Parameters
    ----------
    model : str
        A name that open_clip knows (``ViT-L-14-336``), or a .json file in open_clip's own format.
    weights : str
        A tag of open_clip for this model (``openai``), perhaps with a revision of its repository on
        the hub (``openai@0123abc``; else the pinned one), a local .safetensors or .pt file, or
        ``random:SEED``.
    device : str
        Where the network runs and its features stay.
    features : Features
        The worker's memory.
    quick_gelu : bool, optional
        Which activation the weights were trained with. By default what the tag says; for a local
        file, what all tags of the model agree on, else plain GELU with a warning.
    precision : str
        ``fp32``, or ``bf16`` for the matrix products of the vision transformer's blocks.

    Attributes
    ----------
    name : str
        Names the network, its weights and activation; part of every feature space.
    depth : int
        Number of blocks.
    dims : dict of int to int
        Channels of each level.
    text : TextTower
        For prompts whose words are learned.
    logit_scale : float
        What the model multiplies cosines by.

    Raises
    ------
    ValueError
        When the model is unknown or of another kind, or the weights do not fit it.
    FileNotFoundError
        When the weights are neither here nor reachable.
    """

    def __init__(
        self,
        model: str,
        weights: str,
        device: str,
        features: Features,
        quick_gelu: bool | None = None,
        precision: str = "fp32",
    ) -> None:
        config, tag = _config(model), _tag(model, weights)
        if quick_gelu is None:
            quick_gelu = _quick_gelu(model, weights, config, tag)
        network = build(model, weights, quick_gelu).to(device)
        self.name = f"{model}/{weights}{'/quickgelu' if quick_gelu else ''}"
        if precision != "fp32":
            self.name += f"/{precision}"
        self.device = torch.device(device)
        self._features = features
        try:
            self.vision = VisionTower(network.visual, _PRECISIONS[precision])
            self.text = TextTower(getattr(network, "text", network), _tokenizer(model, config))
        except ValueError as error:
            raise ValueError(f"encoder: {model}: {error}") from error
        self.depth = len(self.vision.blocks)
        self.dims = dict.fromkeys(range(1, self.depth + 1), self.vision.width)
        self.logit_scale = float(network.logit_scale.exp())
        self._mean = torch.tensor(tag.get("mean", open_clip.OPENAI_DATASET_MEAN), device=device)
        self._std = torch.tensor(tag.get("std", open_clip.OPENAI_DATASET_STD), device=device)

    def encode(
        self,
        images: Sequence[Image],
        *,
        size: int | tuple[int, int],
        levels: Sequence[int] = (),
        windows: Sequence[int] = (),
    ) -> list[Encoding]:
        """Encodings of images stretched to ``size``.

        Parameters
        ----------
        images : sequence of Image
        size : int or (int, int)
            Height and width in pixels that the network sees; an int is both. Any size from one
            patch up; a remainder of a patch at the lower and right edge goes unseen.
        levels : sequence of int
            Blocks to read, 1 to ``depth``; ``Encoding.levels`` follows their order.
        windows : sequence of int
            Sides, in patches, of the windows to embed.

        Returns
        -------
        list of Encoding
            One per image, each as if it had been alone.
        """
        for level in levels:
            if level not in self.dims:
                raise ValueError(
                    f"encoder: levels of {self.name} are 1 to {self.depth}, got {level}"
                )
        height, width = (size, size) if isinstance(size, int) else size
        rows, columns = (
            side // patch for side, patch in zip((height, width), self.vision.patch, strict=True)
        )
        for side in (1, *windows):
            if not 1 <= side <= min(rows, columns):
                raise ValueError(
                    f"encoder: {self.name} sees {rows} x {columns} patches at {height} x {width} "
                    f"pixels, which hold no window of {side}"
                )
        space = f"clip/{self.name}/{height}x{width}/levels {levels}/windows {windows}"

        def compute(batch: Sequence[Image]) -> list[Encoding]:
            return self._forward(batch, height, width, levels, windows)

        batch = 1 if self.device.type == "cpu" else _BATCH
        return self._features.get_or_compute(space, images, compute, batch)

    def _forward(
        self,
        images: Sequence[Image],
        height: int,
        width: int,
        levels: Sequence[int],
        windows: Sequence[int],
    ) -> list[Encoding]:
        pixels = np.stack([stretch(image.pixels, height, width) for image in images])
        # Not inference mode: some methods train on these features.
        with torch.no_grad():
            batch = torch.from_numpy(pixels).to(self.device).float().div_(255)
            batch = batch.sub_(self._mean).div_(self._std).permute(0, 3, 1, 2)
            tokens = _TOKENS.get(self.device.type, _TOKENS["cpu"])
            record = self.vision(batch.contiguous(), levels, windows, tokens)
        # Each encoding is copied out, so that it owns its memory and no more.
        return [
            Encoding(
                levels=tuple(level[i].clone() for level in record.levels),
                image=record.image[i].clone(),
                token=record.token[i].clone(),
                windows={side: values[i].clone() for side, values in record.windows.items()},
            )
            for i in range(len(images))
        ]

    def encode_text(self, sentences: Sequence[str]) -> torch.Tensor:
        """Embeddings of sentences, float32 (n, e), not normalised."""
        parts = [sentences[start : start + 256] for start in range(0, len(sentences), 256)]
        with torch.no_grad():
            return torch.cat([self.text(*self.text.words(part)) for part in parts])


def stretch(pixels: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Stretch uint8 (H, W, 3) to (height, width, 3), bicubic with antialiasing."""
    if pixels.shape[:2] == (height, width):
        return pixels
    picture = Picture.fromarray(pixels).resize((width, height), Picture.Resampling.BICUBIC)
    return np.asarray(picture)


def knows(model: str) -> bool:
    """Whether ``model`` means a CLIP: a name of open_clip, or a .json file."""
    return model.endswith(".json") or open_clip.get_model_config(model) is not None


def build(model: str, weights: str, quick_gelu: bool) -> torch.nn.Module:
    """open_clip's network, frozen, in eval mode, on the CPU.

    ``random:SEED`` gives what ``open_clip.create_model`` does after ``torch.manual_seed(SEED)``.
    """
    config = _config(model)
    custom = config.pop("custom_text", False)
    seed = _weights.random_seed(weights)
    path = _find(model, weights) if seed is None else None  # before minutes are spent building
    kind = open_clip.CustomTextCLIP if custom else open_clip.CLIP
    try:
        with _weights.seeded(seed or 0):
            network = kind(**{**config, "quick_gelu": quick_gelu})
    except (TypeError, AttributeError, AssertionError) as error:
        raise ValueError(f"encoder: {model} is not a CLIP that is supported: {error}") from error
    if path is not None:
        _load(network, _weights.read(path), path, model)
    return network.eval().requires_grad_(False)


def _config(model: str) -> dict[str, Any]:
    """open_clip's description of the network."""
    if model.endswith(".json"):
        path = Path(model).expanduser().absolute()
        if not path.is_file():
            raise FileNotFoundError(f"encoder: no open_clip model description at {path}")
        try:
            config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"encoder: {path} is not JSON: {error}") from error
        config = config.get("model_cfg", config)
        if not {"embed_dim", "vision_cfg", "text_cfg"} <= config.keys():
            raise ValueError(f"encoder: {path} lacks embed_dim, vision_cfg or text_cfg")
    else:
        config = open_clip.get_model_config(model)
        if config is None:
            raise ValueError(f"encoder: open_clip has no model named {model}")
    unsupported = [
        name
        for name, differs in {
            "a text tower from elsewhere": config["text_cfg"].get("hf_model_name"),
            "a tokenizer from elsewhere": config["text_cfg"].get("hf_tokenizer_name"),
            "a vision tower from timm": config["vision_cfg"].get("timm_model_name"),
            "a caption decoder": config.get("multimodal_cfg"),
        }.items()
        if differs
    ]
    if unsupported:
        raise ValueError(
            f"encoder: {model} has {unsupported[0]}, which is not supported; "
            f"take a plain CLIP, such as ViT-L-14"
        )
    return config


def _tokenizer(model: str, config: Mapping[str, Any]) -> open_clip.SimpleTokenizer:
    length = config["text_cfg"].get("context_length", 77)
    options = config["text_cfg"].get("tokenizer_kwargs", {})
    return open_clip.SimpleTokenizer(context_length=length, **options)


def _tag(model: str, weights: str) -> Mapping[str, Any]:
    """What open_clip records of a hub tag, empty for anything else."""
    return open_clip.get_pretrained_cfg(model, pins.parted(weights)[0]) or {}


def _quick_gelu(
    model: str, weights: str, config: Mapping[str, Any], tag: Mapping[str, Any]
) -> bool:
    if config.get("quick_gelu") or tag:
        return bool(config.get("quick_gelu") or tag.get("quick_gelu", False))
    if not _weights.is_file(weights):
        return False
    tags = open_clip.list_pretrained_tags_by_model(model)
    declared = {bool(_tag(model, name).get("quick_gelu", False)) for name in tags}
    if len(declared) > 1:
        warnings.warn(
            f"encoder: {weights} is read as {model} with plain GELU; say `quick_gelu: true` "
            f"beside it if these are OpenAI's weights or others trained with QuickGELU",
            stacklevel=2,
        )
    return declared == {True}


def _find(model: str, weights: str) -> Path:
    if _weights.is_file(weights):
        return _weights.local_file(weights)
    tag = _tag(model, weights)
    if not tag:
        known = ", ".join(open_clip.list_pretrained_tags_by_model(model)) or "none"
        raise ValueError(
            f"encoder: open_clip knows no weights {weights} for {model}; known are {known}, a "
            f"local .safetensors or .pt file, or random:SEED"
        )
    url = tag.get("url") or ""
    cached = Path.home() / ".cache" / "clip" / Path(url or "none").name
    stem, named = pins.parted(weights)
    if (model, stem) in _MISNAMED:
        if cached.is_file():
            return cached
        raise FileNotFoundError(
            f"encoder: no weights at {cached}, and the hub holds none of {model} {weights} under "
            f"its own name; download {url} and name the file as `weights`"
        )
    repository, _, name = tag.get("hf_hub", "").partition("/")[2].partition("/")
    owner = tag.get("hf_hub", "").partition("/")[0]
    names = (name,) if name else ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
    return _weights.hub_file(f"{owner}/{repository}", names, f"{model} {weights}", (cached,), named)


def _load(network: torch.nn.Module, state: dict[str, torch.Tensor], path: Path, model: str) -> None:
    """Load a state dict, of open_clip's form or of OpenAI's, that may hold more than is needed."""
    state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    if isinstance(network, open_clip.CustomTextCLIP):
        towers = ("text_projection", "positional_embedding", "token_embedding", "transformer")
        state = {
            f"text.{name}" if name.startswith((*towers, "ln_final")) else name: tensor
            for name, tensor in state.items()
        }
    own = network.state_dict()
    fits = {
        name: tensor
        for name, tensor in state.items()
        if name in own and tensor.numel() == own[name].numel()
    }
    missing = sorted(own.keys() - fits.keys() - {"logit_bias"})
    if missing:
        raise ValueError(
            f"encoder: {path} does not fit {model}: {len(missing)} tensors are missing or of "
            f"another shape, first {missing[0]}"
        )
    network.load_state_dict(
        {name: tensor.reshape(own[name].shape) for name, tensor in fits.items()}, strict=False
    )

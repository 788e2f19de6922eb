"""One entrance to all encoders: a description in, a frozen network that gives `Encoding` out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Protocol, runtime_checkable

from pydantic import AfterValidator

from harness.interface import Features, Image
from methods._encoders.encoding import Encoding
from methods._encoders.pins import UNPINNED
from methods._encoders.weights import IMAGENET_TAGS, PACKAGED, pinned

if TYPE_CHECKING:
    import torch

#: runs anywhere: its weights come with the requirements
LITE0 = {"model": "tf_efficientnet_lite0", "weights": "imagenet"}
_OPTIONS = {"model", "weights", "quick_gelu", "precision"}
_PRECISIONS = ("fp32", "bf16")


class Encoder(Protocol):
    """What methods ask of an encoder, convolutional or transformer."""

    name: str  # names the network and its weights; part of every feature space

    @property
    def dims(self) -> Mapping[int, int]:
        """Channels of each level."""

    def encode(
        self,
        images: Sequence[Image],
        *,
        size: int | tuple[int, int],
        levels: Sequence[int] = (),
        windows: Sequence[int] = (),
    ) -> list[Encoding]:
        """Encodings of images stretched to ``size`` pixels, one per image, remembered."""


class Tower(Protocol):
    """A text transformer that can be entered at the word embeddings: `TextTower` and its like."""

    @property
    def width(self) -> int:
        """Length of a word embedding."""

    @property
    def device(self) -> torch.device:
        """Where it runs."""

    def words(self, sentences: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Word embeddings (n, length, width), and the index (n,) of each sentence's end token."""

    def __call__(self, embeddings: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
        """Sentence embeddings (n, e), not normalised, of word embeddings (n, length, width)."""


@runtime_checkable
class TextEncoder(Encoder, Protocol):
    """An encoder that embeds sentences too, in the space of its images: a CLIP."""

    logit_scale: float  # by which its training multiplied cosines

    @property
    def text(self) -> Tower:
        """What embeds sentences."""

    def encode_text(self, sentences: Sequence[str]) -> torch.Tensor:
        """Embeddings of sentences, float32 (n, e), not normalised."""


def described(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of an encoder's description, checked.

    Raises
    ------
    ValueError
        Unless it is ``{model, weights}``, with ``quick_gelu`` and ``precision`` (fp32, or bf16:
        about twice as fast where the processor multiplies bfloat16 by itself, as with AMX or
        AVX512-BF16) at will for a CLIP; of ``{model: micro}`` the weights go without saying.
    """
    if isinstance(spec, Mapping) and spec.get("model") == "micro":
        spec = {"weights": "embedded", **spec}
    if not isinstance(spec, Mapping) or not {"model", "weights"} <= spec.keys() <= _OPTIONS:
        raise ValueError(f"encoder must be {{model: ..., weights: ...}}, got {spec!r}")
    for key in ("model", "weights"):
        if not isinstance(spec[key], str):
            raise ValueError(f"encoder: {key} must be a text, got {spec[key]!r}")
    if spec.get("precision", "fp32") not in _PRECISIONS:
        raise ValueError(f"encoder: precision must be fp32 or bf16, got {spec['precision']!r}")
    return dict(spec)


#: a parameter that describes an encoder
EncoderSpec = Annotated[Mapping[str, Any], AfterValidator(described)]


def caveat(spec: Mapping[str, Any], paper: str) -> str:
    """What to print under a method's figures: a small network, or weights that may change."""
    small = {"micro": "the embedded micro encoder", LITE0["model"]: "EfficientNet-Lite0"}
    what = small.get(spec["model"])
    if what:
        return f"on {what}, a small network, not the paper's {paper}"
    return "" if pinned(spec["model"], spec["weights"]) else UNPINNED


def packages(spec: Mapping[str, Any]) -> tuple[str, ...] | None:
    """What to load for an encoder: `Method.preload`; None where its name does not tell."""
    return ("torch", "timm") if spec["model"] in {*PACKAGED, *IMAGENET_TAGS} else None


def load_encoder(spec: Mapping[str, Any], device: str, features: Features) -> Encoder:
    """The encoder of a description, shared by all methods of the worker.

    ``micro`` is the embedded one, a name that timm knows is a convolutional encoder, any other a
    CLIP.

    Raises
    ------
    ValueError
        When nobody knows the model, or its weights do not fit it.
    FileNotFoundError
        When the weights are neither here nor reachable.
    """
    spec = described(spec)
    model, weights, gelu = spec["model"], spec["weights"], spec.get("quick_gelu")
    precision = spec.get("precision", "fp32")

    def load() -> Encoder:
        from methods._encoders import cnn

        if model == "micro" or cnn.knows(model):
            if gelu is not None:
                raise ValueError(f"encoder: {model} is no CLIP of open_clip, takes no quick_gelu")
            if precision != "fp32":
                raise ValueError(f"encoder: {model} is no CLIP of open_clip, computes in fp32 only")
            if model != "micro":
                return cnn.CnnEncoder(model, weights, device, features)
            from methods._encoders.micro import MicroEncoder

            return MicroEncoder(weights, device, features)
        from methods._encoders import clip  # only now: it takes seconds to import

        if not clip.knows(model):
            raise ValueError(f"encoder: neither timm nor open_clip has a model named {model}")
        return clip.ClipEncoder(model, weights, device, features, gelu, precision)

    name = f"encoder/{model}/{weights}/{gelu}/{precision}/{device}"
    encoder: Encoder = features.get_or_create(name, load)
    return encoder


def load_text_encoder(
    method: str, spec: Mapping[str, Any], device: str, features: Features
) -> TextEncoder:
    """As `load_encoder`, for a method that compares images with sentences.

    Raises
    ------
    ValueError
        When it embeds no sentences, besides what `load_encoder` raises; ``method`` is named.
    """
    encoder = load_encoder(spec, device, features)
    if not isinstance(encoder, TextEncoder):
        raise ValueError(f"{method}: {encoder.name} embeds no sentences; take a CLIP")
    return encoder

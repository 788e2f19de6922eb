"""The embedded micro CLIP as an encoder: a convolutional trunk and a small text transformer."""

from __future__ import annotations

from collections.abc import Sequence

import open_clip
import torch
from torch import nn

from harness.interface import Features, Image
from methods._encoders import cnn
from methods._encoders.encoding import Encoding
from methods._encoders.pictures import micro_home
from methods.micro.clip_model import CHANNELS, LEVELS, TRUNK, MicroClip


class MicroEncoder:
    """Levels 1 to 4 are the trunk's; level 5 is all that micro CLIP reads of them, side by side.

    Level 5 and the windows lie on the trunk's grid of stride 16. A window is embedded as an image
    of its patches would be, from the mean and the maximum of their hidden units: unlike with a
    transformer, its patches have seen what lies around the window.

    Parameters
    ----------
    weights : str
        ``embedded``, or a folder that holds ``clip`` and ``diffusion`` in the same layout.
    device : str
        Where the network runs and its features stay.
    features : Features
        The worker's memory.

    Attributes
    ----------
    name, dims, text, logit_scale
        As of `ClipEncoder`.

    Raises
    ------
    FileNotFoundError
        When a file is missing.
    """

    def __init__(self, weights: str, device: str, features: Features) -> None:
        folder = micro_home(weights)
        self.name = f"micro/{weights}"
        self.device = torch.device(device)
        self._features = features
        self._trunk = cnn.CnnEncoder(TRUNK, "imagenet", device, features)
        self.network = MicroClip.load(folder / "clip", folder / "diffusion").to(device)
        self.text = HuggingTextTower(self.network.text)
        self.dims = {**self._trunk.dims, 5: sum(CHANNELS)}
        self.logit_scale = float(self.network.logit_scale.exp())

    def encode(
        self,
        images: Sequence[Image],
        *,
        size: int | tuple[int, int],
        levels: Sequence[int] = (),
        windows: Sequence[int] = (),
    ) -> list[Encoding]:
        """Encodings of images stretched to ``size``; see `ClipEncoder.encode`."""
        for level in levels:
            if level not in self.dims:
                raise ValueError(f"encoder: levels of {self.name} are 1 to 5, got {level}")

        def compute(batch: Sequence[Image]) -> list[Encoding]:
            trunk = self._trunk.encode(batch, size=size, levels=(1, 2, 3, 4))
            with torch.no_grad():
                return [self._read(encoding, levels, windows) for encoding in trunk]

        space = f"clip/{self.name}/{size}/levels {levels}/windows {windows}"
        return self._features.get_or_compute(space, images, compute)

    def _read(self, encoding: Encoding, levels: Sequence[int], windows: Sequence[int]) -> Encoding:
        read = [encoding.levels[level - 1][None] for level in LEVELS]
        gathered = self.network.gather(read)
        standard = (gathered - self.network.mean) / self.network.deviation
        return Encoding(
            levels=tuple(
                standard[0] if level == 5 else encoding.levels[level - 1] for level in levels
            ),
            image=self.network.image_features(read)[0],
            windows={side: self.network.window_features(read, side)[0] for side in windows},
        )

    def encode_text(self, sentences: Sequence[str]) -> torch.Tensor:
        """Embeddings of sentences, float32 (n, e), not normalised."""
        with torch.no_grad():
            return self.text(*self.text.words(sentences))


class HuggingTextTower:
    """transformers' CLIP text model, entered at the word embeddings; as `TextTower` otherwise."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.words_of = model.get_input_embeddings()
        self._tokenize = open_clip.SimpleTokenizer()

    @property
    def width(self) -> int:
        """Length of a word embedding."""
        return int(self.words_of.embedding_dim)

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        return self.words_of.weight.device

    def words(self, sentences: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Word embeddings (n, length of the longest sentence, width) and where sentences end."""
        tokens = self._tokenize(list(sentences)).to(self.device)
        ends = tokens.argmax(dim=-1)
        return self.words_of(tokens[:, : int(ends.max()) + 1]), ends

    def __call__(self, embeddings: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
        """Sentence embeddings (n, e), not normalised, of word embeddings (n, length, width)."""
        # The model takes token numbers only, of which the end token is all that it reads itself.
        tokens = torch.zeros(embeddings.shape[:2], dtype=torch.int64, device=self.device)
        tokens[torch.arange(len(tokens), device=self.device), ends] = self._tokenize.eot_token_id
        hook = self.words_of.register_forward_hook(lambda *_: embeddings)
        try:
            return self.model(input_ids=tokens).text_embeds
        finally:
            hook.remove()

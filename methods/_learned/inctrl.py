"""What InCTRL learns: an adapter of image embeddings and two small heads, and its loss.

Tensors bear the names of the authors' checkpoints, so that those can be loaded.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from harness.interface import Arrays

_PARTS = ("adapter.", "diff_head.", "diff_head_ref.")


class Adapter(nn.Module):
    """Bottleneck of a quarter of the width, without biases or a skip connection."""

    def __init__(self, width: int) -> None:
        super().__init__()
        narrow = width // 4
        self.fc = nn.Sequential(
            nn.Linear(width, narrow, bias=False),
            nn.ReLU(),
            nn.Linear(narrow, width, bias=False),
            nn.ReLU(),
        )

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """Adapt vectors of shape (..., width)."""
        return self.fc(vectors)


class Head(nn.Module):
    """From a vector to a score in 0..1; each ReLU is followed by batch normalisation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.projection1 = nn.Linear(width, 128)
        self.projection2 = nn.Linear(128, 64)
        self.projection3 = nn.Linear(64, 1)
        self.bn2 = nn.BatchNorm1d(128)
        self.bn3 = nn.BatchNorm1d(64)

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """Score vectors of shape (n, width), giving (n,)."""
        hidden = self.bn2(F.relu(self.projection1(vectors)))
        hidden = self.bn3(F.relu(self.projection2(hidden)))
        return torch.sigmoid(self.projection3(hidden))[:, 0]


@dataclass(frozen=True)
class Scores:
    """Scores of n images, each of shape (n,)."""

    final: torch.Tensor
    image: torch.Tensor
    patch: torch.Tensor
    holistic: torch.Tensor


class InctrlNet(nn.Module):
    """In-context residuals to scores.

    Parameters
    ----------
    embedding : int
        Length of an image embedding.
    patches : int
        Number of patches of an image.
    """

    def __init__(self, embedding: int, patches: int) -> None:
        super().__init__()
        self.adapter = Adapter(embedding)
        self.diff_head = Head(patches)
        self.diff_head_ref = Head(embedding)

    @property
    def patches(self) -> int:
        """Number of patches that it was made for."""
        return int(self.diff_head.projection1.in_features)

    @property
    def embedding(self) -> int:
        """Length of the image embeddings that it was made for."""
        return int(self.diff_head_ref.projection1.in_features)

    def context(self, references: torch.Tensor) -> torch.Tensor:
        """Mean adapted embedding (..., e) of k references (..., k, e)."""
        return self.adapter(references).mean(dim=-2)

    def forward(
        self,
        images: torch.Tensor,
        context: torch.Tensor,
        residuals: torch.Tensor,
        text: torch.Tensor,
    ) -> Scores:
        """Score n images.

        Parameters
        ----------
        images : tensor of shape (n, e)
            Image embeddings.
        context : tensor of shape (n, e) or (1, e)
            What ``context`` says of the references.
        residuals : tensor of shape (n, patches)
            Distance of each patch to the references.
        text : tensor of shape (n,)
            Anomalous probability by sentences.
        """
        image = self.diff_head_ref(context - self.adapter(images))
        holistic = self.diff_head(residuals + (image + text)[:, None])
        patch = residuals.amax(dim=1)
        return Scores((holistic + patch) / 2, image, patch, holistic)

    def arrays(self) -> Arrays:
        """Everything learned, by name."""
        return {
            name: tensor.detach().cpu().numpy()
            for name, tensor in self.state_dict().items()
            if not name.endswith("num_batches_tracked")
        }

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray]) -> InctrlNet:
        """The network, in eval mode, that ``arrays`` or ``read_checkpoint`` describe."""
        tensors = {name: torch.tensor(array) for name, array in arrays.items()}
        net = cls(
            tensors["diff_head_ref.projection1.weight"].shape[1],
            tensors["diff_head.projection1.weight"].shape[1],
        )
        net.load_state_dict(tensors, strict=False)
        net.eval()
        return net


def read_checkpoint(path: Path) -> Arrays:
    """The adapter and heads of a checkpoint file of the authors' layout.

    The file holds ``{"model_state": {...}}`` with the frozen CLIP beside the learned tensors; only
    the latter are taken. It is read without unpickling any code.

    Raises
    ------
    FileNotFoundError
        Naming the path.
    ValueError
        When the file is not such a checkpoint.
    """
    if not path.is_file():
        raise FileNotFoundError(f"inctrl: no checkpoint at {path}")
    try:
        contents = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, EOFError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"inctrl: {path} is not a readable checkpoint: {reason}") from error
    state = contents.get("model_state", contents) if isinstance(contents, dict) else {}
    state = {str(name).removeprefix("module."): tensor for name, tensor in state.items()}
    learned = {name: tensor for name, tensor in state.items() if name.startswith(_PARTS)}
    names = InctrlNet(4, 1).arrays().keys()
    if missing := sorted(names - learned.keys()):
        raise ValueError(f"inctrl: {path} is not an InCTRL checkpoint: it lacks {missing[0]}")
    return {name: learned[name].float().numpy() for name in sorted(names)}


def focal(scores: torch.Tensor, labels: torch.Tensor, published: bool) -> torch.Tensor:
    """Binary focal loss with gamma 2 and alpha 1, averaged.

    Parameters
    ----------
    scores : tensor of shape (n,)
        Anomaly scores in 0..1.
    labels : float tensor of shape (n,)
        0 normal, 1 anomalous.
    published : bool
        True: the scores are taken for logits, as in the authors' code, which bounds the loss away
        from 0 and weakens its gradients; False: for the probabilities that they are.
    """
    if published:
        entropy = F.binary_cross_entropy_with_logits(scores, labels, reduction="none")
    else:
        entropy = F.binary_cross_entropy(scores.clamp(1e-6, 1 - 1e-6), labels, reduction="none")
    return ((1 - torch.exp(-entropy)) ** 2 * entropy).mean()

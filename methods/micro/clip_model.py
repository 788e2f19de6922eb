"""Micro CLIP: a projection of a frozen convolutional trunk, and a text transformer, in one space.

The trunk is EfficientNet-Lite0 (ImageNet weights from its package; not stored here). This module
holds what was trained on top: two small layers for images, and the text encoder, which is the very
one that conditions the micro diffusion model and is read from its folder.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import load_file
from torch import nn

FOLDER = Path(__file__).parent / "clip"
TEXT_FOLDER = Path(__file__).parent / "diffusion"
TRUNK = "tf_efficientnet_lite0"
LEVELS = (2, 3, 4)  # blocks.2, blocks.4, blocks.6: strides 8, 16, 32
CHANNELS = (40, 112, 320)
HIDDEN = 256


class MicroClip(nn.Module):
    """Images and sentences to vectors of one space, none of them normalised.

    A patch is described by its features and by how they differ from the image's mean: damage is
    what is unlike the rest. The image's vector reads the mean and the maximum of the hidden units
    over patches, so that a small spot is not averaged away.

    All image functions take ``levels``: three float tensors (n, h_i, w_i, c_i), the trunk's last
    feature maps of strides 8, 16 and 32, for pixels scaled by mean 127/255 and deviation 128/255.
    """

    def __init__(self, text: transformers.CLIPTextModelWithProjection) -> None:
        super().__init__()
        width, joint = sum(CHANNELS), text.config.projection_dim
        self.text = text
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("deviation", torch.ones(width))
        self.hidden = nn.Linear(2 * width, HIDDEN)
        self.to_patch = nn.Linear(HIDDEN, joint)
        self.to_image = nn.Linear(2 * HIDDEN, joint)
        self.logit_scale = nn.Parameter(torch.tensor(2.66))  # log of 1 / temperature

    def gather(self, levels: Sequence[torch.Tensor]) -> torch.Tensor:
        """The levels side by side on the grid of stride 16: (n, h, w, 472)."""
        grid = levels[1].shape[1:3]
        fine = F.adaptive_avg_pool2d(levels[0].permute(0, 3, 1, 2), grid)
        coarse = F.interpolate(
            levels[2].permute(0, 3, 1, 2), grid, mode="bilinear", align_corners=False
        )
        return torch.cat([fine.permute(0, 2, 3, 1), levels[1], coarse.permute(0, 2, 3, 1)], dim=-1)

    def units(self, gathered: torch.Tensor) -> torch.Tensor:
        """Hidden units of each patch, (n, h, w, 256), of what ``gather`` gives."""
        x = (gathered - self.mean) / self.deviation
        return F.gelu(self.hidden(torch.cat([x, x - x.mean((1, 2), keepdim=True)], dim=-1)))

    def image_of_units(self, units: torch.Tensor) -> torch.Tensor:
        """Image vectors (n, 128) of hidden units."""
        return self.to_image(torch.cat([units.mean((1, 2)), units.amax((1, 2))], dim=-1))

    def image_features(self, levels: Sequence[torch.Tensor]) -> torch.Tensor:
        """Image vectors, (n, 128)."""
        return self.image_of_units(self.units(self.gather(levels)))

    def patch_features(self, levels: Sequence[torch.Tensor]) -> torch.Tensor:
        """Vector of every patch of the grid of stride 16, (n, h, w, 128)."""
        return self.to_patch(self.units(self.gather(levels)))

    def window_features(self, levels: Sequence[torch.Tensor], side: int) -> torch.Tensor:
        """Vector of each square window of ``side`` patches, (n, h - side + 1, w - side + 1, 128).

        A window is read as an image is: mean and maximum of its patches' units.
        """
        units = self.units(self.gather(levels)).permute(0, 3, 1, 2)
        pooled = [F.avg_pool2d(units, side, 1), F.max_pool2d(units, side, 1)]
        return self.to_image(torch.cat(pooled, dim=1).permute(0, 2, 3, 1))

    def text_features(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Vectors (n, 128) of token ids (n, 77) of CLIP's tokenizer, however padded."""
        return self.text(input_ids=token_ids).text_embeds

    @classmethod
    def load(cls, folder: Path = FOLDER, text_folder: Path = TEXT_FOLDER) -> MicroClip:
        """Read the embedded weights, float32, evaluation mode, frozen.

        Raises
        ------
        FileNotFoundError
            When a file is missing: names it.
        """
        files = [folder / "config.json", folder / "model.safetensors", text_folder / "text_encoder"]
        for path in files:
            if not path.exists():
                raise FileNotFoundError(f"micro CLIP: no {path}; it ships with the project")
        config = json.loads(files[0].read_text())
        text = transformers.CLIPTextConfig.from_pretrained(files[2])
        text.projection_dim = config["projection_dim"]
        model = cls(transformers.CLIPTextModelWithProjection(text))
        state = {k: v.float() for k, v in load_file(files[1]).items()}
        trunk = load_file(files[2] / "model.safetensors")
        state |= {f"text.{k}": v.float() for k, v in trunk.items()}
        own = model.state_dict()
        missing = sorted(own.keys() - state.keys())
        if missing:
            raise ValueError(f"micro CLIP: {folder} lacks {missing[0]} and {len(missing) - 1} more")
        model.load_state_dict({k: state[k] for k in own})
        model.eval().requires_grad_(False)
        return model

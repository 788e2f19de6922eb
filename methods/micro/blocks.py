"""The encoder of the micro autoencoder: principal components of 8 x 8 blocks, as network weights.

Sixteen components of a block hold 31 dB of a rendering; encoder and decoder trained together were
at 22 dB after 1,300 steps. So nothing of the encoder is trained: the linear map is written into
``AutoencoderKL``'s layers (residual branches silent; the last normalisation made harmless by
constant channels), latents of training data are one matrix product, and the denoiser need not wait.
The decoder is trained.
"""

from __future__ import annotations

import os
from pathlib import Path

import diffusers
import numpy as np
import torch
from numpy.typing import NDArray

from methods.micro.data import Corpus

BLOCK = 8
COMPONENTS = 16
KEPT = 32  # components of each 4 x 4 quadrant that pass the second downsampling
EVENNESS = 0.8  # 1: all latent channels have one variance; 0: as in the pixels
_LEVEL = 64.0  # constant channels that fix the normalisation's statistics
_LIFT = 16.0  # where SiLU is the identity, for any latent a picture has
_LOGVAR = -6.0


class Blocks:
    """A linear map from 8 x 8 x 3 blocks, in -1..1, to 16 numbers: z = (x - centre) @ matrix.

    Attributes
    ----------
    quadrant : float64 (48, 32), orthonormal: what is kept of each 4 x 4 x 3 quadrant
    inner : float64 (4, 32, 16): from the quadrants (upper left, upper right, lower ...) to z
    offset : float64 (16,)
    """

    def __init__(
        self, quadrant: NDArray[np.float64], inner: NDArray[np.float64], offset: NDArray[np.float64]
    ) -> None:
        self.quadrant, self.inner, self.offset = quadrant, inner, offset
        whole = np.zeros((2, 4, 2, 4, 3, COMPONENTS))
        for q in range(4):
            whole[q // 2, :, q % 2] = (quadrant @ inner[q]).reshape(4, 4, 3, COMPONENTS)
        self.matrix = whole.reshape(BLOCK * BLOCK * 3, COMPONENTS).astype(np.float32)

    def encode(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Latents (n, 16, H / 8, W / 8) of uint8 (n, H, W, 3)."""
        n, h, w, _ = pixels.shape
        x = pixels.astype(np.float32) / 127.5 - 1
        x = x.reshape(n, h // BLOCK, BLOCK, w // BLOCK, BLOCK, 3).transpose(0, 1, 3, 2, 4, 5)
        z = x.reshape(n, h // BLOCK, w // BLOCK, -1) @ self.matrix + self.offset.astype(np.float32)
        return np.ascontiguousarray(z.transpose(0, 3, 1, 2))

    @classmethod
    def measure(cls, pixels: NDArray[np.uint8]) -> Blocks:
        """Principal components of the blocks of uint8 pictures (n, H, W, 3)."""
        n, h, w, _ = pixels.shape
        x = pixels.astype(np.float64) / 127.5 - 1
        x = x.reshape(n, h // BLOCK, BLOCK, w // BLOCK, BLOCK, 3).transpose(0, 1, 3, 2, 4, 5)
        x = x.reshape(-1, BLOCK * BLOCK * 3)
        centre = x.mean(0)
        values, vectors = np.linalg.eigh(np.cov((x - centre).T))
        values, vectors = values[::-1][:COMPONENTS], vectors[:, ::-1][:, :COMPONENTS]
        vectors = vectors * np.sign(vectors.sum(0) + 1e-12)
        scale = values ** (-EVENNESS / 2)
        scale /= np.sqrt((values * scale**2).mean())
        # What the components need of a quadrant spans more than 32 dimensions; keep the strongest.
        parts = vectors.reshape(2, 4, 2, 4, 3, COMPONENTS).transpose(0, 2, 1, 3, 4, 5)
        parts = parts.reshape(4, 48, COMPONENTS)
        weighted = (parts * np.sqrt(values)).transpose(1, 0, 2).reshape(48, -1)
        quadrant = np.linalg.svd(weighted)[0][:, :KEPT]
        inner = quadrant.T @ parts * scale
        blocks = cls(quadrant, inner, np.zeros(COMPONENTS))
        blocks.offset = -(centre @ blocks.matrix)
        return blocks

    @classmethod
    def of(cls, out: Path, corpus: Corpus) -> Blocks:
        """The map measured on 400 clean pictures of the corpus; fixed once it was asked for."""
        path = out / "blocks.npz"
        if not path.is_file():
            some = np.array(corpus.pairs[: corpus.ready : max(1, corpus.ready // 400), 1])
            blocks = cls.measure(some)
            temporary = out / "blocks.part.npz"
            np.savez(temporary, quadrant=blocks.quadrant, inner=blocks.inner, offset=blocks.offset)
            os.replace(temporary, path)
        with np.load(path) as kept:
            return cls(kept["quadrant"], kept["inner"], kept["offset"])

    def write(self, vae: diffusers.AutoencoderKL) -> None:
        """Put the map into the encoder of a ``models.autoencoder()``, in place."""
        encoder = vae.encoder
        with torch.no_grad():
            for name, parameter in [
                *encoder.named_parameters(),
                *vae.quant_conv.named_parameters(),
            ]:
                # silent residual branches and empty linear path; normalisations inside stay
                if ".norm" not in name and ".conv1." not in name:
                    parameter.zero_()
            self._lay(vae)

    def _lay(self, vae: diffusers.AutoencoderKL) -> None:
        encoder = vae.encoder
        one, two, three, four = encoder.down_blocks
        for c in range(3):
            encoder.conv_in.weight[c, c, 1, 1] = 1
            for t in range(4):  # 2 x 2 pixels side by side
                one.downsamplers[0].conv.weight[3 * t + c, c, t // 2, t % 2] = 1
        for k in range(12):
            two.resnets[0].conv_shortcut.weight[k, k] = 1
        # pixels of a quadrant as (dy, y, dx, x, c): dy, dx of this step, y, x of the one before
        basis = torch.from_numpy(self.quadrant).float().reshape(2, 2, 2, 2, 3, KEPT)
        for t in range(4):
            for c in range(3):
                rows = basis[:, t // 2, :, t % 2, c]  # (dy, dx, 32)
                two.downsamplers[0].conv.weight[:, 3 * t + c, :2, :2] = rows.permute(2, 0, 1)
        for k in range(KEPT):
            three.resnets[0].conv_shortcut.weight[k, k] = 1
        inner = torch.from_numpy(self.inner).float().reshape(2, 2, KEPT, COMPONENTS)
        conv = three.downsamplers[0].conv
        conv.weight[:COMPONENTS, :KEPT, :2, :2] = inner.permute(3, 2, 0, 1)
        conv.bias[:COMPONENTS] = torch.from_numpy(self.offset).float()
        shortcut = four.resnets[0].conv_shortcut
        norm, last = encoder.conv_norm_out, encoder.conv_out
        width = norm.num_channels // norm.num_groups
        norm.weight.zero_()
        norm.bias.zero_()
        for k in range(COMPONENTS):
            # each component with its negative: the group's mean is 0 whatever the picture
            channel = width * (k // 2) + 2 * (k % 2)
            shortcut.weight[channel, k] = 1
            shortcut.weight[channel + 1, k] = -1
            norm.weight[channel] = _LEVEL * ((width - 4) / width) ** 0.5
            norm.bias[channel] = _LIFT
            last.weight[k, channel, 1, 1] = 1
            last.bias[k] = -_LIFT
            last.bias[COMPONENTS + k] = _LOGVAR
        for g in range(norm.num_groups):
            for i in range(4, width):
                shortcut.bias[width * g + i] = _LEVEL if i % 2 else -_LEVEL
        vae.quant_conv.weight[:, :, 0, 0] = torch.eye(2 * COMPONENTS)

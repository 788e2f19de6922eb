"""What one evaluation of the micro denoiser takes off: errors inside and outside of defects.

    python -m benchmarks.restoring --steps 20 50 100

Damaged pictures of the held-out families, encoded, noised to a timestep and brought back in one
evaluation under a sentence about a sound thing; nothing is customized. Squared error to the clean
counterpart, divided by that of the mere reconstruction, inside the defect's mask and outside.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import diffusers
import numpy as np
import torch
import transformers

from datasets.surfaces import Surfaces
from methods.micro import models

HOME = Path(__file__).parents[1] / "methods" / "micro" / "diffusion"


@dataclass(frozen=True)
class Errors:
    """Mean squared errors per picture, of the restored one and of the reconstruction."""

    inside: np.ndarray  # (pictures, 2)
    outside: np.ndarray  # (pictures, 2)

    def ratio(self, where: str) -> float:
        """Mean error of the restored pictures over that of the reconstructed ones."""
        restored, rebuilt = getattr(self, where).mean(0)
        return float(restored / rebuilt)


def measured(home: Path, data: Surfaces, category: str, step: int) -> Errors:
    """Errors of a category's damaged queries.

    Parameters
    ----------
    home : folder of a micro diffusion model
    data : pictures, at any side that is a multiple of 8
    category : one of the data's
    step : timestep of 1,000 that the latents are noised to
    """
    vae = diffusers.AutoencoderKL.from_pretrained(home / "vae").float()
    text = transformers.CLIPTextModel.from_pretrained(home / "text_encoder").float()
    unet = diffusers.UNet2DConditionModel.from_pretrained(home / "unet").float().eval()
    samples = [sample for sample in data.test(category) if sample.label]
    damaged, clean = (
        torch.from_numpy(np.stack([np.asarray(data.open(source)) for source in sources]))
        .permute(0, 3, 1, 2)
        .float()
        / 127.5
        - 1
        for sources in ([s.image for s in samples], [data.clean(s).image for s in samples])
    )
    masks = np.stack([np.asarray(data.open(s.mask or "")) > 0 for s in samples])
    sentences = [f"a photo of normal {data.object_name(category)}"] * len(samples)
    kept = models.scheduler().alphas_cumprod[step]
    with torch.inference_mode():
        latents = vae.encode(damaged).latent_dist.mode()
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
        noisy = kept.sqrt() * latents + (1 - kept).sqrt() * noise
        words = models.ids(models.tokenizer(home / "tokenizer"), sentences)
        predicted = unet(noisy, step, text(input_ids=words).last_hidden_state).sample
        restored = (noisy - (1 - kept).sqrt() * predicted) / kept.sqrt()
        squares = [
            (vae.decode(each).sample.clamp(-1, 1) - clean).square().mean(1).numpy() / 4
            for each in (restored, latents)
        ]
    both = [
        np.array([[one[i][masks[i] == where].mean() for one in squares] for i in range(len(masks))])
        for where in (True, False)
    ]
    return Errors(*both)


def main() -> None:
    """Print a row per timestep, and per category at each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--home", type=Path, default=HOME, help="folder of the diffusion model")
    parser.add_argument("--steps", type=int, nargs="+", default=[20, 50, 100])
    parser.add_argument("--seed", type=int, default=31, help="of the pictures")
    parser.add_argument("--queries", type=int, default=12, help="per category, half damaged")
    options = parser.parse_args()
    data = Surfaces(n_train=1, n_test=options.queries, seed=options.seed, size=models.SIZE)
    for step in options.steps:
        errors = {c: measured(options.home, data, c, step) for c in data.categories()}
        pooled = Errors(
            np.concatenate([e.inside for e in errors.values()]),
            np.concatenate([e.outside for e in errors.values()]),
        )
        for name, each in [*errors.items(), ("all", pooled)]:
            numbers = each.ratio("inside"), each.ratio("outside")
            print("t {:4d}  {:12} inside {:.3f}  outside {:.3f}".format(step, name, *numbers))


if __name__ == "__main__":
    main()

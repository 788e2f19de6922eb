"""Learning a concept: word vectors that make a frozen diffusion model draw a few given images."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from harness.interface import progress
from methods._diffusion import model
from methods._diffusion.passes import Checkpointing, Passes

_log = logging.getLogger(__name__)
_FILLER = "x"  # one token of CLIP's vocabulary; its vector is replaced


class Captions:
    """Text conditions of sentences in which a concept stands for words.

    Parameters
    ----------
    parts : of the diffusion model
    patterns : sequence of str
        Sentences, perhaps with ``{}`` where the concept comes.
    vectors : int
        Words that the concept is made of.
    """

    def __init__(self, parts: model.Parts, patterns: Sequence[str], vectors: int) -> None:
        self._encoder = parts.text_encoder
        words = " ".join([_FILLER] * vectors)
        length = min(
            parts.tokenizer.model_max_length, parts.text_encoder.config.max_position_embeddings
        )
        self._tokens = parts.tokenizer(
            [pattern.format(words) for pattern in patterns],
            padding="max_length",
            max_length=length,
            truncation=True,
            return_tensors="pt",
        ).input_ids.to(parts.device)
        begins = [
            len(parts.tokenizer(pattern.partition("{}")[0]).input_ids) - 1 if "{}" in pattern else 0
            for pattern in patterns
        ]
        self._rows = torch.tensor([bool(begin) for begin in begins], device=parts.device)
        self._places = torch.tensor(begins, device=parts.device)[:, None] + torch.arange(
            vectors, device=parts.device
        )

    def __call__(self, concept: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
        """Hidden states (n, L, D) of the sentences ``which`` (n,); differentiable in the concept.

        The concept is a tensor (vectors, d); sentences without a place for it are as they are.
        """
        has = self._rows[which]
        rows = torch.nonzero(has)  # (m, 1)
        places = self._places[which][has]

        def replace(_: Any, __: Any, embedded: torch.Tensor) -> torch.Tensor:
            embedded = embedded.clone()
            embedded[rows, places] = concept.to(embedded.dtype)
            return embedded

        # The encoder takes token numbers only, so the vectors are put where it looks them up.
        hook = self._encoder.get_input_embeddings().register_forward_hook(replace)
        try:
            return self._encoder(self._tokens[which])[0]
        finally:
            hook.remove()


def word_of(parts: model.Parts, word: str) -> torch.Tensor:
    """Vector (d,) of a word of one token, as the diffusion model's text encoder has it."""
    token = parts.tokenizer(word).input_ids[1:-1]
    table = parts.text_encoder.get_input_embeddings().weight
    return table[token[0]].detach().float().clone()


@dataclass(frozen=True)
class Recipe:
    """How to learn. AdamW (0.9, 0.999, weight decay 0.01), constant rate."""

    batch: int
    rate: float
    dtype: torch.dtype
    checkpointing: Checkpointing = "auto"


def learn(
    parts: model.Parts,
    unet: Any,
    captions: Captions,
    z: torch.Tensor,
    start: torch.Tensor,
    steps: int,
    recipe: Recipe,
    gain: Callable[[torch.Tensor], torch.Tensor] | None,
    random: torch.Generator,
    what: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Maximise mean log p(x | T(c)) + gain(c) over the concept c alone.

    For log p stands minus the mean squared error of what the UNet predicts (noise or velocity),
    estimated at each step on a batch of images, templates, timesteps and noises.

    Parameters
    ----------
    captions : T(c) of every template
    z : latents (K, c, h, w) of the images
    start : concept (vectors, d) to start from; left as it is
    gain : what is to be maximised besides, None for plain textual inversion (Eq. 2)
    random : on the CPU; source of all randomness
    what : name for the log, which gets loss and time left ten times on the way

    Returns
    -------
    concept : tensor like ``start``
    losses : float32 tensor (steps, 2): the denoising error and the gain of each step
    """
    device = parts.device
    concept = start.detach().clone().requires_grad_()
    optimiser = torch.optim.AdamW([concept], lr=recipe.rate, weight_decay=1e-2)
    templates = len(captions._tokens)
    often, begun = max(1, steps // 10), time.monotonic()
    losses: list[torch.Tensor] = []
    with Passes(unet, recipe.checkpointing, recipe.batch, what) as passes:
        for step in range(1, steps + 1):
            clean = z[torch.randint(len(z), (recipe.batch,), generator=random)]
            noise = torch.randn(clean.shape, generator=random).to(device)
            t = torch.randint(len(parts.abar), (recipe.batch,), generator=random).to(device)
            which = torch.randint(templates, (recipe.batch,), generator=random).to(device)

            def run(
                now: slice,
                rows: tuple[torch.Tensor, ...] = (clean, noise, t),
                which: torch.Tensor = which,
            ) -> torch.Tensor:
                text = captions(concept, which[now])
                clean, noise, t = (row[now] for row in rows)
                errors = denoising_error(parts, unet, clean, noise, t, text, recipe.dtype)
                error = errors.sum() / recipe.batch
                error.backward()
                return error

            optimiser.zero_grad()
            error = passes.gradients(run, optimiser.zero_grad)
            added = torch.zeros((), device=device)
            if gain is not None:
                bonus = gain(concept)
                (-bonus).backward()
                added = bonus.detach()
            optimiser.step()
            losses.append(torch.stack([error, added]))
            progress(step, steps, {"denoising error": error})
            if step % often == 0 and _log.isEnabledFor(logging.INFO):
                left = (time.monotonic() - begun) / step * (steps - step)
                recent = torch.stack(losses[-often:]).mean(0).tolist()
                text = "%s: step %d/%d, denoising error %.4f, CLIP's gain %.4f, %.0f s left"
                _log.info(text, what, step, steps, *recent, left)
    return concept.detach(), torch.stack(losses) if losses else torch.zeros((0, 2), device=device)


def denoising_error(
    parts: model.Parts,
    unet: Any,
    clean: torch.Tensor,
    noise: torch.Tensor,
    t: torch.Tensor,
    text: torch.Tensor,
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """Mean squared error (n,) of the UNet's prediction for each noised latent."""
    noisy = model.noised(parts, clean, noise, t)
    with model.autocast(parts.device, dtype):
        predicted = unet(noisy, t, encoder_hidden_states=text, return_dict=False)[0]
    target = model.target(parts, clean, noise, t)
    return ((predicted.float() - target) ** 2).mean((1, 2, 3))

"""Anomaly-free customized diffusion model and one-to-normal personalization of One-to-Normal."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from harness.interface import Arrays, Features, Generator, Image, Personalized, Pixels, Support
from methods._diffusion import finetune, model, ssim
from methods._diffusion.augment import operations_for
from methods._diffusion.passes import Checkpointing
from methods._diffusion.shared import SharedUnet
from methods._o2n import prompts as o2n_prompts
from methods._o2n import training_images
from methods._ops.parameters import Share, Size

_log = logging.getLogger(__name__)
Operation = Literal["hflip", "vflip", "rotate", "translate", "colour"]
CPU_BATCH = 4  # images a CPU handles at once where the composition of batches is fixed


class DreamBooth(Generator):
    """Text-to-image diffusion customized on a few normal images, with prior preservation.

    Sources: Li et al., "One-to-Normal: Anomaly Personalization for Few-shot Anomaly Detection",
    NeurIPS 2024, sections 3.2 to 3.4 and appendix A.1; Ruiz et al., "DreamBooth", CVPR 2023.

    The UNet learns augmented support images under "a photo of normal <object>" (equation 1), beside
    images the base itself made of "a photo of <object>". A query is noised to t = strength T and
    denoised under each normal-state prompt from the same noise (equation 3); the prompt whose image
    resembles the query most is kept (equation 2).

    Departures and what the paper leaves open:

    - The loss is the base's own (noise or velocity) in latent space, not equation 1's image-space
      prediction of x0; the text encoder stays frozen.
    - Latents are posterior modes computed once, where diffusers' training script samples the
      posterior anew at each step; prior images stay latents and never become pixels.
    - Equation 2 read literally (arg min of SSIM) keeps the least similar image; that is
      ``select="dissimilar"``.
    - ``damaged`` above 0 also shows damaged copies of the support, to be brought back.
    - At strength 1 the start is pure noise, so the query has no influence at all.
    - ``tune="lora"`` and every base but Stable Diffusion v1.5 are variants, not the paper's.

    Images do not depend on the batch or shard they are computed in: noise comes from the image's
    key and the seed, and on a CPU each query's prompts make up one batch. On a GPU other batch
    sizes change the last bits.

    Parameters
    ----------
    base : hub id, perhaps with its revision (owner/name@revision), local folder in diffusers'
        format, or "micro"
    tune : "full" UNet or "lora"
    rank : of the LoRA adapter; its scale (alpha / rank) is 1
    targets : layers that get an adapter: "attention" or "all"
    train_steps : optimisation steps; None: 800 for full, 500 for lora
    train_batch : support images per step; as many prior images come with them
    learning_rate : of AdamW; None: 5e-6 for full, 1e-4 for lora
    train_until : latest noise level t / T trained on; 1 in the paper. Personalization needs those
        up to ``strength`` alone, and restores better by them; images from text suffer
    prior_images : made once per object name, 0 for no prior preservation
    prior_weight : of the prior's loss
    augment : "auto" (by object), "all", "none" or names of operations: hflip, vflip, rotate,
        translate, colour
    copies : augmented versions of each support image, itself among them
    damaged : share of the training images shown with a synthetic defect (CutPaste, scar, blob) and
        asked back without it; 0 in the paper. For bases taught to restore, lest they forget it
    size : side of images in pixels; None: what the base was trained on
    strength : t / T of personalization, in [0, 1]; 0 gives the autoencoder's reconstruction
    start : "exact" timestep or "diffusers" image-to-image rule, which starts somewhat lower
    steps : of a full denoising trajectory; personalization takes ``strength`` of them
    scheduler : "ddim" or "dpmpp" (DPM-Solver++ 2M)
    guidance : classifier-free guidance weight of personalization; 1 is none, at half the cost
    prompts : size of the prompt set, 0, 1, 3, 5, 10 or 30; 0 is no text
    select : which prompt's image is kept: the one most "similar" to the query, "dissimilar", most
        similar to the nearest "support" image; "all" keeps all, one above the other, in images of
        P times the height, with ``chosen`` None
    text_share : of the generated images made from text alone; the rest are support images varied
    pool_strength : t / T of that variation
    sample_steps : of images made from text alone, prior images included
    sample_guidance : guidance weight of all generated images
    precision : "auto" (GPU: bf16 to train, fp16 to generate; CPU: fp32), "fp32", "bf16" or "fp16";
        weights are kept in float32
    checkpointing : recompute activations while training: a third more time, far less memory;
        "auto": from the first step on that does not fit into the GPU's memory
    batch : images denoised at once on a GPU; halved by itself when memory is short
    """

    prior = True
    generate_parameters = ("steps", "text_share", "pool_strength")
    personalize_parameters = ("strength", "steps", "guidance", "prompts", "select")

    def __init__(
        self,
        base: str = "stable-diffusion-v1-5/stable-diffusion-v1-5",
        tune: Literal["full", "lora"] = "full",
        rank: PositiveInt = 16,
        targets: Literal["attention", "all"] = "attention",
        train_steps: PositiveInt | None = None,
        train_batch: PositiveInt = 1,
        learning_rate: PositiveFloat | None = None,
        train_until: Share = 1.0,
        prior_images: NonNegativeInt = 200,
        prior_weight: NonNegativeFloat = 1.0,
        augment: Literal["auto", "all", "none"] | Operation | list[Operation] = "auto",
        copies: PositiveInt = 16,
        damaged: Share = 0.0,
        size: Size | None = None,
        strength: Share = 0.3,
        start: Literal["exact", "diffusers"] = "exact",
        steps: PositiveInt = 50,
        scheduler: Literal["ddim", "dpmpp"] = "ddim",
        guidance: NonNegativeFloat = 7.5,
        prompts: Literal[0, 1, 3, 5, 10, 30] = 3,
        select: Literal["similar", "dissimilar", "support", "all"] = "similar",
        text_share: Share = 0.5,
        pool_strength: Share = 0.3,
        sample_steps: PositiveInt = 50,
        sample_guidance: NonNegativeFloat = 7.5,
        precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
        checkpointing: Checkpointing = "auto",
        batch: PositiveInt = 16,
    ) -> None:
        self.base = base
        self.note = model.caveat(base, lora=tune == "lora")
        self.tune = tune
        self.rank = rank
        self.targets = targets
        self.train_steps = train_steps
        self.train_batch = train_batch
        self.learning_rate = learning_rate
        self.train_until = train_until
        self.prior_images = prior_images
        self.prior_weight = prior_weight
        self.augment = augment
        self.copies = copies
        self.damaged = damaged
        self.size = size
        self.strength = strength
        self.start = start
        self.steps = steps
        self.scheduler = scheduler
        self.guidance = guidance
        self.prompts = prompts
        self.select = select
        self.text_share = text_share
        self.pool_strength = pool_strength
        self.sample_steps = sample_steps
        self.sample_guidance = sample_guidance
        self.precision = precision
        self.checkpointing = checkpointing
        self.batch = batch

    def files(self) -> Sequence[Path]:
        """Weights of a local base; none for a hub id, which names its own."""
        return model.weight_files(self.base)

    def setup(self, device: str, features: Features) -> None:
        """Load the base, which all generators of the worker share."""
        self._device, self._features = device, features
        self._cuda = torch.device(device).type == "cuda"
        kinds = (self.precision, self.precision)
        if self.precision == "auto":
            kinds = ("bf16", "fp16") if self._cuda else ("fp32", "fp32")
        named = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
        train_dtype, self._dtype = (named[kind] for kind in kinds)
        # bfloat16 has 8 bits of mantissa: its rounding would show in the pixels
        self._vae_dtype = torch.float16 if self._dtype == torch.float16 else torch.float32
        self._parts = features.get_or_create(
            f"diffusion:{self.base}:{device}", lambda: model.load_parts(self.base, device)
        )
        self._shared = features.get_or_create(
            f"unet:{self.base}:{device}", lambda: SharedUnet(self.base, device)
        )
        self._unet = self._shared.unet
        self._state: Arrays = {}
        self._support: Support | None = None
        self._free = model.embed(self._parts, [""])
        full = self.tune == "full"
        self._recipe = finetune.Recipe(
            rank=None if full else self.rank,
            targets=self.targets,
            steps=self.train_steps or (800 if full else 500),
            rate=self.learning_rate or (5e-6 if full else 1e-4),
            dtype=train_dtype,
            checkpointing=self.checkpointing,
            until=self.train_until,
        )
        self._side = self.size or model.native_size(self._parts, self._unet)
        factor = model.factor(self._parts)
        depth = factor * 2 ** (len(self._unet.config.block_out_channels) - 1)
        if self._side % depth:
            raise ValueError(
                f"dreambooth: size must be a multiple of {depth} "
                f"with base {self.base!r}. Got {self._side}."
            )
        self._shape = (self._unet.config.in_channels, self._side // factor, self._side // factor)
        self._space = f"vae:{self.base}:{self._side}:{self._vae_dtype}"

    def prepare(self, object_name: str, seed: int) -> Arrays:
        """Prior images of an object, as latents (n, c, h, w) float16, made by the base alone."""
        if self.prior_images == 0 or self.prior_weight == 0:
            return {}
        self._restore()
        condition = model.embed(self._parts, [o2n_prompts.prior_prompt(object_name)])
        noise = [self._noise("prior", object_name, seed, i) for i in range(self.prior_images)]
        rows = condition.expand(self.prior_images, -1, -1)
        steps, guidance = self.sample_steps, self.sample_guidance
        z = self._denoised(None, torch.stack(noise), rows, 1.0, steps, guidance, CPU_BATCH)
        _log.info("%s: %d prior images", object_name, self.prior_images)
        return {"latents": z.cpu().numpy().astype(np.float16)}

    def customize(self, support: Support, prior: Arrays) -> Arrays:
        """Fine-tune the UNet, without prior images on the support alone; see ``finetune``."""
        self._restore()
        images = sorted(support.images, key=lambda image: image.key)  # their order means nothing
        name = support.object_name
        captions = [o2n_prompts.instance_prompt(name), o2n_prompts.prior_prompt(name)]
        normal, general = model.embed(self._parts, captions)
        operations = operations_for(self.augment, name, support.orientation)
        how = self._side, operations, self.copies, support.seed
        sound = torch.cat(list(training_images.versions(images, *how)))
        z, damaged = self._encoded(sound, CPU_BATCH), None
        if self.damaged:
            copies = training_images.with_defects(sound, support.seed, *(x.key for x in images))
            damaged = self._encoded(copies, CPU_BATCH)
        shown = [finetune.Demonstrations(z, normal, 1.0, self.train_batch, damaged, self.damaged)]
        if "latents" in prior and self.prior_weight > 0:
            z = torch.from_numpy(np.array(prior["latents"])).float().to(self._device)
            shown.append(finetune.Demonstrations(z, general, self.prior_weight, self.train_batch))
        random = model.generator_of("customize", support.seed, *(x.key for x in images))
        state = finetune.finetune(self._parts, self._unet, shown, self._recipe, random, name)
        self.load(state, support)
        return state

    def load(self, state: Arrays, support: Support) -> None:
        """Put a customized model's change onto the base's weights."""
        self._restore()
        self._shared.changed(state)
        self._state, self._support = state, support
        self._embedded: dict[int, tuple[tuple[str, ...], torch.Tensor]] = {}

    def _restore(self) -> None:
        """Back to the base's own weights, bit for bit."""
        self._shared.bare()
        self._state, self._support = {}, None

    def generate(self, n: int, seed: int) -> Sequence[Pixels]:
        """Images for the pool: floor(n text_share) from text alone, then varied support images.

        Prompts go round the 30 sentences of Figure 5, support images go round.
        """
        support = self._loaded()
        conditions = self._conditions(30)[1]
        texts = int(n * self.text_share)
        rest = n - texts
        pool: list[Pixels] = []
        if texts:
            noise = torch.stack([self._noise("pool-text", seed, i) for i in range(texts)])
            rows = conditions[torch.arange(texts) % len(conditions)]
            z = self._denoised(None, noise, rows, 1.0, self.sample_steps, self.sample_guidance)
            pool += self._decoded(z)
        if rest:
            z = torch.stack(self._latents(support.images))
            z = z[torch.arange(rest) % len(z)]
            noise = torch.stack([self._noise("pool-image", seed, i) for i in range(rest)])
            rows = conditions[torch.arange(rest) % len(conditions)]
            strength, guidance = self.pool_strength, self.sample_guidance
            pool += self._decoded(self._denoised(z, noise, rows, strength, self.steps, guidance))
        return pool

    def personalize(self, images: Sequence[Image], seed: int) -> Personalized:
        """The one-to-normal image of each query (equations 2 and 3)."""
        support = self._loaded()
        prompts, conditions = self._conditions(self.prompts)
        p = len(prompts)
        together = max(1, self.batch // p) if self._cuda else 1
        nearest = self._small(support.images) if self.select == "support" else None
        side = (p if self.select == "all" else 1) * self._side
        kept = np.zeros((len(images), side, self._side, 3), np.uint8)
        similarity = np.zeros((len(images), p), np.float32)
        chosen = np.zeros(len(images), np.int64)
        latents = self._latents(images)
        turns = [slice(i, min(i + together, len(images))) for i in range(0, len(images), together)]
        edited = []
        with model.casting_once(self._unet, self._device, self._dtype):
            for now in turns:
                noise = torch.stack([self._noise("query", seed, x.key) for x in images[now]])
                z = torch.stack(latents[now]).repeat_interleave(p, 0)
                rows = (noise.repeat_interleave(p, 0), conditions.repeat(len(noise), 1, 1))
                how = (self.strength, self.steps, self.guidance, p)
                edited.append(self._denoised(z, *rows, *how))
        for now, z in zip(turns, edited, strict=True):
            some = images[now]
            n = len(some)
            candidates = np.stack(self._decoded(z, p))
            small = ssim.resized(torch.from_numpy(candidates).to(z).permute(0, 3, 1, 2) / 255)
            small = small.unflatten(0, (n, p))
            alike = ssim.ssim(small, self._small(some)[:, None])
            near = alike if self.select != "dissimilar" else -alike
            if nearest is not None:
                near = ssim.ssim(small[:, :, None], nearest).amax(2)
            best = near.argmax(1).cpu().numpy()
            candidates = candidates.reshape(n, p, self._side, self._side, 3)
            if self.select == "all":
                kept[now] = candidates.reshape(n, -1, self._side, 3)
            else:
                kept[now] = candidates[np.arange(n), best]
            similarity[now] = alike.cpu().numpy()
            chosen[now] = best
        return Personalized(kept, prompts, None if self.select == "all" else chosen, similarity)

    def _loaded(self) -> Support:
        if self._support is None:
            raise RuntimeError("dreambooth: load a customized model's state first")
        self._shared.changed(self._state)  # another generator may have had the UNet meanwhile
        return self._support

    def _noise(self, *turns: str | int) -> torch.Tensor:
        return model.normal(self._shape, *turns)

    def _small(self, images: Sequence[Image]) -> torch.Tensor:
        """Images at the side where similarity is measured: (N, 3, 240, 240) in [0, 1]."""
        pixels = (model.to_tensor(image.pixels, None, self._device) for image in images)
        return torch.cat([ssim.resized(one[None]) for one in pixels])

    def _conditions(self, count: int) -> tuple[tuple[str, ...], torch.Tensor]:
        if count not in self._embedded:
            prompts = o2n_prompts.normal_prompts(self._loaded().object_name, count)
            self._embedded[count] = (prompts, model.embed(self._parts, prompts))
        return self._embedded[count]

    def _encoded(self, images: torch.Tensor, cpu_batch: int) -> torch.Tensor:
        def run(first: int, end: int) -> torch.Tensor:
            return model.encode(self._parts, images[first:end].to(self._device), self._vae_dtype)

        return torch.cat(self._batches(run, len(images), cpu_batch, "encoding"))

    def _latents(self, images: Sequence[Image]) -> list[torch.Tensor]:
        """Latents of images, kept by the worker for all shots and seeds."""
        batch = self.batch if self._cuda else 1

        def compute(some: Sequence[Image]) -> list[torch.Tensor]:
            pixels = [model.to_tensor(x.pixels, self._side, self._device) for x in some]
            return list(self._encoded(torch.stack(pixels), 1))

        return self._features.get_or_compute(self._space, images, compute, batch)

    def _denoised(
        self,
        z: torch.Tensor | None,
        noise: torch.Tensor,
        conditions: torch.Tensor,
        strength: float,
        steps: int,
        guidance: float,
        cpu_batch: int = 1,
    ) -> torch.Tensor:
        """Noise latents to ``strength`` and denoise them; ``z`` None means from noise."""
        trail = model.timesteps(self._parts, strength, steps, self.start)
        if z is not None and not trail:
            return z

        def run(first: int, end: int) -> torch.Tensor:
            start = noise[first:end].to(self._device)
            if z is not None and strength < 1:
                t = torch.full((end - first,), trail[0], device=self._device)
                start = model.noised(self._parts, z[first:end], start, t)
            return model.denoise(
                self._parts,
                self._unet,
                start,
                trail,
                conditions[first:end],
                self._free,
                guidance,
                self.scheduler,
                self._dtype,
            )

        return torch.cat(self._batches(run, len(noise), cpu_batch, "denoising"))

    def _decoded(self, z: torch.Tensor, cpu_batch: int = 1) -> list[Pixels]:
        def run(first: int, end: int) -> np.ndarray:
            return model.to_pixels(model.decode(self._parts, z[first:end], self._vae_dtype))

        return list(np.concatenate(self._batches(run, len(z), cpu_batch, "decoding")))

    def _batches(
        self, run: Callable[[int, int], Any], count: int, cpu_batch: int, what: str
    ) -> list[Any]:
        batch = self.batch if self._cuda else cpu_batch
        return model.in_batches(run, count, batch, f"dreambooth, {what}")

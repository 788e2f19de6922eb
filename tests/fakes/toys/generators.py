"""A generator without a network: its state is the mean of the support."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from harness.interface import Arrays, Generator, Image, Personalized, Pixels, Support
from toys._tally import names, tally


class Blend(Generator):
    """Mixes the support's mean with noise, or with a query.

    Parameters
    ----------
    share : of the mean in a one-to-normal image
    spread : of the noise of generated images
    light : factor of all images
    prior : whether something is prepared for each object
    fails : the call that raises
    """

    gpus = 0.0
    generate_parameters = ("spread", "light")
    personalize_parameters = ("share", "light")

    def __init__(
        self,
        *,
        share: float = 0.5,
        spread: float = 8.0,
        light: float = 1.0,
        prior: bool = True,
        fails: str = "",
    ) -> None:
        self.share = share
        self.spread = spread
        self.light = light
        self.prior = prior
        self.fails = fails

    def prepare(self, object_name: str, seed: int) -> Arrays:
        self._call("prepare", object_name)
        return {"prior": np.random.default_rng(seed).random(3)}

    def customize(self, support: Support, prior: Arrays) -> Arrays:
        self._call("customize", support.object_name, names(support.images))
        mean = np.mean([image.pixels for image in support.images], axis=0)
        jitter = np.random.random(3)  # noqa: NPY002 - the engine seeds it
        return {"mean": mean + jitter + (prior["prior"] if self.prior else 0)}

    def load(self, state: Arrays, support: Support) -> None:
        self._call("load", support.object_name)
        self.mean = state["mean"]

    def generate(self, n: int, seed: int) -> Sequence[Pixels]:
        self._call("generate", n)
        noise = np.random.default_rng(seed).normal(0, self.spread, (n, *self.mean.shape))
        return list(np.clip((self.mean + noise) * self.light, 0, 255).astype(np.uint8))

    def personalize(self, images: Sequence[Image], seed: int) -> Personalized:
        self._call("personalize", names(images))
        rng = np.random.default_rng(seed)
        noise = rng.normal(0, 2, self.mean.shape)
        blended = [self.share * (self.mean + noise) + (1 - self.share) * i.pixels for i in images]
        picked = np.zeros(len(images), dtype=np.int64)
        similar = np.zeros((len(images), 1), dtype=np.float32)
        stacked = np.clip(np.stack(blended) * self.light, 0, 255).astype(np.uint8)
        return Personalized(stacked, ("a thing",), picked, similar)

    def _call(self, what: str, *words: object) -> None:
        tally(what, *words)
        if what == self.fails:
            raise RuntimeError(f"{what} failed")

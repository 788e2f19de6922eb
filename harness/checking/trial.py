"""Made-up images and calls of one cell, on which ``check`` tries a plug-in, under seals."""

from __future__ import annotations

from typing import Any

import numpy as np

from harness import config, plugins
from harness.errors import one_line
from harness.execution.memory.cache import FeatureMemory
from harness.execution.memory.seals import Altered, Sealed, Seals, Spoilt
from harness.execution.process import seeding
from harness.execution.process.promises import checked
from harness.interface import (
    Auxiliary,
    AuxiliaryCategory,
    Image,
    Method,
    Prediction,
    Queries,
    Support,
)
from harness.keys import hashed

SIZE = 96  # of the made-up images, pixels


class Broken(AssertionError):
    """A promise is not kept."""


def textures(n: int, seed: int, spots: bool = False) -> tuple[Image, ...]:
    """Made-up images: smooth noise on a grid of stripes, with a bright spot where asked for."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:SIZE, 0:SIZE] / SIZE
    out = []
    for i in range(n):
        phase, noise = rng.uniform(0, 0.3, 3), rng.normal(0, 6, (SIZE, SIZE, 3))
        stripes = [np.sin(2 * np.pi * (6 * x + p)) + np.sin(2 * np.pi * (4 * y - p)) for p in phase]
        picture = 120 + 35 * np.stack(stripes, -1) + noise
        if spots:
            cy, cx = rng.integers(16, SIZE - 32, 2)
            picture[cy : cy + 14, cx : cx + 14] += 110
        pixels = np.clip(picture, 0, 255).astype(np.uint8)
        pixels.flags.writeable = False
        out.append(Image(hashed(seed, i, spots), pixels))
    return tuple(out)


class Hands:
    """All that a plug-in is handed while it is tried, under seals as in a worker."""

    def __init__(self) -> None:
        self._seals = Seals()
        self._seals.begin()

    def features(self) -> FeatureMemory:
        """Memory of a fresh process; what it hands out is sealed, too."""
        return FeatureMemory(1 << 30, seals=self._seals)

    def images(self, images: tuple[Image, ...], what: str) -> tuple[Image, ...]:
        """These images, handed out."""
        for i, image in enumerate(images):
            self._seals.hand(Sealed(image.pixels, what=f"pixels of {what} {i}"))
        return images

    def value(self, value: Any, what: str) -> Any:
        """A state, or anything else that is made of arrays, handed out."""
        return self._seals.hand(Sealed(value, what=what))

    def leaves(self) -> None:
        """Broken unless all of it is what it was."""
        try:
            self._seals.check()
        except (Altered, Spoilt) as error:
            raise Broken(one_line(error)) from None


class Trial:
    """A method set up on the CPU with what it needs, and the calls of one cell."""

    def __init__(self, use: str, params: dict[str, Any]) -> None:
        self.imports = plugins.source(plugins.find("method", use)).imports
        self._use, self._params = use, params
        seeding.prepare(self.imports, 1)
        self.method: Method = self.make()
        self.shots = min(max(2, self.method.shots[0]), self.method.shots[-1])
        self.hands = Hands()
        self.state: Any = None

    @property
    def support(self) -> Support:
        """The support; its images are drawn anew, for the last ones may have been written to."""
        return self.supported(textures(self.shots, 1))

    @property
    def queries(self) -> tuple[Image, ...]:
        """Five normal and five anomalous ones, likewise."""
        return self.hands.images(textures(5, 2) + textures(5, 3, spots=True), "query")

    def make(self) -> Method:
        """A new object."""
        method: Method = config.build("method", self._use, self._params)
        return method

    def supported(self, images: tuple[Image, ...]) -> Support:
        """A support of these images, with a pool for a method that takes one."""
        pool: tuple[Image, ...] = ()
        if self.method.generator:
            pool = images + self.hands.images(textures(4, 9), "generated image")
        images = self.hands.images(images, "support image")
        return Support(images, "striped cloth", 0, pool)

    def set_up(self) -> Method:
        """A new object, set up as in a fresh process and trained, if it trains."""
        method = self.make()
        seeding.seed("1" * 32, self.imports)
        method.setup("cpu", self.hands.features())
        if method.auxiliary:
            if self.state is None:
                seeding.seed("2" * 32, self.imports)
                state = method.train(self._auxiliary(method))
                self.state = self.hands.value(state, "the trained state")
            method.load(self.state)
        return method

    def predict(
        self, method: Method, images: tuple[Image, ...], support: Support, maps: bool = True
    ) -> Prediction:
        """Fit it to a support and have it score these queries."""
        seeding.seed("3" * 32, self.imports)
        method.fit(support)
        return self.ask(method, images, maps)

    def ask(self, method: Method, images: tuple[Image, ...], maps: bool = True) -> Prediction:
        """Have it score queries, as it is fitted."""
        personalized: tuple[Image, ...] = ()
        if method.personalized:
            personalized = tuple(Image(i.key + "p", _blurred(i.pixels)) for i in images)
            self.hands.images(personalized, "one-to-normal image")
        seeding.seed("4" * 32, self.imports)
        return checked(method.predict(Queries(images, personalized, maps)), len(images))

    def _auxiliary(self, method: Method) -> Auxiliary:
        test = textures(4, 5) + textures(4, 6, spots=True)
        masks = [np.asarray(i.pixels, int).mean(-1) > 215 for i in test]
        labels = np.array([0] * 4 + [1] * 4)
        names = ("one", "two")
        train = self.hands.images(textures(12, 4), "auxiliary image")
        self.hands.images(test, "auxiliary test image")
        self.hands.value(masks, "masks of auxiliary images")
        self.hands.value(labels, "labels of auxiliary images")
        categories = [
            AuxiliaryCategory(n, n, train, test, labels, masks.__getitem__) for n in names
        ]
        return Auxiliary(tuple(categories), self.shots if method.auxiliary_per_shots else None, 0)


def _blurred(pixels: Any) -> Any:
    rolled = [np.roll(pixels.astype(float), s, axis=a) for s in (-1, 0, 1) for a in (0, 1)]
    blurred = np.mean(rolled, axis=0).astype(np.uint8)
    blurred.flags.writeable = False
    return blurred

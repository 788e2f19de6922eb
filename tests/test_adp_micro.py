"""ADP with the embedded models on procedural leather, and what planning reads of it."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from datasets.surfaces import Surfaces
from harness.execution.memory.cache import FeatureMemory
from harness.interface import Arrays, Image, Queries, Support
from methods.adp import Adp
from methods.generators.textual_inversion import TextualInversion
from tests.sweeps import HOME


def scores_of(method: Adp, support: Support, queries: list[Image]) -> np.ndarray:
    method.fit(support)
    return method.predict(Queries(tuple(queries), (), False)).scores


@pytest.fixture(scope="module")
def micro() -> tuple[TextualInversion, Arrays, Support]:
    """The micro models' concepts of four pictures of leather."""
    data = Surfaces(categories=["leather"])
    pictures = [Image(s.image, data.open(s.image)) for s in data.train("leather")[:4]]
    support = Support(tuple(pictures), "leather", seed=0)
    generator = TextualInversion(
        base="micro",
        encoder={"model": "micro"},
        encoder_size=128,
        temperature=0.5,  # at its own it is so sure that there is nothing left to learn
        train_steps=10,
        anomaly_steps=20,
        train_batch=1,
        learning_rate=5e-3,
        gamma=0.1,
        anomalies=6,
        validation=6,
        strength=0.3,
        steps=10,
        guidance=3.0,
    )
    generator.setup("cpu", FeatureMemory(1 << 28))
    return generator, generator.customize(support, {}), support


def test_normality_of_pseudo_anomalies_falls_by_learning(
    micro: tuple[TextualInversion, Arrays, Support],
) -> None:
    """Eq. 7 as printed, of images that were not learned from, before and after."""
    _, state, support = micro
    queries = [Image(f"pseudo {i}", pixels) for i, pixels in enumerate(state["validation"])]
    method = Adp(encoder={"model": "micro"}, size=128, temperature=0.5, association=False)
    method.setup("cpu", FeatureMemory(1 << 28))
    unlearned = {**state, "normal": state["object"][None], "anomalous": state["object"][None]}
    normality = {
        name: 1 - scores_of(method, Support(support.images, "", 0, (), what), queries).mean()
        for name, what in (("before", unlearned), ("after", state))
    }
    assert normality["after"] < normality["before"]


def test_adp_finds_real_damage_of_surfaces(micro: tuple[TextualInversion, Arrays, Support]) -> None:
    _, state, support = micro
    data = Surfaces(categories=["leather"], n_test=24)
    samples = data.test("leather")
    queries = [Image(s.image, data.open(s.image)) for s in samples]
    method = Adp(encoder={"model": "micro"}, size=128)
    method.setup("cpu", FeatureMemory(1 << 28))
    scores = scores_of(method, Support(support.images, "", 0, (), state), queries)
    labels = np.array([s.label for s in samples])
    better = scores[labels == 1][:, None] > scores[labels == 0]
    assert better.mean() > 0.9


def test_declarations_are_read_without_heavy_libraries() -> None:
    code = (
        "import sys; from harness.plugins import find; "
        "from harness.config.parameters import parameters; "
        "cls = find('generator', 'textual_inversion'); "
        "made = cls(base='micro', encoder={'model': 'micro'}); made.files(); "
        "assert not cls.prior and 'gamma' in parameters(cls) and 'micro' in made.note; "
        "adp = find('method', 'adp'); assert adp().generator; "
        "assert not adp(concepts=[], label=True).generator; "
        "bad = {'torch', 'diffusers', 'transformers', 'open_clip'} & set(sys.modules); "
        "assert not bad, bad"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=HOME, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

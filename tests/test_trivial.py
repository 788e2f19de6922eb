"""The method ``trivial``: the statistics that stand beside results, fitted on the support."""

from __future__ import annotations

import numpy as np
import pytest

from harness.checking.contract import check
from harness.data import shortcuts
from harness.execution.memory.cache import FeatureMemory
from harness.interface import Image, Queries, Support
from methods.trivial import STATISTICS, Trivial, statistics


def images(seed: int, n: int, light: int = 0) -> tuple[Image, ...]:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(light, light + 60, (n, 12, 18, 3), dtype=np.uint8)
    return tuple(Image(f"{seed}/{i}", p) for i, p in enumerate(pixels))


@pytest.mark.parametrize("shape", [(20, 30, 3), (3, 3, 3), (1, 5, 3)])
def test_statistics_are_those_beside_results(shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    beside = shortcuts.of_pixels(pixels)
    assert tuple(beside) == STATISTICS
    # The engine rounds grey to whole numbers.
    np.testing.assert_allclose(statistics(pixels), list(beside.values()), rtol=0.02, atol=0.6)


def test_scores_are_distances_from_the_supports_mean() -> None:
    method = Trivial(statistic="mean")
    method.setup("cpu", FeatureMemory(1 << 20))
    support, dark, light = images(0, 4, 100), images(1, 3, 20), images(2, 3, 100)
    method.fit(Support(support))
    prediction = method.predict(Queries(dark + light))
    mean = np.mean([statistics(image.pixels)[0] for image in support])
    expected = [abs(statistics(image.pixels)[0] - mean) for image in dark + light]
    np.testing.assert_allclose(prediction.scores, expected, rtol=1e-5)
    assert prediction.maps is None
    assert set(prediction.parts) == set(STATISTICS)
    assert prediction.scores[:3].min() > prediction.scores[3:].max()


def test_it_keeps_a_methods_promises(capsys: pytest.CaptureFixture[str]) -> None:
    assert check("trivial", {"statistic": "laplacian"}, None) == 0, capsys.readouterr().out

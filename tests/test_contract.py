"""Every built-in plug-in that can run here keeps its promises; one that breaks any is found out."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import contract, plugins

MICRO = {"model": "micro"}
#: Methods whose own weights no package brings are held to the same promises on small networks.
PARAMS: dict[str, dict[str, object]] = {
    "winclip": {"encoder": MICRO, "size": 96},
    "inctrl": {"encoder": MICRO, "size": 96, "epochs": 1, "steps": 2},
    "coop": {"encoder": MICRO, "size": 96, "epochs": 1},
    "o2n": {"encoder": MICRO, "size": 96, "epochs": 1},
    "adp": {"encoder": MICRO, "size": 96, "concepts": [], "label": True},
    "regad": {
        "encoder": {"model": "resnet10t", "weights": "random:0"},
        "size": 64,
        "epochs": 1,
        "batch": 6,
    },
}


@pytest.mark.parametrize("name", plugins.names("method"))
def test_methods_keep_their_promises(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    status = contract.check(name, PARAMS.get(name))
    assert status == 0, capsys.readouterr().out


@pytest.mark.parametrize("name", ["elpv", "surfaces"])
def test_datasets_keep_their_promises(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert contract.check(name) == 0, capsys.readouterr().out


HEAD = """
import numpy as np
from harness.interface import Method, Prediction, Queries, Support

class Mine(Method):
    "Distance of the mean colour."
    def __init__(self, *, scale: float = 1.0) -> None:
        self.scale = scale
    def fit(self, support: Support) -> None:
        self.mean = np.mean([i.pixels.mean((0, 1)) for i in support.images], 0)
    def predict(self, queries: Queries) -> Prediction:
        means = np.array([i.pixels.mean((0, 1)) for i in queries.images])
        scores = np.abs(means - self.mean).sum(1).astype(np.float32) * self.scale
        {body}
        return Prediction(scores)
"""

BREACHES = {
    "scores each query on its own": "scores = (scores - scores.min()) / (np.ptp(scores) + 1e-9)",
    "gives finite float32 scores": "scores[0] = np.nan",
    "leaves pixels as they are": "queries.images[0].pixels.setflags(write=True); "
    "queries.images[0].pixels[:] = 0",
    "gives the same result": "scores = scores + id(self) % 1000",
    "forgets earlier supports": "self.scale += 1.0",
    "gives the same scores when no maps": "scores = scores + 5 * queries.maps",
    "takes images of any size": "np.stack([i.pixels for i in queries.images])",
}


@pytest.mark.parametrize(("promise", "body"), BREACHES.items())
def test_a_breach_is_named(
    promise: str, body: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(HEAD.format(body=body))
    assert contract.check(str(file)) == 1
    broken = [x for x in capsys.readouterr().out.splitlines() if x.startswith("BROKEN")]
    assert any(promise in line for line in broken), broken


def test_a_sound_plugin_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.py"
    file.write_text(HEAD.format(body=""))
    assert contract.check(str(file)) == 0, capsys.readouterr().out


def test_parameters_under_other_names_are_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(HEAD.format(body="").replace("self.scale", "self.factor"))
    assert contract.check(str(file)) == 1
    assert "does not keep scale under its own name" in capsys.readouterr().out

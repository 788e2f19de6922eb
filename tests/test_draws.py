"""What is drawn at random follows from images, words and seeds, never from code."""

from __future__ import annotations

from pathlib import Path

from tests.sweeps import SQUARES, Runner, rows, sweep

PLUGINS = '''
"""Throws dice in every call."""
import numpy as np
from toys.generators import Blend
from toys.methods import Dice, Taught

class Thrower(Dice):
    def setup(self, device, features):
        super().setup(device, features)
        self.first = np.random.random()
    def predict(self, queries):
        prediction = super().predict(queries)
        prediction.scores[:] += np.float32(self.first) * np.random.random(len(prediction.scores))
        return prediction

class Learner(Taught):
    def predict(self, queries):
        prediction = super().predict(queries)
        prediction.scores[:] = self.factor * np.random.random(len(prediction.scores))
        return prediction

class Pool(Dice):
    generator = True
    def fit(self, support):
        super().fit(support)
        self.thrown = self.thrown + float(np.mean([i.pixels.mean() for i in support.pool]))

class Mixer(Blend):
    pass
'''


def test_code_that_does_the_same_draws_the_same(run_sweep: Runner, tmp_path: Path) -> None:
    """Artifacts are made anew, for it might do another thing; figures and scores stay."""
    scores, artifacts = [], []
    for name, first in (("before", "self.first"), ("after", "once = self.first")):
        file = tmp_path / "code" / name / "thrower.py"
        file.parent.mkdir(parents=True)
        file.write_text(PLUGINS.replace("self.first =", f"{first} ="))
        config = sweep(
            datasets=[{"use": SQUARES, "params": {"names": ["ant", "bee"]}}],
            methods=[
                {"use": f"{file}:Thrower"},
                {"use": f"{file}:Learner", "auxiliary": "leave-one-out"},
                {"use": f"{file}:Pool", "generator": "g"},
            ],
            generators={"g": {"use": f"{file}:Mixer", "pool": 4}},
            shots=[1, 2],
            seeds=[0, 1],
            shard=5,
        )
        assert run_sweep(config, storage=name) == 0
        folder = tmp_path / name / "toy"
        assert len(rows(folder)) == 24
        tables = sorted((folder / "predictions").rglob("*.csv"))
        scores.append([(path.relative_to(folder), path.read_bytes()) for path in tables])
        files = (tmp_path / name / ".artifacts").rglob("*.safetensors")
        artifacts.append(
            {(path.relative_to(tmp_path / name).parts[1], path.name) for path in files}
        )
    before, after = artifacts
    assert {"train", "customize", "generate", "predict"} <= {kind for kind, _ in before}
    assert not {pair for pair in before & after if pair[0] != "statistics"}
    assert scores[0] == scores[1]
    assert len({contents for _, contents in scores[0]}) == 24

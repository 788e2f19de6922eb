"""Every built-in plug-in that can run here keeps its promises; one that breaks any is found out."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import plugins
from harness.checking import contract
from tests.sweeps import command

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
    "leaves all it is handed as it is": "queries.images[0].pixels.setflags(write=True); "
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


WRITES = """
import numpy as np
import torch
from harness.interface import Method, Prediction, Queries, Support

class Writes(Method):
    "Zeroes what it is handed, past numpy's flag, and answers as if nothing were."
    auxiliary = personalized = generator = True
    def __init__(self, *, where: str) -> None:
        self.where = where
        self.targets = {}
    def setup(self, device, features) -> None:
        self.features = features
    def train(self, auxiliary):
        first = auxiliary.categories[0]
        self.targets |= {"labels": first.labels, "mask": first.masks(5)}
        self.targets["auxiliary"] = first.train[0].pixels
        self.zero()
        return {"w": np.ones(3)}
    def load(self, state) -> None:
        self.targets["trained"] = state["w"]
    def fit(self, support: Support) -> None:
        self.targets["support"] = support.images[0].pixels
        self.targets["pool"] = support.pool[-1].pixels
    def predict(self, queries: Queries) -> Prediction:
        compute = lambda some: [np.array([i.pixels.mean()]) for i in some]
        means = self.features.get_or_compute("mean", queries.images, compute)
        self.targets["query"] = queries.images[-1].pixels
        self.targets["personalized"] = queries.personalized[0].pixels
        scores = np.concatenate(means).astype(np.float32)
        self.targets["record"] = means[0]
        self.zero()
        return Prediction(scores)
    def zero(self) -> None:
        if self.where in self.targets:
            target = torch.from_numpy(self.targets[self.where])
            target.mul_(0) if target.dtype != torch.bool else target.logical_not_()
"""


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
@pytest.mark.parametrize(
    ("where", "what"),
    [
        ("nothing", ""),
        ("query", "pixels of query 9"),
        ("support", "pixels of support image 0"),
        ("pool", "pixels of generated image 3"),
        ("personalized", "pixels of one-to-normal image 0"),
        ("record", "features 'mean'"),
        ("trained", "the trained state"),
        ("mask", "masks of auxiliary images"),
        ("labels", "labels of auxiliary images"),
        ("auxiliary", "pixels of auxiliary image 0"),
    ],
)
def test_writing_to_anything_that_it_is_handed_is_a_breach(
    where: str, what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(WRITES)
    assert contract.check(str(file), {"where": where}) == bool(what)
    (line,) = [x for x in capsys.readouterr().out.splitlines() if "leaves all it is" in x]
    assert line.startswith("BROKEN" if what else "kept"), line
    assert f"it wrote to what it was handed: {what}" in line or not what, line


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


def test_a_check_leaves_no_noise(tmp_path: Path) -> None:
    """Not even of libraries that come with torch's compiler, at the end of the process."""
    file = tmp_path / "mine.py"
    file.write_text(
        "import torch._dynamo, triton\n" + HEAD.format(body="torch.ones(1), triton.jit")
    )
    done = command("check", file)
    assert done.returncode == 0, done.stdout
    assert done.stderr == ""
    assert all(line.endswith(" s]") for line in done.stdout.splitlines()[:-1])


EMPTY = """
from pathlib import Path
from harness.interface import Dataset, Sample

class Mine(Dataset):
    "Takes any folder for a category of its own."
    folders = ("mine",)
    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
    def categories(self):
        return sorted(path.name for path in self.root.iterdir())
    def train(self, category):
        return [Sample(f"{category}/{p.name}") for p in (self.root / category).glob("*.png")]
    def test(self, category):
        return []
"""


def test_a_tree_that_is_not_the_dataset_is_seen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An adapter that takes whatever folders lie there for categories, none of them with images."""
    file, elsewhere = tmp_path / "mine.py", tmp_path / "elsewhere"
    file.write_text(EMPTY)
    (elsewhere / "letters").mkdir(parents=True)
    assert contract.check(str(file), data_root=str(elsewhere)) == 1
    assert "letters: no training images" in capsys.readouterr().out
    done = command("data", file, "--data-root", elsewhere)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "no training images" in line
    assert str(elsewhere) in line

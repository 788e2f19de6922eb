"""``plan --why``: what made tasks new, told from what keys were made of when the sweep was run."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness import plugins
from harness.__main__ import main
from harness.planning import graph, origins
from harness.planning.reasons import Reasons
from harness.run import Options, prepare
from tests.sweeps import Runner, sweep, written

pytestmark = pytest.mark.usefixtures("toys")

METHOD = """
import numpy as np
from harness.interface import Method, Prediction
from {helper} import brightness


class Mine(Method):
    '''Brightness.'''

    def __init__(self, *, power: float = 1.0, weights: str = "WEIGHTS") -> None:
        self.power = power
        self.weights = weights

    def files(self):
        from pathlib import Path

        return [Path(self.weights)]

    def fit(self, support):
        pass

    def predict(self, queries):
        scores = [brightness(i.pixels) ** self.power for i in queries.images]
        return Prediction(np.array(scores, np.float32))
"""
HELPER = "def brightness(pixels):\n    return float(pixels.mean())  # of all three channels\n"


class Project:
    """A method with a helper and weights, and the sweep that runs it."""

    def __init__(self, folder: Path, run: Runner) -> None:
        self.folder, self._run = folder, run
        self.helper = folder / f"help_{folder.name}.py"
        self.method = folder / "mine.py"
        self.weights = folder / "weights.bin"
        self.weights.write_bytes(b"1")
        self.helper.write_text(HELPER)
        text = METHOD.replace("{helper}", self.helper.stem)
        self.method.write_text(text.replace("WEIGHTS", str(self.weights)))

    def config(self, **changes: Any) -> dict[str, Any]:
        data = {"use": "toys.data:Squares", "params": {"queries": 4}, "categories": ["ant"]}
        methods = [{"use": str(self.method), "label": "mine"}, {"use": "mean_color"}]
        return sweep(datasets=[data], methods=methods, shots=[1]) | changes

    def run(self) -> None:
        assert self._run(self.config()) == 0

    def why(self, capsys: pytest.CaptureFixture[str], **changes: Any) -> str:
        """What ``plan --why`` says below its table; code is looked at anew."""
        plugins.source.cache_clear()
        path = written(self.folder / "why.yaml", self.config(**changes))
        storage = str(self.folder / "runs")
        assert main(["plan", str(path), "--storage", storage, "--why"]) == 0
        after = capsys.readouterr().out.partition("conf/costs.yaml")[2].partition("\n")[2]
        return "".join(line for line in after.splitlines(True) if not line.startswith("Disk:"))


@pytest.fixture
def project(tmp_path: Path, run_sweep: Runner) -> Project:
    return Project(tmp_path, run_sweep)


def test_a_comment_re_runs_nothing_and_code_what_it_should(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "no sweep has run" in project.why(capsys)
    project.run()
    assert project.why(capsys) == "\nnothing is to do\n"
    project.helper.write_text(HELPER.replace("of all three", "of the three"))
    project.method.write_text(project.method.read_text().replace("Brightness.", "How bright."))
    assert project.why(capsys) == "\nnothing is to do\n"
    project.helper.write_text(HELPER.replace("mean", "max"))
    reason = f"source {project.helper.name} of method mine changed"
    assert rows(project.why(capsys)) == [("predict", 1, reason), ("evaluate", 1, reason)]


def test_parameters_files_seeds_and_the_engine_are_told(
    project: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    project.run()
    entry = {"use": str(project.method), "label": "mine"}
    methods = [entry | {"params": {"power": 1}}, {"use": "mean_color"}]
    assert project.why(capsys, methods=methods) == "\nnothing is to do\n", "it is the default"
    methods[0] = entry | {"params": {"power": 2}}
    reason = "parameter power of method mine: 1.0 -> 2.0"
    assert {r[2] for r in rows(project.why(capsys, methods=methods))} == {reason}
    (new,) = {r[2] for r in rows(project.why(capsys, seeds=[0, 7]))}
    assert new == "not planned before: seed 7"
    project.weights.write_bytes(b"2")
    (new,) = {r[2] for r in rows(project.why(capsys))}
    assert new == "file weights.bin of method mine changed"
    project.weights.write_bytes(b"1")
    params = {"queries": 4, "shift": 1}
    data = {"use": "toys.data:Squares", "params": params, "categories": ["ant"]}
    assert all("images of queries" in r[2] for r in rows(project.why(capsys, datasets=[data])))
    assert rows(project.why(capsys, evaluation_size=64)) == [
        ("evaluate", 2, "size of evaluation: 256 -> 64")
    ]
    monkeypatch.setattr(graph, "VERSION", graph.VERSION + 1)
    monkeypatch.setattr(origins, "VERSION", graph.VERSION)
    (new,) = {r[2] for r in rows(project.why(capsys))}
    assert new == f"version of engine: {graph.VERSION - 1} -> {graph.VERSION}"


def test_a_sweep_of_another_name_is_compared_to_the_most_alike(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    project.run()
    text = project.why(capsys, name="other", evaluation_size=64)
    assert "against the last run of toy" in text
    assert rows(text) == [("evaluate", 2, "size of evaluation: 256 -> 64")]
    (project.folder / "runs" / "toy" / "keys.json").write_text("{")
    text = project.why(capsys, evaluation_size=64)
    assert "toy/keys.json: damaged, or written by an earlier version" in text
    for path in (project.folder / "runs" / ".artifacts" / "evaluate").rglob("*.safetensors"):
        path.unlink()


def test_every_change_of_a_key_has_a_reason(tmp_path: Path, inputs_of: Callable[..., Any]) -> None:
    """For each change that the plan's own test knows, the tasks that are new are told why."""
    from tests.test_plan import CHANGES, everything

    before = inputs_of(everything())
    known = origins.origins(before.sweep, before.inputs.plan_inputs)
    for what, (changes, _) in CHANGES.items():
        after = inputs_of(everything(**changes))
        reasons = Reasons(after.sweep, after.inputs.plan_inputs, known)
        for key, task in after.graph.tasks.items():
            assert bool(reasons.of(task)) == (key not in before.graph.tasks), (what, task)


@pytest.fixture
def inputs_of(tmp_path: Path) -> Callable[..., Any]:
    from PIL import Image as Picture

    for name in ("train/good/0", "train/good/1", "test/good/0", "test/bad/0"):
        path = tmp_path / "AUX" / "thing" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Picture.new("RGB", (8, 8), (len(name), 3, 7)).save(path)

    def go(config: dict[str, Any]) -> Any:
        return prepare(Options(written(tmp_path / "c.yaml", config), data_root=str(tmp_path)))

    return go


def rows(text: str) -> list[tuple[str, int, str]]:
    """Lines of the table: kind, number of tasks, reason."""
    lines = [re.fullmatch(r"(\w+) +(\d+)  (.*)", line) for line in text.splitlines()]
    return [(m[1], int(m[2]), m[3]) for m in lines if m]

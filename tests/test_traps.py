"""Traps that other harnesses fell into; each test names its trap."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness import config
from harness.execution.executors.executor import Settings
from harness.planning import inputs
from harness.results import metrics
from tests.sweeps import HOME, NEAR, SQUARES, Runner, Tally, rows, sweep, written

pytestmark = [pytest.mark.timeout(900), pytest.mark.usefixtures("toys")]


@pytest.mark.parametrize(
    "change",
    [lambda x: x, lambda x: 1e6 * x - 3e5, np.exp, np.tanh, lambda x: x - 1e3],
    ids=["as it is", "large", "exp", "tanh", "negative"],
)
def test_trap_1_scores_of_any_range_are_ranked_raw(change: Callable[..., Any]) -> None:
    """Clamping to 0..1 or a sigmoid before ranking changed AUROC by up to 0.3."""
    labels = np.array([0, 1, 0, 1, 1, 0, 1])
    scores = np.array([0.1, 0.4, 0.35, 0.8, 1.7, 2.5, 3.0])
    pairs = [(a, b) for a in scores[labels == 1] for b in scores[labels == 0]]
    expected = np.mean([(a > b) + 0.5 * (a == b) for a, b in pairs])
    auroc = metrics.image_auroc(labels, change(scores))
    assert auroc == pytest.approx(expected)


def test_trap_2_no_query_is_set_aside_and_none_changes_anothers_score(
    run_sweep: Runner, tmp_path: Path
) -> None:
    """Half of the queries went into thresholds and normalisers."""
    many = {"use": SQUARES, "params": {"queries": 20}, "categories": ["ant"]}
    few = {**many, "queries": {"normal": 3, "anomalous": 3}}
    assert run_sweep(sweep(name="many", datasets=[many])) == 0
    assert run_sweep(sweep(name="few", datasets=[few])) == 0
    tables = {}
    for name in ("many", "few"):
        folder = tmp_path / "runs" / name
        (row,) = rows(folder)
        table = rows(folder / "predictions/Near/Squares/ant", "k2_s0.csv")
        assert int(row["n_normal"]) + int(row["n_anomalous"]) == len(table)
        tables[name] = {r["query"]: r["score"] for r in table}
    assert len(tables["many"]) == 20
    assert len(tables["few"]) == 6
    assert tables["few"].items() <= tables["many"].items()


def test_trap_3_the_same_config_gives_the_same_numbers(
    run_sweep: Runner, tally: Tally, tmp_path: Path
) -> None:
    """Seeding after the model was built gave three results for one config."""
    config = sweep(methods=[{"use": "toys.methods:Dice"}], seeds=[0, 1])
    for storage in ("first", "second"):
        assert run_sweep(config, storage) == 0
    first, second = ((tmp_path / s / "toy/results.csv").read_bytes() for s in ("first", "second"))
    assert first == second
    assert tally.counts()["predict"] == 8, "nothing was taken over from one to the other"


def test_trap_4_a_failure_is_told_and_loses_nothing(run_sweep: Runner, tmp_path: Path) -> None:
    """Exit status 0 with failed cells; finished ones lost when a later one failed."""
    trouble = {"use": "toys.trouble:Trouble", "params": {"how": "raise", "where": "ant"}}
    assert run_sweep(sweep(methods=[trouble])) == 1
    folder = tmp_path / "runs" / "toy"
    assert [r["category"] for r in rows(folder)] == ["bee"]
    assert [r["category"] for r in rows(folder, "failures.csv")] == ["ant"]


def test_trap_5_references_and_queries_go_through_one_door(
    run_sweep: Runner, tmp_path: Path
) -> None:
    """A support image that is asked as a query is at distance zero: both are prepared alike."""
    path = tmp_path / "same.py"
    path.write_text(
        "from toys.data import Squares\n\n\nclass Same(Squares):\n"
        "    def test(self, category):\n"
        "        return self.train(category)[:3] + super().test(category)[1::2]\n"
        "    def train(self, category):\n        return super().train(category)[:3]\n"
    )
    # The engine refuses to draw what is tested; so the references are given.
    names = [f"ant/train/{i:03}" for i in range(3)]
    support = {"d": {"ant": {"0": names}}}
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "refs.json").write_text(json.dumps(support))
    data = {"use": str(path), "label": "d", "categories": ["ant"], "support": "refs.json"}
    assert run_sweep(sweep(datasets=[data], shots=[3])) == 0
    table = rows(tmp_path / "runs/toy/predictions/Near/d/ant", "k3_s0.csv")
    assert {r["query"] for r in table if float(r["score"]) == 0} == set(names)


def test_trap_6_references_are_recorded_by_name(run_sweep: Runner, tmp_path: Path) -> None:
    """Results move by points with the references; nobody could say which they were."""
    first = sweep(name="first", shots=[1, 3], seeds=[0, 1])
    assert run_sweep(first) == 0
    recorded = json.loads((tmp_path / "runs/first/support.json").read_text())
    names = recorded["Squares"]["ant"]["1"]
    assert len(set(names)) == 3
    assert all(n.startswith("ant/train/") for n in names)
    # Somebody else's sweep can ask for exactly those, and gets the same results.
    (tmp_path / "conf" / "refs.json").write_text(json.dumps(recorded))
    data = [{"use": SQUARES, "support": "refs.json"}]
    assert run_sweep(sweep(name="again", datasets=data, shots=[1, 3], seeds=[0, 1])) == 0
    results = [(tmp_path / "runs" / n / "results.csv").read_bytes() for n in ("first", "again")]
    assert results[0] == results[1]


def test_trap_7_a_perfect_map_has_an_aupro_of_one_and_none_has_more() -> None:
    """AUPRO came out above 1; average precision was a trapezoid."""
    rng = np.random.default_rng(0)
    masks = np.zeros((4, 32, 32), dtype=bool)
    masks[:2, 4:9, 4:9] = True
    masks[1, 20:22, 20:30] = True
    assert metrics.aupro(masks, masks.astype(np.float32)) == pytest.approx(1.0)
    for _ in range(5):
        assert 0 <= metrics.aupro(masks, rng.random(masks.shape).astype(np.float32)) <= 1
    # Two anomalies at ranks 1 and 3: precision 1/1 and 2/3 at each; a trapezoid gives 0.708.
    auprc = metrics.image_auprc(np.array([1, 0, 1, 0]), np.array([4.0, 3, 2, 1]))
    assert auprc == pytest.approx((1 + 2 / 3) / 2)


def test_trap_9_malloc_is_told_before_python_starts(tmp_path: Path) -> None:
    """The same cell took 7 or 14 s."""
    settings = Settings(str(tmp_path), None, 1, 2, 60.0, 1, 0.0)
    variables = settings.environment()
    for name in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_"):
        assert int(variables[name]) >= 100_000_000
    assert variables["OMP_NUM_THREADS"] == "2"
    from harness.execution.executors.forkserver import ForkServer

    fork_server = ForkServer(variables, (), {"storage": str(tmp_path)})
    environ = Path(f"/proc/{fork_server._process.pid}/environ")
    while not (text := environ.read_bytes()):  # until the child has become another program
        time.sleep(0.01)
    seen = text.decode().split("\0")
    fork_server.close()
    assert {f"{k}={v}" for k, v in variables.items()} <= set(seen)


def test_trap_10_only_the_driver_logs(tmp_path: Path) -> None:
    """Parallel writers race in MLflow, and a global active run leaks."""
    for path in (HOME / "harness").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert (node.value.id, node.attr) != ("mlflow", "start_run"), path.name
                assert node.attr not in ("set_experiment", "set_tracking_uri", "autolog")
    code = (
        "import sys, harness.execution.process.worker, harness.execution.executors.forkserver\n"
        "assert 'mlflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=HOME, check=True)


def test_trap_11_a_sweep_runs_where_there_is_no_network(tmp_path: Path) -> None:
    """Hub code tried again for minutes. Here nothing is asked while a config is planned."""
    conf = written(tmp_path / "c.yaml", sweep(methods=[{"use": NEAR}, {"use": "mean_color"}]))
    code = (
        "import socket, sys\n"
        "def refuse(*_): raise AssertionError('the network was asked')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "from harness.__main__ import main\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    words = ["plan", str(conf), "--storage", str(tmp_path / "runs")]
    subprocess.run(
        [sys.executable, "-c", code, *words], cwd=HOME, check=True, env=os.environ, timeout=600
    )


def test_labels_never_reach_a_method(run_sweep: Runner, tally: Tally, tmp_path: Path) -> None:
    data = [{"use": SQUARES, "params": {"queries": 60}, "categories": ["ant"]}]
    entries = sweep(datasets=data, methods=[{"use": "toys.methods:Spy"}], shard=60)
    assert run_sweep(entries) == 0
    seen = [line.split() for line in tally.new()]
    queries = [words for words in seen if words[0] == "query"]
    assert len(queries) == 60
    for words in queries:
        assert set(words[2:]) == {"_pixels", "key", "pixels"}
        assert len(words[1]) == 32
        assert not {"good", "square", "ant"} & set(words[1].split("/"))
    path = written(tmp_path / "conf.yaml", entries)
    loaded = config.load(path)
    (category,) = inputs.collect_inputs(loaded, path, None).plan_inputs.categories
    label = {r.key: r.sample.label for r in category.queries}
    order = np.array([label[words[1]] for words in queries])
    assert order.sum() == 30
    place = np.arange(60)
    assert abs(np.corrcoef(place, order)[0, 1]) < 0.45, "3.5 standard deviations"
    number = np.array([int(words[1][:12], 16) for words in queries], dtype=float)
    assert abs(np.corrcoef(number, order)[0, 1]) < 0.45

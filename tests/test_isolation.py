"""Which file may import what, and that planning loads nothing heavy."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.tasks.kinds import KINDS
from tests.sweeps import HOME

HEAVY = ("torch", "torchvision", "timm", "open_clip", "diffusers", "transformers", "peft")
ENGINE = sorted((HOME / "harness").rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Top-level names a file imports, wherever the statement stands."""
    packages = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            packages |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            packages.add(str(node.module).split(".")[0])
    return packages


def test_kinds_of_tasks_are_named_by_their_classes_alone() -> None:
    """To add one is to touch its class, the plan and the worker: no list of names elsewhere."""
    names = {affix % kind for kind in KINDS for affix in ("%s", "%s_s", "%s_ms", "%s_gpu_ms")}
    theirs = {"tasks/kinds.py", "planning/graph.py", "execution/process/work.py"}
    elsewhere = {
        f"{path.relative_to(HOME / 'harness')}:{node.lineno}: {node.value!r}"
        for path in ENGINE
        if str(path.relative_to(HOME / "harness")) not in theirs
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and node.value in names
    }
    train = {name for name in elsewhere if name.startswith("data/audit.py:")}
    assert all(name.endswith("'train'") for name in train)  # the split of a dataset, no task
    assert elsewhere == train


@pytest.mark.parametrize(
    ("package", "allowed"),
    [
        ("ray", {"ray_executor"}),
        ("mlflow", {"mlflow_runs"}),
        ("pydantic", {"reading", "sweep", "parameters", "schema", "costs"}),
        ("yaml", {"yaml_file", "costs", "writer", "published", "reader", "purge"}),
        ("torch", {"seeding", "preload"}),
        ("fsspec", {"store"}),
    ],
)
def test_a_package_is_imported_where_it_belongs(package: str, allowed: set[str]) -> None:
    users = {path.stem for path in ENGINE if package in imported(path)}
    assert users <= allowed
    assert users, f"nobody imports {package}: this test tests nothing"


def test_plugins_do_not_import_the_engine() -> None:
    for folder in ("methods", "datasets"):
        # Near duplicates are the engine's to define; an adapter may drop them by the same rule.
        more = {"harness.data.thumbnails"} if folder == "datasets" else set()
        allowed = {"harness.interface"} | more
        for path in (HOME / folder).rglob("*.py"):
            names = engine_modules(ast.parse(path.read_text()))
            assert names <= allowed, f"{path.name}: {names}"
            assert not imported(path) & {"ray", "mlflow"}, path.name


@pytest.mark.parametrize(
    ("line", "module"),
    [
        ("import harness.execution.process.worker", "harness.execution.process.worker"),
        ("import harness.execution as e", "harness.execution"),
        ("from harness import run", "harness.run"),
        ("from harness.planning import graph", "harness.planning.graph"),
        ("from harness.interface import Method", "harness.interface"),
    ],
)
def test_every_form_of_import_is_seen(line: str, module: str) -> None:
    assert engine_modules(ast.parse(line)) == {module}


def engine_modules(tree: ast.AST) -> set[str]:
    """Modules of the engine that a file imports, by whatever form of statement."""
    modules = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {a.name for a in node.names if a.name.split(".")[0] == "harness"}
        elif isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] == "harness":
            for alias in node.names:
                below = HOME.joinpath(*str(node.module).split("."), alias.name)
                is_module = below.with_suffix(".py").is_file() or below.is_dir()
                modules.add(f"{node.module}.{alias.name}" if is_module else str(node.module))
    return modules


def loaded(code: str, *words: str) -> set[str]:
    """Top-level modules that a fresh process has loaded after the code."""
    code += "\nimport json, sys\nnames = sorted({m.split('.')[0] for m in sys.modules})"
    code += "\nprint('\\n' + json.dumps(names))"
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=HOME,
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_planning_loads_nothing_heavy(tmp_path: Path) -> None:
    conf = tmp_path / "conf.yaml"
    conf.write_text(
        "name: planned\ndatasets: [{use: elpv}]\nshots: [2]\nseeds: [0]\n"
        "methods: [{use: patchcore}, {use: padim}, {use: mean_color}]\n"
    )
    code = "import sys; from harness.__main__ import main; assert main(sys.argv[1:]) == 0"
    modules = loaded(code, "plan", str(conf), "--storage", str(tmp_path / "runs"))
    assert not modules & {*HEAVY, "ray", "mlflow", "matplotlib"}


def test_the_declarations_of_every_built_in_are_read_without_loading() -> None:
    code = (
        "from harness import plugins\n"
        "for kind in plugins.KINDS:\n"
        "    for name in plugins.names(kind): plugins.find(kind, name)"
    )
    assert not loaded(code) & {*HEAVY, "ray", "mlflow"}


def test_importing_the_interface_loads_numpy_at_most() -> None:
    assert not loaded("import harness.interface") & {*HEAVY, "ray", "mlflow", "yaml", "pydantic"}


def test_no_dependency_imports_the_other_package_of_that_name() -> None:
    """A library that says ``import datasets`` at its top would get this project's folder."""
    names = [d.split(">")[0].split("[")[0] for d in _dependencies()]
    modules = {"pillow": "PIL", "pyyaml": "yaml", "scikit-learn": "sklearn"}
    modules |= {"open_clip_torch": "open_clip", "elpv-dataset": "elpv_dataset"}
    packages = [modules.get(n, n.replace("-", "_")) for n in names]
    code = (
        "import importlib, sys\nfor name in sys.argv[1:]:\n    importlib.import_module(name)\n"
        "assert 'datasets' not in sys.modules, sys.modules['datasets']"
    )
    assert "datasets" not in loaded(code, *packages)


def _dependencies() -> list[str]:
    import tomllib

    with (HOME / "pyproject.toml").open("rb") as file:
        dependencies: list[str] = tomllib.load(file)["project"]["dependencies"]
    installed = {
        d.metadata["Name"].lower().replace("_", "-") for d in importlib.metadata.distributions()
    }
    return [
        d
        for d in dependencies
        if d.split(">")[0].split("[")[0].lower().replace("_", "-") in installed
    ]


def test_another_package_called_datasets_is_found_out(tmp_path: Path) -> None:
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "__init__.py").touch()
    done = subprocess.run(
        [sys.executable, "-c", "import harness"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(HOME)])},
    )
    assert done.returncode == 1
    assert "not the one beside 'harness'" in done.stderr

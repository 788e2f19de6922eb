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

from tests.sweeps import HOME

HEAVY = ("torch", "torchvision", "timm", "open_clip", "diffusers", "transformers", "peft")
ENGINE = sorted((HOME / "harness").glob("*.py"))


def imported(path: Path) -> set[str]:
    """Top-level names a file imports, wherever the statement stands."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(str(node.module).split(".")[0])
    return found


@pytest.mark.parametrize(
    ("package", "allowed"),
    [
        ("ray", {"ray_runner"}),
        ("mlflow", {"tracking"}),
        ("pydantic", {"config", "costs"}),
        ("yaml", {"config", "costs", "selection", "ledger", "published", "sweep_folder"}),
        ("torch", {"seeding", "worker", "process", "contract"}),
        ("fsspec", {"store"}),
    ],
)
def test_a_package_is_imported_where_it_belongs(package: str, allowed: set[str]) -> None:
    users = {path.stem for path in ENGINE if package in imported(path)}
    assert users <= allowed
    assert users, f"nobody imports {package}: this test tests nothing"


def test_plugins_do_not_import_the_engine() -> None:
    for folder in ("methods", "methods/generators", "datasets"):
        for path in (HOME / folder).glob("*.py"):
            tree = ast.parse(path.read_text())
            names = {
                str(node.module)
                for node in ast.walk(tree)
                if isinstance(node, ast.ImportFrom) and str(node.module).startswith("harness")
            }
            assert names <= {"harness.interface"}, f"{path.name}: {names}"
            assert not imported(path) & {"ray", "mlflow"}, path.name


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
    found = loaded(code, "plan", str(conf), "--storage", str(tmp_path / "runs"))
    assert not found & {*HEAVY, "ray", "mlflow", "matplotlib"}


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
    wanted = [modules.get(n, n.replace("-", "_")) for n in names]
    code = (
        "import importlib, sys\nfor name in sys.argv[1:]:\n    importlib.import_module(name)\n"
        "assert 'datasets' not in sys.modules, sys.modules['datasets']"
    )
    assert "datasets" not in loaded(code, *wanted)


def _dependencies() -> list[str]:
    import tomllib

    with (HOME / "pyproject.toml").open("rb") as file:
        found: list[str] = tomllib.load(file)["project"]["dependencies"]
    installed = {
        d.metadata["Name"].lower().replace("_", "-") for d in importlib.metadata.distributions()
    }
    return [
        d for d in found if d.split(">")[0].split("[")[0].lower().replace("_", "-") in installed
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

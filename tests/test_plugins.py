"""Names to classes, and the hash of the code that a class consists of."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import plugins
from harness.errors import InputError
from tests.sweeps import FAKES

METHOD = """
from harness.interface import Method
class Mine(Method):
    def __init__(self, *, a: int = 1): self.a = a
    def fit(self, support): ...
    def predict(self, queries): ...
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Writes modules of a package outside the checkout, importable while the test runs."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(**modules: str) -> Path:
        for name, text in modules.items():
            path = tmp_path / (name.replace("__dot__", "/") + ".py")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        for name in [n for n in sys.modules if n.startswith(("out_", "_file_"))]:
            del sys.modules[name]
        importlib.invalidate_caches()
        return tmp_path

    return write


def said(kind: str, use: str) -> str:
    with pytest.raises(InputError) as caught:
        plugins.find(kind, use, "here")
    text = str(caught.value)
    assert "\n" not in text, "one line"
    assert text.startswith("here: ")
    return text


def test_built_in_plugins_are_found_by_name() -> None:
    assert plugins.find("method", "mean_color").__name__ == "MeanColor"
    assert "mean_color" in plugins.names("method")
    assert "elpv" in plugins.names("dataset")
    assert not [n for n in plugins.names("method") if n.startswith("_")]


def test_unknown_names_come_with_a_suggestion() -> None:
    assert "Did you mean 'mean_color'?" in said("method", "mean_colour")
    assert "Available: " in said("dataset", "zzz")


def test_dotted_path_and_file_path_outside_the_checkout(package: Callable[..., Path]) -> None:
    root = package(out_one=METHOD)
    by_name = plugins.find("method", "out_one:Mine")
    by_file = plugins.find("method", str(root / "out_one.py"))
    assert by_name.__name__ == by_file.__name__ == "Mine"
    assert plugins.find("method", f"{root}/out_one.py:Mine") is by_file


def test_a_class_may_be_handed_on_by_its_package(package: Callable[..., Path]) -> None:
    package(out_pkg__dot____init__="from out_pkg.core import Mine\n", out_pkg__dot__core=METHOD)
    assert plugins.find("method", "out_pkg:Mine").__module__ == "out_pkg.core"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import no_such_thing", "No module named 'no_such_thing'"),
        ("x = 1 / 0", "ZeroDivisionError"),
        ("def f(:", "SyntaxError"),
        ("import sys; sys.exit(0)", "SystemExit"),
        ("x = 1", "must define one Method class"),
        (METHOD.replace("def predict", "def predicts"), "does not define predict"),
        (METHOD + METHOD.replace("Mine", "Other"), "found ['Mine', 'Other']"),
    ],
)
def test_modules_that_are_no_plugin(package: Callable[..., Path], text: str, expected: str) -> None:
    root = package(out_bad=text)
    assert expected in said("method", f"{root}/out_bad.py")


def test_a_class_that_is_not_there(package: Callable[..., Path]) -> None:
    package(out_two=METHOD)
    assert "Did you mean 'Mine'?" in said("method", "out_two:Mini")
    assert "has no Dataset class" in said("dataset", "out_two:Mine")
    assert "no such file" in said("method", "nowhere/mine.py")
    assert "cannot be imported" in said("method", "out_nowhere:Mine")


def digest(package: Callable[..., Path], use: str = "out_a:Mine", **modules: str) -> str:
    package(**modules)
    return plugins.source(plugins.find("method", use)).digest


def test_source_covers_helpers_however_they_are_imported(package: Callable[..., Path]) -> None:
    ways = [
        "import out_help",
        "from out_help import value",
        "def later():\n    import out_help",
        "import out_middle",
        "from out_pack import inner",
        "import out_pack.inner",
    ]
    helpers = {"out_middle": "import out_help", "out_pack__dot____init__": ""}
    inner = {"out_pack__dot__inner": "from out_help import value"}
    for way in ways:
        text = f"{way}\n{METHOD}"
        digests = {
            value: digest(package, out_a=text, out_help=f"value = {value}", **helpers, **inner)
            for value in (1, 2)
        }
        assert digests[1] != digests[2], way
        again = digest(package, out_a=text, out_help="value = 1", **helpers, **inner)
        assert again == digests[1], way


def test_source_leaves_out_what_is_not_imported(package: Callable[..., Path]) -> None:
    before = digest(package, out_a=METHOD, out_help="value = 1")
    assert digest(package, out_a=METHOD, out_help="value = 2") == before


def test_source_follows_relative_imports(package: Callable[..., Path]) -> None:
    def of(value: int) -> str:
        files = {"out_pkg__dot____init__": "", "out_pkg__dot__deep__dot____init__": ""}
        files["out_pkg__dot__help"] = f"value = {value}"
        files["out_pkg__dot__deep__dot__mine"] = "from ..help import value\n" + METHOD
        return digest(package, "out_pkg.deep.mine:Mine", **files)

    assert of(1) != of(2)
    assert of(1) == of(1)


def test_source_does_not_depend_on_where_it_lies(tmp_path: Path) -> None:
    digests = set()
    for folder in ("a", "b"):
        path = tmp_path / folder / "mine.py"
        path.parent.mkdir()
        path.write_text(METHOD)
        digests.add(plugins.source(plugins.find("method", str(path))).digest)
    assert len(digests) == 1


def test_an_installed_plugin_does_not_drag_its_neighbours_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site-packages"
    site.mkdir()
    (site / "out_huge.py").write_text("x = 1")
    (site / "out_installed.py").write_text("import out_huge\n" + METHOD)
    monkeypatch.syspath_prepend(str(site))
    before = plugins.source(plugins.find("method", "out_installed:Mine"))
    assert "out_huge" in before.imports
    (site / "out_huge.py").write_text("x = 2")
    plugins.source.cache_clear()
    assert plugins.source(plugins.find("method", "out_installed:Mine")) == before


def test_the_source_of_a_built_in_is_its_own_and_its_helpers() -> None:
    began = time.process_time()
    for name in plugins.names("method"):
        plugins.source(plugins.find("method", name))
    assert time.process_time() - began < 20
    a, b = (plugins.source(plugins.find("method", n)).digest for n in ("mean_color", "patchcore"))
    assert a != b


def test_fakes_do_not_hide_a_top_level_package() -> None:
    assert {p.name for p in FAKES.iterdir()} & {"methods", "datasets", "harness"} == set()

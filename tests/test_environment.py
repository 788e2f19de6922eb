"""Commands typed in a shell where nothing is activated."""

from __future__ import annotations

import pytest

from harness import environment
from tests.checkouts import Checkout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    return Checkout(tmp_path_factory.mktemp("home"))


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("python -m harness list methods", "patchcore"),
        ("python -m tools.example_pictures", "usage: python -m tools.example_pictures FOLDER"),
        ("python -m benchmarks.coverage --help", "--trials"),
    ],
)
def test_a_command_goes_on_in_the_environment_beside_the_checkout(
    checkout: Checkout, command: str, says: str
) -> None:
    done = checkout.type(command)
    assert says in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["harness list", "benchmarks.coverage"])
def test_without_an_environment_one_line_says_what_to_do(checkout: Checkout, command: str) -> None:
    hidden = ".venv/bin/hidden"
    done = checkout.type(
        f"mv .venv/bin/python {hidden}; python -m {command} || status=$?; "
        f"mv {hidden} .venv/bin/python; exit $status"
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"python -m {command.split()[0]}: ")
    assert "make setup" in line
    assert "numpy" in line


def test_nothing_happens_where_all_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment.os, "execv", lambda *_: pytest.fail("went elsewhere"))
    environment.enter()


def test_a_module_that_is_only_imported_stays_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "find_spec", lambda _: None)
    monkeypatch.setattr(environment.sys, "orig_argv", ["python", "-m", "pytest", "-m", "tools"])
    environment.enter("tools")

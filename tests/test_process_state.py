"""What a task changed in its process, where torch is loaded by it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.sweeps import HOME

CODE = """
import sys
from harness.execution.process_state import ProcessState
assert "torch" not in sys.modules
state = ProcessState()
state.note()
import torch
{}
print(state.changed())
"""


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("pass", ""),
        ("torch.use_deterministic_algorithms(True)", ""),
        ("torch.set_default_dtype(torch.float64)", "it changed torch (get_default_dtype)"),
        ("torch.set_grad_enabled(False)", "it changed torch (is_grad_enabled)"),
    ],
)
def test_loading_torch_is_no_change_and_more_is(line: str, expected: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(line)],
        cwd=HOME,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == expected


def test_a_task_without_torch_leaves_nothing_that_the_next_one_finds_changed() -> None:
    code = """
import torch  # as a worker's process has it from its start
from harness.execution import seeding
from harness.execution.process_state import ProcessState
state = ProcessState()
for imports in ((), ("torch",), ()):
    seeding.prepare(imports, 1)
    state.note()
    assert state.changed() == ""
print(torch.backends.cudnn.deterministic)
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=HOME, capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"

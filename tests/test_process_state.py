"""What a task changed in its process, where torch is loaded by it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.sweeps import HOME, sweep, written

CODE = """
import sys
from harness.execution.process.process_state import ProcessState
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
from harness.execution.process import seeding
from harness.execution.process.process_state import ProcessState
state = ProcessState()
for imports in ((), ("torch",), ()):
    state.compare()
    seeding.prepare(imports, 1)
    state.note()
    assert state.changed() == ""
print(torch.backends.cudnn.deterministic)
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=HOME, capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


def test_torch_that_is_loaded_to_look_for_a_gpu_is_nobodys_change(
    toys: None, tmp_path: Path
) -> None:
    """A worker with a share of a GPU looks for it after the task has begun."""
    code = """
import sys
from pathlib import Path
from harness.execution.process.worker import Worker
from harness.running.options import Options
from harness.planning.payload import Payloads
from harness.run import prepare
ready = prepare(Options(Path(sys.argv[1])))
payloads = Payloads(ready.sweep, ready.inputs, ready.graph)
worker = Worker(sys.argv[2], gpus=0.5)
assert "torch" not in sys.modules
done = [worker.run(payloads.write(task)) for task in ready.graph.tasks.values()]
assert "torch" in sys.modules
print(len(done), {one.error for one in done}, {one.replace for one in done})
"""
    conf = written(tmp_path / "toy.yaml", sweep())
    command = [sys.executable, "-c", code, str(conf), str(tmp_path / "runs")]
    done = subprocess.run(command, cwd=HOME, capture_output=True, text=True, check=False)
    assert done.stdout == "4 {''} {''}\n", done.stdout + done.stderr

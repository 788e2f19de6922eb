"""Libraries that workers load as they start, with and without the compiler."""

from __future__ import annotations

import subprocess
import sys

from tests.sweeps import HOME

CODE = """
import sys
from harness.execution.executors import preload
preload.load(("no_such_library", "timm"))
assert {"timm", "torchvision"} <= sys.modules.keys()
assert preload.COMPILER not in sys.modules
import torch, torchvision
with preload._disabled_later():
    function = torch.compiler.disable(lambda x: x + 1)
    reasoned = torch.compiler.disable(reason="none")(lambda x: x + 2)
assert torch.compiler.disable.__module__ == "torch.compiler"
assert (function(1), reasoned(1)) == (2, 3)
assert preload.COMPILER not in sys.modules
asked = sys.modules["torchvision.ops.roi_align"].is_compile_supported("cpu")
assert preload.COMPILER in sys.modules
from torch._dynamo.utils import is_compile_supported
assert asked == is_compile_supported("cpu")
compiled = torch.compile(lambda x: function(reasoned(x)), backend="eager")
assert compiled(torch.ones(2)).tolist() == [4, 4]
"""


def test_the_compiler_is_loaded_when_it_is_used_and_not_before() -> None:
    command = [sys.executable, "-W", "ignore", "-c", CODE]
    done = subprocess.run(command, cwd=HOME, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

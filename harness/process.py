"""A worker in a process of its own, driven through a pipe: ``python -m harness.process FD``.

Used by the local runner. The process ends with its driver, whatever happens to that.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import signal
import subprocess
import sys
from multiprocessing.connection import Connection, Pipe
from typing import Any

from harness.worker import Outcome, Worker

READY = "ready"


class WorkerProcess:
    """A child that runs tasks one at a time.

    Parameters
    ----------
    environment : variables added to this process's own
    preload : libraries it imports while it starts
    arguments : of ``Worker``, by name
    """

    def __init__(
        self, environment: dict[str, str], preload: tuple[str, ...], arguments: dict[str, Any]
    ) -> None:
        self.pipe, theirs = Pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "harness.process", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # an interrupt from the keyboard is for the driver
        )
        theirs.close()
        self._ready = False
        self.pipe.send((os.getpid(), preload, arguments))

    def ready(self, seconds: float) -> bool:
        """Whether it has started up, within this time; EOFError when the process died."""
        if not self._ready and self.pipe.poll(seconds):
            self._ready = self._receive() == READY
        return self._ready

    def start(self, order: dict[str, Any]) -> None:
        """Hand over a task; ConnectionError when the process is gone."""
        self.pipe.send(order)

    def wait(self, seconds: float) -> Outcome | None:
        """Outcome of the task, None when it is not there yet; EOFError when the process died."""
        if not self.pipe.poll(seconds):
            return None
        answer = self._receive()
        if not isinstance(answer, Outcome):
            raise EOFError
        return answer

    def _receive(self) -> Any:
        try:
            return self.pipe.recv()
        except OSError as error:
            raise EOFError from error

    def end(self, patience: float = 0.0) -> str:
        """End the process if it still runs after so many seconds; how it ended, in words."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(patience)
        alive = self._process.poll() is None
        with contextlib.suppress(ProcessLookupError):
            if not self.pipe.closed:  # else it was ended before, and its number may be another's
                os.killpg(self._process.pid, signal.SIGKILL)  # with what a plug-in may have started
        code = self._process.wait()
        self.pipe.close()
        if alive and code == -signal.SIGKILL:
            return "was ended"
        if code < 0:
            return f"died of signal {signal.Signals(-code).name}"
        return f"exited with status {code}"


def main(descriptor: int) -> None:
    """Serve tasks until the driver closes the pipe."""
    pipe = Connection(descriptor)
    driver, preload, arguments = pipe.recv()
    with contextlib.suppress(OSError, AttributeError):  # elsewhere than on Linux
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: die with the driver
    if os.getppid() != driver:
        return
    for name in preload:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    worker = Worker(**arguments)
    with contextlib.suppress(EOFError):
        pipe.send(READY)
        while True:
            pipe.send(worker.run(pipe.recv()))


if __name__ == "__main__":
    main(int(sys.argv[1]))

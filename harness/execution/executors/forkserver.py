"""Workers forked from one server process: ``python -m harness.execution.executors.forkserver FD``.

That process is a fork server: it imports the libraries that workers need, once, and every worker is
forked from it, which takes milliseconds where the imports take seconds, also for a worker that
takes the place of a lost one. All of them end with the driver, whatever happens to it.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import pickle
import signal
import subprocess
import sys
import time
from multiprocessing.connection import Connection, Pipe
from multiprocessing.reduction import recv_handle, send_handle
from typing import Any

from harness.execution.executors.channel import Channel
from harness.execution.executors.preload import load
from harness.execution.outcome import Outcome
from harness.execution.process.worker import Worker
from harness.tasks.task import Payload

READY = "ready"
LONGEST = 64 << 20  # bytes of an answer


class ForkServer:
    """A process that workers are forked from; it loads libraries from the moment this is made.

    Parameters
    ----------
    environment : variables added to this process's own
    preload : libraries it imports
    arguments : of ``Worker``, by name
    """

    def __init__(
        self, environment: dict[str, str], preload: tuple[str, ...], arguments: dict[str, Any]
    ) -> None:
        self._how = environment, preload, arguments
        self._start()

    def _start(self) -> None:
        environment, preload, arguments = self._how
        self._link, theirs = Pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "harness.execution.executors.forkserver", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # an interrupt from the keyboard is for the driver
        )
        theirs.close()
        self._link.send((os.getpid(), preload, arguments))

    def fork(self) -> WorkerProcess:
        """A new worker; it is there as soon as the libraries are."""
        if self._process.poll() is not None:  # ended from outside, and all its workers with it
            self._link.close()
            self._start()
        ours, theirs = Pipe()
        with contextlib.suppress(OSError), theirs:  # one that is just dying: the pipe says so
            self._link.send(None)
            send_handle(self._link, theirs.fileno(), self._process.pid)
        return WorkerProcess(self, ours)

    def end(self, worker: int, patience: float) -> tuple[bool, int]:
        """End a worker, with all it started, if it still runs after so many seconds.

        Returns
        -------
        (bool, int)
            Whether it still ran, and its exit status, or minus the signal it died of.
        """
        try:
            self._link.send((worker, patience))
            ending: tuple[bool, int] = self._link.recv()
        except (OSError, EOFError):
            return False, -signal.SIGKILL  # the fork server is gone, which killed its workers
        return ending

    def close(self) -> None:
        """End the process, and any worker that still runs."""
        self._process.kill()
        self._process.wait()
        self._link.close()


class WorkerProcess:
    """A child that runs tasks one at a time; made by ``ForkServer.fork``."""

    def __init__(self, fork_server: ForkServer, pipe: Connection) -> None:
        self.pipe = pipe
        self._fork_server = fork_server
        self._pid = 0  # not yet known

    @property
    def started(self) -> bool:
        """Whether it was seen to be ready."""
        return self._pid != 0

    def ready(self, seconds: float) -> bool:
        """Whether it has started up, within this time; EOFError when the process died."""
        if not self._pid and self.pipe.poll(seconds):
            message, self._pid = self._receive()
            return bool(message == READY)
        return self.started

    def start(self, payload: Payload) -> None:
        """Hand over a task; ConnectionError when the process is gone."""
        self.pipe.send(payload)

    def wait(self, seconds: float) -> Outcome | str | None:
        """Outcome of the task, or how far it is; None: nothing; EOFError: the process died."""
        if not self.pipe.poll(seconds):
            return None
        answer = self._receive()
        if not isinstance(answer, Outcome | str):
            raise EOFError
        return answer

    def _receive(self) -> Any:
        try:
            return pickle.loads(self.pipe.recv_bytes(LONGEST))
        except Exception as error:  # a plug-in may write to any file that its process has open
            raise EOFError from error

    def end(self, patience: float = 0.0) -> str:
        """End the process if it still runs after so many seconds; how it ended, in words."""
        if self.pipe.closed:
            return "was ended"
        self.pipe.close()
        if not self._pid:
            return "ended before it was ready"
        alive, code = self._fork_server.end(self._pid, patience)
        if alive and code == -signal.SIGKILL:
            return "was ended"
        if code < 0:
            return f"died of signal {signal.Signals(-code).name}"
        return f"exited with status {code}"


def main(descriptor: int) -> None:
    """Serve forks: start workers, end them, say how they ended, until the driver is gone."""
    link = Connection(descriptor)
    driver, preload, arguments = link.recv()
    if not _dies_with(driver):
        return
    gc.disable()  # a quarter of the time that imports take is looking for garbage in vain
    load(preload)
    gc.freeze()  # what is loaded is shared with the workers: nobody need look through it again
    gc.enable()
    with contextlib.suppress(EOFError, OSError):
        while True:
            wish = link.recv()
            if wish is None:
                _fork(link, recv_handle(link), arguments)
            else:
                link.send(_end(*wish))


def _fork(link: Connection, descriptor: int, arguments: dict[str, Any]) -> None:
    fork_server = os.getpid()
    if os.fork():
        os.close(descriptor)
        return
    status = 1
    try:
        link.close()
        os.setsid()  # a group of its own, to be ended with what a plug-in may start
        if _dies_with(fork_server):
            _serve(Connection(descriptor), arguments)
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except KeyboardInterrupt:  # ends as Python itself does
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:  # never back into the fork server's loop
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _serve(pipe: Connection, arguments: dict[str, Any]) -> None:
    """Do tasks until the driver closes the pipe."""
    worker = Worker(**arguments)
    channel = Channel(pipe.send)
    channel.open()
    with contextlib.suppress(EOFError, ConnectionError):
        pipe.send((READY, os.getpid()))
        while True:
            payload = pipe.recv()
            channel.begin()
            pipe.send(worker.run(payload))


def _end(worker: int, patience: float) -> tuple[bool, int]:
    """See ``ForkServer.end``. Unreaped until here, so that its number cannot be another's."""
    until = time.monotonic() + patience
    done = os.WEXITED | os.WNOHANG | os.WNOWAIT
    while (gone := os.waitid(os.P_PID, worker, done)) is None and time.monotonic() < until:
        time.sleep(0.01)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(worker, signal.SIGKILL)
    _, status = os.waitpid(worker, 0)
    return gone is None, os.waitstatus_to_exitcode(status)


def _dies_with(parent: int) -> bool:
    """Have this process killed when its parent dies; False when that has happened already."""
    with contextlib.suppress(OSError, AttributeError):  # elsewhere than on Linux
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    return os.getppid() == parent


if __name__ == "__main__":
    main(int(sys.argv[1]))

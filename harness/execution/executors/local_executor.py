"""Workers as child processes of this machine, without Ray: quick to start, easy to debug.

One of them is the serial runner. What a worker survives here, Ray's survive too.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait

from harness.execution import shortage
from harness.execution.executors.executor import Event, Executor, Settings, Shares
from harness.execution.executors.forkserver import ForkServer, WorkerProcess
from harness.tasks.task import Payload

#: What any worker needs sooner or later, whatever its plug-ins: a worker that takes another's place
#: finds it loaded.
COMMON = ("PIL.Image", "scipy.ndimage")
KILLED = "died of signal SIGKILL"
GONE = 2.0  # seconds: a worker's pipe closes a moment before the process is gone


class LocalExecutor(Executor):
    """Processes forked from one that loads their libraries once.

    Parameters
    ----------
    settings : how many workers and how they are treated
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._workers: list[WorkerProcess] = []
        self._fork_server: ForkServer | None = None
        self._starved = shortage.ended_by_linux()  # as often as was told of

    def start(self) -> Sequence[Shares]:
        """Start the processes."""
        settings = self._settings
        preload = (*settings.preload, *COMMON)
        self._fork_server = ForkServer(settings.environment(), preload, settings.arguments())
        count = settings.workers or max(1, (os.cpu_count() or 1) // settings.threads)
        self._workers = [self._fork_server.fork() for _ in range(count)]
        return [Shares()] * count

    def submit(self, slot: int, payload: Payload) -> None:
        """Send the task through the worker's pipe."""
        with contextlib.suppress(ConnectionError):  # it is gone: its pipe says so when polled
            self._workers[slot].start(payload)

    def poll(self, seconds: float) -> Sequence[Event]:
        """What came through the pipes."""
        pipes: dict[Connection, int] = {w.pipe: i for i, w in enumerate(self._workers)}
        return [self._hear(pipes[pipe]) for pipe in wait(list(pipes), seconds)]  # type: ignore[index]

    def restart(self, slot: int, after: float = 0.0) -> None:
        """End a process, with all it started, and fork another; at once, for it takes no memory."""
        assert self._fork_server is not None
        self._workers[slot].end()
        self._workers[slot] = self._fork_server.fork()

    def close(self) -> None:
        """End all processes."""
        for worker in self._workers:
            worker.end()
        if self._fork_server is not None:
            self._fork_server.close()

    def _hear(self, slot: int) -> Event:
        worker = self._workers[slot]
        try:
            if worker.started:
                answer = worker.wait(0)
                return Event(slot, text=answer) if isinstance(answer, str) else Event(slot, answer)
            worker.ready(0)
            return Event(slot)
        except (EOFError, ConnectionError):
            how = worker.end(patience=GONE)
            if how == KILLED and (count := shortage.ended_by_linux()) > self._starved:
                self._starved = count
                return Event(slot, lost=shortage.BY_LINUX, memory=1.0)
            return Event(slot, lost=how)

"""Workers of an executor, started in a thread of its own while the driver plans."""

from __future__ import annotations

import os
import signal
import threading
from concurrent.futures import Future, wait

from harness.execution.executors import ray_token
from harness.execution.executors.executor import Listener, Settings, Write, load
from harness.execution.loop import Loop
from harness.execution.schedule import Schedule

LEAVE = 1.5  # seconds that an interrupted run waits for workers that are still starting


class Workers:
    """Workers that start while the sweep is planned: both take seconds."""

    def __init__(self, runner: str, settings: Settings) -> None:
        self._settings = settings
        self._name = runner
        cores = max(1, (os.cpu_count() or 1) // self._settings.threads)
        self.count = self._settings.workers or cores  # on a cluster, until it is reached
        self.hurry = False  # interrupted: workers that still start are not waited for
        self._loop: Future[Loop] = Future()
        self._over = threading.Event()
        # Ray may wait for long, deep in its own code: a daemon does not outlive an interrupt.
        threading.Thread(target=self._start, name="starter", daemon=True).start()

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        hurry = self.hurry or kind is KeyboardInterrupt
        wait([self._loop], LEAVE if hurry else None)
        if self._loop.done() and self._loop.exception() is None:
            self._loop.result().executor.close()
        self._over.set()

    def run(self, schedule: Schedule, write: Write, listener: Listener) -> None:
        """Do everything the schedule holds."""
        loop = self._loop.result()
        handler = signal.getsignal(signal.SIGTERM)
        if handler is not None and threading.current_thread() is threading.main_thread():
            # Ray has put one before it that prints a stack of its own code.
            signal.signal(signal.SIGTERM, handler)
        loop.run(schedule, write, listener)

    def renew(self) -> None:
        """Have only workers that have not had a task yet."""
        self._loop.result().renew()

    def _start(self) -> None:
        try:
            if self._name == "ray":
                ray_token.require(self._settings.address)
            executor = load(self._name, self._settings)
            self._loop.set_result(Loop(executor, executor.start(), self._settings))
        except BaseException as error:  # for whoever asks for the result
            self._loop.set_exception(error)
        self._over.wait()  # what a thread started ends with it

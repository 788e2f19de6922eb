"""Runs one task after another in one process, whatever their plug-ins do. Plain Python, no Ray.

A task comes as a payload, reads the artifacts it needs from the store and leaves its own there;
only a small outcome goes back. What is done for each kind of task is in ``work``, what is kept warm
for the next one in ``workshop``.
"""

from __future__ import annotations

import os
import time

from harness import logs
from harness.errors import traced
from harness.execution.memory import allowance
from harness.execution.memory.stopwatch import UNMEASURED, Meter, by_pool, by_stage
from harness.execution.outcome import Outcome
from harness.execution.process.work import do
from harness.execution.process.workshop import SHARED, Workshop
from harness.storage.repeats import Repeats
from harness.storage.room import Full, tight
from harness.tasks.task import Payload


class Worker:
    """One process's memory and the tasks it runs, one at a time.

    Parameters
    ----------
    storage : root of the store, a path or URI
    data_root : folder of datasets on this machine, or None
    gpus : share of a GPU this worker holds
    memory_gb : gigabytes that all caches hold together at most; None: a share of the machine's,
        by how many workers are ``beside`` each other, or fit there with ``threads`` cores each
    commit : of the checkout, for the record of who made what
    log_level : of what plug-ins log that is shown; None: as Python has it, warnings
    """

    def __init__(
        self,
        storage: str,
        data_root: str | None = None,
        gpus: float = 0.0,
        memory_gb: float | None = None,
        beside: int | None = None,
        threads: int = 1,
        commit: str = "",
        log_level: str | None = None,
    ) -> None:
        if log_level is not None:
            logs.show(log_level)
        memory_mb = allowance.caches_mb(memory_gb, beside, threads)
        self.shop = Workshop(storage, data_root, gpus, memory_mb, commit)
        self.meter = Meter()
        self._free = time.perf_counter()  # since when it has waited for a task

    def run(self, payload: Payload) -> Outcome:
        """Do one task; never raises, except for what must end the process."""
        task, shop, outcome = payload.task, self.shop, Outcome(payload.task.key)
        idle = time.perf_counter() - self._free
        before = shop.counters()
        shop.begin(payload)
        outcome.stages |= {"idle_s": idle, "started": time.time(), "gpus": shop.gpus}
        reused = False
        try:
            if payload.repeat:
                shop.store = Repeats(shop.store.root, SHARED, task.kind, task.key)
            outcome.reused = reused = shop.has(payload)
            if not reused:
                self.meter.start()
                shop.process.compare()
                shop.prepare(payload)
                shop.process.note(payload.plugin)
                do(payload, shop, outcome)
        except KeyboardInterrupt:
            raise
        except BaseException as raised:  # also SystemExit: a plug-in must not end the sweep
            error = shop.decoder.failure or raised
            if shop.decoder.failure is not None:
                shop.features.forget()
            outcome.fail(error, traced(raised))
            # A store's own word is enough; a plug-in may raise anything.
            own = issubclass(type(error), Full)
            outcome.full = str(error) if own else tight(shop.store.root, error)
            shop.forget(payload)
        if not reused:  # else nothing was called that could change anything
            outcome.replace = outcome.replace or shop.process.changed()
        if isinstance(shop.store, Repeats):
            outcome.differs = shop.store.differences
            outcome.replace = "each task of an audit has a fresh one"
        if os.getpid() != shop.pid:  # a child that a plug-in forked and that came back here
            os._exit(0)
        after = shop.counters()
        outcome.stages |= {name: after[name] - before[name] for name in after}
        outcome.stages |= self.meter.stop() if not reused else UNMEASURED
        if not outcome.missing:  # else the task is given out again: told with the next one
            outcome.shared = shop.counter.take()
        seconds = shop.watch.stop()
        self._free = time.perf_counter()
        outcome.stages |= by_stage(seconds)
        asked = {n: misses + reused for n, (misses, _, reused) in outcome.shared.items()}
        outcome.pools = by_pool(seconds, asked)
        return outcome

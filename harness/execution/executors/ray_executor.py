"""Workers as Ray actors, on this machine or a cluster. The only file that imports ray.

The driver hands each actor one task at a time and keeps none of their data: payloads are small,
artifacts go through the store. A lost actor is replaced and its task tried again.

Where the plan and the cluster have GPUs there are two kinds of workers: some with a share of a GPU,
which do what asks for one, and some without, which do the rest. So a plug-in always runs on the
same kind of device, whoever is free. Elsewhere all workers do everything.
"""

from __future__ import annotations

import os
import socket
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray._private import ray_constants
from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.actor import ActorHandle
from ray.exceptions import AuthenticationError, OutOfMemoryError, RayError
from ray.experimental import internal_kv

from harness import plugins
from harness.errors import InputError, Problem, one_line
from harness.execution import shortage
from harness.execution.executors.channel import EVERY, Channel
from harness.execution.executors.executor import Event, Executor, Settings, Shares
from harness.execution.executors.preload import load
from harness.execution.outcome import Outcome
from harness.execution.process.worker import Worker
from harness.tasks.task import Payload

CPU_WORKERS = 4  # beside each GPU worker, at most
NEWS = b"harness-progress"  # namespace of Ray's table where workers say how far they are
NOTICE = 60.0  # seconds that workers may take to start before this is said
REACH = 10.0  # seconds that a cluster may take to say that it is there
IDLE = 5.0  # seconds after which a worker without a task is asked whether it is still there
LEAST = 1e-6  # the smallest share of a GPU


class _Actor:
    """A worker, as an actor sees it."""

    def __init__(self, preload: tuple[str, ...], arguments: dict[str, Any]) -> None:
        load(preload)
        self._worker = Worker(**arguments)
        self._channel = Channel(self._tell)
        self._channel.open()
        self._place = b""

    def ready(self) -> str:
        """Answer, once the constructor is through; the name of the node."""
        return str(ray.get_runtime_context().get_node_id())

    def run(self, payload: Payload, place: bytes) -> Outcome:
        """Do one task; how far it is lies at a place that the driver looks at."""
        self._place = place
        self._channel.begin()
        return self._worker.run(payload)

    def _tell(self, text: str) -> None:
        internal_kv._internal_kv_put(self._place, text.encode(), namespace=NEWS)


@dataclass
class _Worker:
    """An actor, and what the driver waits for it to answer."""

    share: float  # of a GPU
    actor: ActorHandle | None  # None: it is started later
    pending: Any  # what ray.wait waits for: that it is ready, or the outcome of its task
    asked: float  # when it was, to start, or will be
    ready: bool = False
    began: float = 0.0  # when it was given its task
    heard: float = 0.0  # when it last answered
    place: bytes = b""  # where it says how far its task is
    text: str = ""  # what it said last


def connect(settings: Settings) -> bool:
    """Join the cluster, or start one on this machine; False when this process already has.

    On a cluster, the checkout is sent to the nodes, from wherever the driver was started, without
    .git and what .gitignore names; a submitted job brings its own.
    """
    if ray.is_initialized():
        return False
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    address = settings.address or os.environ.get("RAY_ADDRESS")
    if address:
        if "RAY_JOB_CONFIG_JSON_ENV_VAR" not in os.environ:
            quiet["runtime_env"] = {"working_dir": str(plugins.HOME)}
        elif settings.relative:
            message = (
                "a submitted job runs in a copy of the folder, and what it writes there is lost"
            )
            raise InputError(
                Problem(f"--storage {settings.relative}", f"{message}; give a URI or absolute path")
            )
        _reach(address)
        _admitted(address)
        _init(str(settings.address or "RAY_ADDRESS"), address=address, **quiet)
    else:
        # Processes started from here inherit the environment: no need to start them twice for it.
        os.environ.update(settings.environment())
        cores = None
        if settings.workers is not None:
            cores = settings.workers * settings.threads
            cores = max(cores, os.cpu_count() or 1) if settings.gpus else cores
        place = "Ray on this machine ('--runner local' does without)"
        with _on_loopback():
            _init(place, address="local", num_cpus=cores, include_dashboard=False, **quiet)
    return True


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Have every process of a Ray that is started meanwhile listen on the loopback address alone.

    Ray does so where it expects no cluster, as on macOS; it takes an address of 127.0.0.1 that it
    is given for one to be replaced by the machine's own, and listens on all of them.
    """
    expected = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = expected


def _init(place: str, **options: Any) -> None:
    """Start or join Ray; start it a second time if a busy machine exceeded Ray's time limit."""
    if not sys.stderr.isatty():  # Ray colours what its nodes report, in logs as well
        os.environ.setdefault("RAY_COLOR_PREFIX", "0")
    tries = 2 if options["address"] == "local" else 1
    for left in reversed(range(tries)):
        try:
            ray.init(**options)
            return
        except Exception as error:  # of many types, by what it was that did not answer
            ray.shutdown()
            if not left:
                raise InputError(Problem(place, f"no answer: {_reason(error)}")) from error


def _reach(address: str) -> None:
    """InputError unless a cluster answers at host:port; Ray alone would try for minutes.

    Where the address is of another form ("auto"), Ray finds out by itself, and at once.
    """
    if address.startswith(("http://", "https://")):
        message = (
            "the address of a dashboard, for 'ray job submit'; a driver takes host:port or auto"
        )
        raise InputError(Problem(f"Ray at {address}", message))
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return
    # What speaks gRPC answers the opening of HTTP/2 with its settings, a frame of type 4.
    opening = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
    try:
        with socket.create_connection((host.strip("[]"), int(port)), REACH) as connection:
            if os.environ.get("RAY_USE_TLS", "0") in ("", "0"):
                connection.settimeout(REACH)
                connection.sendall(opening)
                if connection.recv(9)[3:4] != b"\4":
                    raise OSError("what answers there is no Ray cluster")
    except (OSError, OverflowError) as error:
        hint = "expected host:port of a head, whose port is 6379 unless it was told another"
        message = f"cannot join it: {one_line(error)}; {hint}"
        raise InputError(Problem(f"Ray at {address}", message)) from None


def _admitted(address: str) -> None:
    """InputError unless the token is the cluster's; ``ray.init`` would try for minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or host.startswith("ray:"):
        return
    try:
        with _unheard():
            GcsClient(address=address)
    except AuthenticationError as error:
        message = "its token is another; expected it in RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or "
        message += f"~/.ray/auth_token: {_reason(error).partition('. ')[0]}"
        raise InputError(Problem(f"Ray at {address}", message)) from None
    except RayError:  # anything else is for ``ray.init`` to say
        return


@contextmanager
def _unheard() -> Iterator[None]:
    """Keep to itself what C++ prints for a moment: the client warns in lines of its own."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


class RayExecutor(Executor):
    """Actors on the nodes of a cluster, or on this machine.

    Parameters
    ----------
    settings : how many workers, where, and how they are treated
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._own = False  # Ray was started or joined for these workers
        self._variables: dict[str, str] = {}
        self._workers: list[_Worker] = []
        self._count = 1  # of workers, which share what a machine has
        self._looked = 0.0  # when workers were last asked how far they are
        self._notice = NOTICE  # seconds of waiting at which that is said next

    def start(self) -> Sequence[Shares]:
        """Start Ray where there is none, and the actors."""
        settings = self._settings
        self._own = connect(settings)
        inherited = all(os.environ.get(k) == v for k, v in settings.environment().items())
        self._variables = {} if inherited else settings.environment()
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        mixed, shares = layout(nodes, settings.workers, settings.threads, settings.gpus)
        self._count = len(shares)
        self._workers = [self._worker(share) for share in shares]
        if not mixed:
            return [Shares()] * len(shares)
        return [Shares(least=LEAST) if share else Shares(most=0.0) for share in shares]

    def submit(self, slot: int, payload: Payload) -> None:
        """Call the actor; what it answers is asked for later."""
        worker = self._workers[slot]
        assert worker.actor is not None
        worker.began = time.monotonic()
        worker.pending = worker.actor.run.remote(payload, worker.place)

    def poll(self, seconds: float) -> Sequence[Event]:
        """What the actors answered."""
        for slot, worker in enumerate(self._workers):
            if worker.actor is None and time.monotonic() >= worker.asked:
                self._workers[slot] = self._worker(worker.share)
        slots = {w.pending: i for i, w in enumerate(self._workers) if w.pending is not None}
        if not slots:
            if self._workers:
                time.sleep(seconds)
            return []
        answered, rest = ray.wait(list(slots), num_returns=1, timeout=seconds)
        if answered and rest:  # whoever else has answered by now
            answered += ray.wait(rest, num_returns=len(rest), timeout=0)[0]
        events: list[Event] = []
        for slot in (slots[reference] for reference in answered):
            # What a task said since workers were last asked would be lost with its outcome.
            if self._workers[slot].ready and time.monotonic() - self._workers[slot].began > EVERY:
                events += self._read(slot)
            events.append(self._hear(slot))
        for worker in self._workers:
            # A worker without a task is asked whether it is still there: one that is not would
            # cost the task that it is given a try.
            idle = worker.pending is None and time.monotonic() - worker.heard > IDLE
            if idle and worker.actor is not None:
                worker.pending = worker.actor.ready.remote()
        self._complain()
        return [*events, *self._news()]

    def restart(self, slot: int, after: float = 0.0) -> None:
        """End an actor and start another."""
        worker = self._workers[slot]
        if worker.actor is not None:
            ray.kill(worker.actor)
        later = _Worker(worker.share, None, None, time.monotonic() + after)
        self._workers[slot] = later if after else self._worker(worker.share)

    def close(self) -> None:
        """End the actors, and Ray if it was started or joined for them."""
        for worker in self._workers:
            if worker.actor is not None:
                ray.kill(worker.actor)
        if self._own:
            ray.shutdown()

    def _hear(self, slot: int) -> Event:
        worker = self._workers[slot]
        try:
            answer = ray.get(worker.pending)
        except OutOfMemoryError as error:
            actor = worker.actor._actor_id.hex() if worker.actor is not None else ""
            how, share = shortage.described(str(error), actor)
            return Event(slot, lost=how, memory=share)
        except RayError as error:
            return Event(slot, lost=f"was lost: {_reason(error)}")
        worker.pending, worker.ready, worker.heard = None, True, time.monotonic()
        return Event(slot, answer if isinstance(answer, Outcome) else None)

    def _news(self) -> list[Event]:
        """What tasks said of themselves since this was last asked, EVERY seconds ago at least."""
        now = time.monotonic()
        if now - self._looked < EVERY:
            return []
        self._looked = now
        at_work = (i for i, w in enumerate(self._workers) if w.ready and w.pending is not None)
        return [event for slot in at_work for event in self._read(slot)]

    def _read(self, slot: int) -> list[Event]:
        """What a worker's task said of itself and was not read yet."""
        worker = self._workers[slot]
        news = internal_kv._internal_kv_get(worker.place, namespace=NEWS)
        if not news or (text := news.decode()) == worker.text:
            return []
        worker.text = text
        return [Event(slot, text=text)]

    def _complain(self) -> None:
        """Say when workers have not started for long, for nothing else would."""
        now = time.monotonic()
        late = [w for w in self._workers if not w.ready and now - w.asked > self._notice]
        if not late:
            return
        self._notice *= 2
        free = ray.available_resources()
        share = late[0].share
        needs = f"{share:g} GPU" if share else f"{self._settings.threads} CPU"
        has = f"{free.get('GPU', 0.0):g} GPU and {free.get('CPU', 0.0):g} CPU are free"
        count, waited = f"{len(late)} of {len(self._workers)} workers", now - late[0].asked
        text = f"{count} have not started for {waited:.0f} s: each asks for {needs}, {has}"
        print(text, file=sys.stderr, flush=True)

    def _worker(self, share: float) -> _Worker:
        """A fresh actor; its environment is set before its python starts."""
        settings = self._settings
        options: dict[str, Any] = {"num_cpus": 0 if share else settings.threads, "num_gpus": share}
        if self._variables:
            options["runtime_env"] = {"env_vars": self._variables}
        arguments = settings.arguments() | {"gpus": share, "beside": self._count}
        actor = ray.remote(_Actor).options(**options).remote(settings.preload, arguments)
        place = uuid.uuid4().bytes
        return _Worker(share, actor, actor.ready.remote(), time.monotonic(), place=place)


def layout(
    nodes: Sequence[Mapping[str, float]], workers: int | None, threads: int, gpus: float
) -> tuple[bool, list[float]]:
    """Which workers there are: whether of two kinds, and the share of a GPU of each.

    Parameters
    ----------
    nodes : resources of each node of the cluster, by Ray's names
    workers : how many are asked for: those with a GPU where there are any, or else all; None: as
        many as fit
    threads : cores each takes
    gpus : largest share of a GPU that a task asks for
    """
    share = min(gpus, 1.0)
    cores = sum(int(node.get("CPU", 0)) // threads for node in nodes)
    cards = sum(int(node.get("GPU", 0)) for node in nodes)
    if not share or not cards:
        return False, [0.0] * (max(1, cores) if workers is None else workers)
    held = cards * int(1 / share + 1e-9) if workers is None else workers
    free = max(1, min(cores - held, CPU_WORKERS * held))
    return True, [share] * held + [0.0] * free


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__

"""What plug-ins say of long work: lines, seldom enough, at no cost in between."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest

from harness import interface
from harness.execution.executors.channel import EVERY, Channel, remaining


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Costly:
    """A figure that a GPU would have to be waited for."""

    reads = 0

    def __float__(self) -> float:
        self.reads += 1
        return 0.125


@pytest.fixture(autouse=True)
def _nobody_listens_afterwards() -> Iterator[None]:
    before = list(interface._listeners)
    yield
    interface._listeners[:] = before


def test_a_line_every_two_seconds_and_figures_read_for_it_alone() -> None:
    clock, lines, loss = Clock(), [], Costly()
    channel = Channel(lines.append, clock)
    channel.open()
    channel.begin()
    for step in range(1, 1025):
        clock.now += 0.0625
        interface.progress(step, 1024, {"loss": loss})
    assert len(lines) == 64 / EVERY == loss.reads
    assert lines[0] == "step 32 of 1,024, loss 0.125, 16 steps/s"
    assert lines[-1] == "step 1,024 of 1,024, loss 0.125, 16 steps/s"


def test_the_rate_is_that_of_the_steps_under_way() -> None:
    clock, lines = Clock(), []
    channel = Channel(lines.append, clock)
    channel.open()
    for step in range(1, 5):
        clock.now += 0.5
        interface.progress(step, 4)
    clock.now += 60  # something else
    for step in range(1, 4):
        interface.progress(step, 3)
        clock.now += 4
    assert lines == [
        "step 4 of 4, 2 steps/s",
        "step 1 of 3",
        "step 2 of 3, 4 s/step",
        "step 3 of 3, 4 s/step",
    ]


def test_a_short_task_says_nothing_and_nobody_need_listen() -> None:
    interface._listeners.clear()
    interface.progress(1, 2, {"loss": Costly()})
    clock, lines = Clock(), []
    channel = Channel(lines.append, clock)
    channel.open()
    clock.now += 60
    channel.begin()
    clock.now += EVERY / 2
    interface.progress(1, 2)
    assert not lines


def test_others_do_not_cross_with_the_task() -> None:
    clock, lines = Clock(), []
    channel = Channel(lines.append, clock)
    channel.open()
    clock.now += 60
    other = threading.Thread(target=interface.progress, args=(1, 2))
    other.start()
    other.join()
    child = os.fork()
    if not child:
        interface.progress(1, 2)
        os._exit(len(lines))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert not lines


def test_a_driver_that_is_gone_does_not_disturb_the_plugin() -> None:
    def gone(_: str) -> None:
        raise BrokenPipeError

    clock = Clock()
    channel = Channel(gone, clock)
    channel.open()
    clock.now += 60
    interface.progress(1, 2)


class Attached:
    """A tensor with a gradient, of which a plain conversion warns."""

    def detach(self) -> float:
        return 0.5

    def __float__(self) -> float:
        raise AssertionError("converted with its gradient")


def test_a_figure_may_carry_a_gradient() -> None:
    clock, lines = Clock(), []
    channel = Channel(lines.append, clock)
    channel.open()
    clock.now += EVERY
    interface.progress(1, 2, {"loss": Attached()})
    assert lines == ["step 1 of 2, loss 0.5"]


def test_a_download_tells_its_file_and_bytes() -> None:
    clock, lines = Clock(), []
    channel = Channel(lines.append, clock)
    channel.open()
    for megabytes in range(0, 1501, 500):
        interface.progress(megabytes * 10**6, 1500 * 10**6, file="unet/model.safetensors")
        clock.now += 5
    interface.progress(1, 1500 * 10**6)
    assert lines == [
        "downloading unet/model.safetensors: 500.0 of 1,500.0 MB, 100 MB/s",
        "downloading unet/model.safetensors: 1,000.0 of 1,500.0 MB, 100 MB/s",
        "downloading unet/model.safetensors: 1,500.0 of 1,500.0 MB, 100 MB/s",
        "step 1 of 1,500,000,000",
    ]


@pytest.mark.parametrize(
    ("line", "seconds"),
    [
        ("step 1,000 of 3,000, loss 0.25, 16 steps/s", 125.0),
        ("step 2 of 3, 4.5 s/step", 4.5),
        ("step 2 of 2, loss 1e-05, 1e+03 steps/s", 0.0),
        ("step 1 of 3, loss 2", None),
        ("downloading, 3 steps/s", None),
    ],
)
def test_a_line_says_how_long_its_steps_still_take(line: str, seconds: float | None) -> None:
    assert remaining(line) == seconds

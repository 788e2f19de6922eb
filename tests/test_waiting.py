"""Long reading says how far it is; short reading, and quiet runs, say nothing."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from harness.data import waiting

LOG = "harness.data.waiting"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def slow(clock: Clock, count: int, seconds: float) -> Iterator[int]:
    for number in range(count):
        clock.now += seconds
        yield number


def test_lines_come_now_and_then_with_the_time_left(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    with caplog.at_level(logging.INFO, LOG):
        numbers = list(waiting.counted(slow(clock, 1000, 0.25), 1000, "reading", clock))
    assert numbers == list(range(1000))
    assert caplog.messages[0] == "reading: 13 of 1,000 files, about 4 min left"
    assert 250 / waiting.EVERY * 0.9 < len(caplog.messages) <= 250 / waiting.EVERY
    assert caplog.messages[-1].endswith("s left")


def test_what_is_quick_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    with caplog.at_level(logging.INFO, LOG):
        list(waiting.counted(slow(clock, 10, 0.1), 10, "reading", clock))
    assert not caplog.messages


def test_commands_print_it_and_a_quiet_one_does_not(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = logging.getLogger(LOG)
    monkeypatch.setattr(log, "handlers", [])
    monkeypatch.setattr(log, "propagate", False)
    clock = Clock()
    list(waiting.counted(slow(clock, 9, 1.0), 9, "reading", clock))
    assert capsys.readouterr().err == ""
    waiting.tell()
    waiting.tell()
    list(waiting.counted(slow(clock, 9, 1.0), 9, "reading", clock))
    assert capsys.readouterr().err == "reading: 4 of 9 files, about 5 s left\n"
    log.setLevel(logging.NOTSET)

"""Lines that are no wider than the terminal, by themselves."""

from __future__ import annotations

import io

import pytest

from harness.reporting import terminal


@pytest.mark.parametrize(
    ("columns", "width"), [("20", 80), ("80", 80), ("133", 133), ("200", 200), ("500", 200)]
)
def test_a_terminal_is_as_wide_as_it_says_within_bounds(
    columns: str, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert terminal.terminal_width() == width
    line = "word " * 80
    assert max(map(len, terminal.fitted([line]).splitlines())) in range(width - 4, width + 1)
    assert terminal.fitted(["x" * width]) == "x" * width
    assert terminal.fitted(["x" * (width + 1)]) == "x" * width + "\n  x"


def test_without_a_terminal_there_is_a_width_and_lines_are_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr("sys.__stdout__", io.StringIO())
    assert terminal.terminal_width() == 100
    assert terminal.fitted(["word " * 80, "b"]) == "word " * 80 + "\nb"


@pytest.mark.parametrize(
    ("line", "width", "hang", "lines"),
    [
        ("one two", 7, None, ["one two"]),
        ("one two", 6, None, ["one", "  two"]),
        ("  one two", 8, None, ["  one", "    two"]),
        ("k 3  one two", 8, 5, ["k 3  one", "     two"]),
        ("k one two", 5, 0, ["k one", "two"]),
        ("aa bb-cc", 7, None, ["aa", "  bb-cc"]),  # a name with a hyphen stays whole
        ("x aaaa/bbbb", 8, None, ["x", "  aaaa/", "  bbbb"]),  # so does a folder
        ("a/bcdefgh", 5, None, ["a/", "  bcd", "  efg", "  h"]),
        ("/abcdefgh", 5, None, ["/abcd", "  efg", "  h"]),  # a slash alone says nothing
        ("  a/bc/defg", 7, None, ["  a/bc/", "    def", "    g"]),
        ("   ", 2, None, [""]),
    ],
)
def test_a_line_is_wrapped_at_blanks_and_parted_behind_slashes(
    line: str, width: int, hang: int | None, lines: list[str]
) -> None:
    assert terminal.wrapped(line, width, hang).splitlines() == [each for each in lines if each]

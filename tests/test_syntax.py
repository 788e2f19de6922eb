"""Code is the same where it does the same: comments, docstrings and layout are no part of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import syntax

CODE = '''"""About the module."""
import numpy as np

SIZE = 3  # why


class Thing:
    """About the class."""

    size: int = SIZE
    """About the field."""

    def area(self, scale=1.0):
        """About the method."""
        return {"a": [self.size ** 2 * scale, None]}
'''


def digest(folder: Path, text: str) -> str:
    path = folder / "code.py"
    path.write_text(text)
    return syntax.digest(path)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"""About the module."""', '"""About it, in other words."""'),
        ('"""About the module."""\n', ""),
        ("  # why", ""),
        ('    """About the class."""\n', ""),
        ('    """About the field."""\n', ""),
        ('"""About the method."""', "'''As well.'''"),
        ('{"a": [self.size ** 2 * scale, None]}', "(\n  {'a': [self.size**2*scale, None,]}\n)"),
        ("\n\n\nclass", "\nclass"),
        ("        return", "        pass\n        return"),
    ],
)
def test_what_says_the_same(tmp_path: Path, old: str, new: str) -> None:
    assert CODE.count(old) == 1
    assert digest(tmp_path, CODE.replace(old, new)) == digest(tmp_path, CODE)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("SIZE = 3", "SIZE = 4"),
        ("SIZE = 3", "SIZE = 3.0"),
        ("SIZE = 3", "SIZE = True"),
        ("scale=1.0", "scale=1"),
        ("self.size", "self.SIZE"),
        ("** 2 * scale", "** (2 * scale)"),
        ('"a"', '"b"'),
        ('"a"', 'b"a"'),
        ("None]", "0]"),
        ("None]", "]"),
        ("import numpy as np", "import numpy"),
        ("        return", "        yield"),
        ("def area(self, scale", "def area(self, *, scale"),
        ("class Thing:", "class Thing(dict):"),
    ],
)
def test_what_says_something_else(tmp_path: Path, old: str, new: str) -> None:
    assert CODE.count(old) == 1
    assert digest(tmp_path, CODE.replace(old, new)) != digest(tmp_path, CODE)


def test_docstrings_that_are_read_count(tmp_path: Path) -> None:
    read = f"{CODE}\nPROMPT = Thing.__doc__\n"
    assert digest(tmp_path, read) != digest(tmp_path, read.replace("About the class", "Of it"))


def test_an_expression_without_end_is_taken_as_it_stands(tmp_path: Path) -> None:
    long = "x = " + " + ".join(["1"] * 3000)
    assert digest(tmp_path, long) != digest(tmp_path, long.replace("1", "2"))


def test_what_is_no_python_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SyntaxError):
        digest(tmp_path, "def f(:")

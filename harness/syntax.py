"""What Python code says, whatever its comments, docstrings and layout: the part of it in keys."""

from __future__ import annotations

import ast
import hashlib
from functools import lru_cache
from pathlib import Path


def digest(path: Path) -> str:
    """Hash of what a Python file says, as ``digest_of`` has it."""
    return digest_of(path.read_bytes())


@lru_cache(maxsize=1000)  # many plug-ins share a helper
def digest_of(contents: bytes) -> str:
    """Hash of the syntax tree of a Python file's contents, the same in every version of Python.

    Statements that do nothing are left out: docstrings, other constants by themselves, ``pass``.
    Where a module reads ``__doc__`` its docstrings do something, and count.

    Raises
    ------
    SyntaxError, ValueError
        The file is not Python.
    """
    try:
        meaning = repr(_plain(ast.parse(contents), b"__doc__" in contents))
    except RecursionError:  # an expression of hundreds of terms: take the file as it is
        meaning = repr(contents)
    return hashlib.sha256(meaning.encode()).hexdigest()


def _plain(node: object, documented: bool) -> object:
    """A node as nested lists of names and constants; nothing says where it stands in the file."""
    if isinstance(node, list):
        return [_plain(item, documented) for item in node if not _idle(item, documented)]
    if not isinstance(node, ast.AST):
        return type(node).__name__, repr(node)  # 1, 1.0 and True are different constants
    parts: list[object] = [type(node).__name__]
    for name, value in ast.iter_fields(node):
        # What is empty is left out, as a newer Python's nodes have more fields.
        if (value is None and name != "value") or value == [] or name in ("kind", "type_comment"):
            continue
        parts.append((name, _plain(value, documented)))
    return parts


def _idle(node: object, documented: bool) -> bool:
    """Whether a statement does nothing."""
    constant = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return isinstance(node, ast.Pass) or (constant and not documented)

"""Rows of tables with a digest of their values, by which a resumed sweep knows damage."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Mapping, Sequence
from typing import Any

DIGEST = "digest"  # the last column
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what one begins with

Key = tuple[str, ...]


def no_formula(value: Any) -> Any:
    """A text that a spreadsheet would take for a formula, marked as the text it is."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value


def values_of(text: str, names: Sequence[str]) -> dict[Key, list[str]]:
    """Header and values of each row of a table, by the row's values in the columns ``names``."""
    header, *rows = [*csv.reader(io.StringIO(text, newline=""))] or [[]]
    at = [header.index(name) for name in names if name in header]
    return {tuple(row[i] for i in at if i < len(row)): [*header, *row] for row in rows}


def sealed(text: str, names: Sequence[str], beside: Mapping[Key, Sequence[str]]) -> str:
    """A table with a digest for each row: of header and values, and of what ``beside`` has for it.

    Parameters
    ----------
    text : CSV with a header
    names : columns that name a row
    beside : name of a row -> values that belong to it in another table
    """
    rows = [*csv.reader(io.StringIO(text, newline=""))]
    at = [rows[0].index(name) for name in names]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*rows[0], DIGEST])
    for row in rows[1:]:
        name = tuple(row[i] for i in at)
        writer.writerow([*row, _digest([*rows[0], *row, *beside.get(name, ())])])
    return out.getvalue()


def opened(
    text: str, names: Sequence[str], beside: Mapping[Key, Sequence[str]]
) -> tuple[list[dict[str, str]], int]:
    """Rows that are what was written, without their digests, and how many are not."""
    reader = csv.reader(io.StringIO(text, newline=""))
    whole: list[dict[str, str]] = []
    damaged = 0
    try:
        header = next(reader, [])
        for row in reader:
            named = dict(zip(header, row, strict=False))
            name = tuple(named.get(n, "") for n in names)
            right = _digest([*header[:-1], *row[:-1], *beside.get(name, ())])
            if len(row) == len(header) and header[-1] == DIGEST and row[-1] == right:
                whole.append({n: v for n, v in named.items() if n != DIGEST})
            else:
                damaged += 1
    except csv.Error:  # a field without end, or a NUL: what follows cannot be told apart
        damaged += 1
    return whole, damaged


def _digest(values: Sequence[str]) -> str:
    lengths = ",".join(str(len(value)) for value in values)
    contents = "\0".join([lengths, *values]).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(contents, digest_size=8).hexdigest()

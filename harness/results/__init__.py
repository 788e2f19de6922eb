"""From predictions to rows, and from rows to means, spreads and comparisons.

May import data, storage and the modules of ``harness`` itself. Start with ``metrics`` and
``evaluation`` (a cell's row), ``aggregate`` (many rows); ``writer`` and ``reader`` keep the folder.
"""

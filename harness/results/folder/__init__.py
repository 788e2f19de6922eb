"""A sweep's folder: the files that people read, written as results come and read for reports.

May import the metrics and means of ``harness.results``. Start with ``writer`` and ``reader``; rows
are sealed by digests (``seal``), so that damage is told, not shown (``integrity``).
"""

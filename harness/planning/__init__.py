"""A sweep as a graph of tasks with keys, and what each will cost.

May import what lies below (data, results, storage and the modules of ``harness`` itself), never
execution or reporting. Start with ``graph``; ``inputs`` reads the disk for it.
"""

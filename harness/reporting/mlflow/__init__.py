"""Results on a tracking server, each logged once, while the sweep goes on.

May import results, nothing else of reporting. Start with ``tracking``; only ``mlflow_runs`` imports
the library of that name.
"""

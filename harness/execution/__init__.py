"""Who does the tasks of a plan, in which order, and what they keep warm meanwhile.

The driver's side; start with ``schedule`` (which task next) and ``loop`` (hands them out). Below it
``executors`` (where workers live), ``process`` (one task in one process), ``memory`` (what it keeps
warm). May import planning and what lies below it, never reporting.
"""

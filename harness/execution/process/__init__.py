"""What happens in a worker's process: one task after another, whatever its plug-ins do.

May import ``execution.memory`` and ``outcome``, nothing that decides which task is next. Start with
``worker``; ``work`` has a function for each kind of task, ``workshop`` what stays for the next one.
"""

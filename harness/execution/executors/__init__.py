"""Where workers live: child processes forked from a server, or actors of Ray, behind one protocol.

May import ``execution.process``, which runs in the workers, and ``outcome``. Start with
``executor``, the five functions that another kind of cluster would have to offer.
"""

"""What a worker keeps warm, within bounds, sealed against plug-ins, and counted.

May import data and storage, nothing else of execution. Start with ``cache``: pictures, features and
shared models, all with a checksum (``seals``), each use a hit or a miss (``reuse``).
"""

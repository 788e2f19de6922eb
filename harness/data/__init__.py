"""What lies on disk: opening datasets, decoding pictures, choosing samples, finding what is wrong.

May import interface, errors, keys, plugins and config. Start with ``opening`` and ``images``.
"""

"""The commands of ``python -m harness``, a module for each group; each adds its own to the parser.

May import everything below; nothing imports it but ``harness.__main__``. Start with ``sweep``.
"""

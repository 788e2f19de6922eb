"""Artifacts and results as whole files in a folder or an object store, and locks on them.

May import interface, errors and keys. Start with ``store``.
"""

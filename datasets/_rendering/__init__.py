"""Procedural pictures of surfaces and objects, sound and damaged, with exact masks.

May import numpy alone. Start with ``render``.
"""

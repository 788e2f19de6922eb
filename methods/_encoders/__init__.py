"""Frozen encoders, transformers and convolutional networks, behind one entrance.

May import ``methods._ops`` and ``harness.interface``. Start with ``load`` and ``encoding``.
"""

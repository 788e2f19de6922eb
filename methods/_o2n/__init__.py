"""The parts of One-to-Normal: its comparisons, prompts, text branch and views.

May import ``methods._encoders``, ``_diffusion``, ``_ops`` and ``harness.interface``. Start with
``compare``.
"""

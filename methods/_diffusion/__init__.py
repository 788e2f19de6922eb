"""A latent diffusion model in parts: editing with it, and fine-tuning it.

May import torch's libraries, ``methods._encoders`` and ``harness.interface``. Start with ``model``.
"""

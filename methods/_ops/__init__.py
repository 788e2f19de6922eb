"""Operations on patch features and maps that several methods share.

May import torch, ``harness.interface`` and nothing of ``methods``. Each module stands alone.
"""

"""What ADP, InCTRL and RegAD learn: concepts, adapters and a registration network.

May import ``methods._encoders``, ``_ops`` and ``harness.interface``. One module per method.
"""

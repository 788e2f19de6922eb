"""The promises of a plug-in, kept or broken, before any sweep: ``python -m harness check``.

Uses the worker's own parts, and nothing of planning or reporting. Start at ``contract.check``.
"""

"""Tiny plug-ins for tests of the engine: no weights, no torch, every call counted in a side file."""

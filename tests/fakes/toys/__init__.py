"""Tiny plug-ins for tests of the engine: no torch, every call counted in a side file."""

"""The sweep as somebody wrote it: YAML to a checked ``Sweep``, parameters by annotations, a schema.

Imports nothing of the engine but plug-ins' classes, keys and errors. Start at ``reading.load``.
"""

from harness.config.reading import Draft, brief, build, check_plugin, load, only, read, value_of

__all__ = ["Draft", "brief", "build", "check_plugin", "load", "only", "read", "value_of"]

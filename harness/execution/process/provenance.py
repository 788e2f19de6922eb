"""Who made an artifact: which code, worker, process, host, and when. Beside it, no part of its key.

From it ``purge`` tells what a faulty plug-in may have touched: what it made, what was made of that,
and what any process made that it had run in.
"""

from __future__ import annotations

import os
import platform
import uuid
from typing import Any

from harness.results.folder.accounting import now
from harness.tasks.task import Payload


class Maker:
    """A worker's process, as the artifacts name it that it makes.

    Parameters
    ----------
    commit : of the checkout, as the driver knows it
    """

    def __init__(self, commit: str = "") -> None:
        self._process = {
            "worker": uuid.uuid4().hex[:12],
            "process": os.getpid(),
            "host": platform.node(),
            "commit": commit,
        }
        self._plugin: dict[str, str] = {}
        self._ran: dict[str, str] = {}  # plug-in -> when it was last at work in this process
        #: keys of the artifacts that go into what the task makes
        self.needs: list[str] = []

    def begin(self, payload: Payload) -> None:
        """Another task begins."""
        if self._plugin:
            self._ran["{role} {use}".format_map(self._plugin)] = now()
        use = payload.plugin
        self._plugin = {}
        if use is not None:
            self._plugin = {
                "role": use.role,
                "use": use.use,
                "id": use.id,
                "source": use.code.source if use.code else "",
            }
        self.needs = list(payload.task.needs)

    def record(self) -> dict[str, Any]:
        """What is written beside an artifact that is made now.

        ``plugin`` is empty where none ran; ``earlier`` has the plug-ins that this process ran
        before, each with the last moment at which it may have been at work.
        """
        artifact = {
            "date": now(),
            "plugin": self._plugin,
            "needs": self.needs,
            "earlier": self._ran,
        }
        return self._process | artifact

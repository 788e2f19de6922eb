"""What is kept of customized models once nothing that is left to do needs them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping

from harness.storage.store import Store, artifact
from harness.tasks.kinds import Customize
from harness.tasks.task import Task


class Keeping:
    """Removes a customized model when the last task of a run that needs it is done.

    A task that failed keeps what it needs, for another try. A model that is needed after all, by
    another sweep or because a later artifact was lost, is made anew.

    Parameters
    ----------
    store, tasks, todo : where, of which plan, and which keys of it this run does
    keep : whether to keep all of them
    """

    def __init__(
        self, store: Store, tasks: Mapping[str, Task], todo: Collection[str], keep: bool
    ) -> None:
        self._store = store
        self._users: dict[str, set[str]] = defaultdict(set)  # model -> tasks that still need it
        self._tasks = tasks
        for key in () if keep else todo:
            for need in self._models(tasks[key]):
                self._users[need].add(key)

    def done(self, task: Task) -> None:
        """A task has left its artifact."""
        for need in self._models(task):
            users = self._users.get(need)
            if users is not None:
                users.discard(task.key)
                if not users:
                    del self._users[need]
                    self._store.delete(artifact(Customize.kind, need))

    def _models(self, task: Task) -> list[str]:
        return [need for need in task.needs if isinstance(self._tasks[need], Customize)]

"""
Tasks that may be asked to stop, and look at times whether they were.

The wish is stored as the state ``ABORTED`` in the result store, so this needs a store that can be
read while the task runs. The task decides itself when and how to end.
"""

from __future__ import annotations

from typing import Any

from celery.app.task import Task
from celery.result import AsyncResult

__all__ = ("AbortableAsyncResult", "AbortableTask")

#: State of a task that was asked to stop.
ABORTED = "ABORTED"


class AbortableAsyncResult(AsyncResult):
    """The result of an abortable task."""

    def is_aborted(self) -> bool:
        """Say whether the task was asked to stop."""
        return bool(self.state == ABORTED)

    def abort(self) -> Any:
        """Ask the task to stop; it goes on until it looks."""
        return self.backend.store_result(self.id, result=None, state=ABORTED, traceback=None)


class AbortableTask(Task):
    """A task that may be asked to stop."""

    abstract = True

    def AsyncResult(self, task_id: str) -> AbortableAsyncResult:  # type: ignore[override]  # its result can be aborted
        """Return the result of the task of that id."""
        return AbortableAsyncResult(task_id, backend=self.backend, task_name=self.name)

    def is_aborted(self, **kwargs: Any) -> bool:
        """
        Say whether this task was asked to stop; for the body of a bound task.

        Args:
            task_id: Another task than the running one.
        """
        task_id = kwargs.get("task_id", self.request.id)
        found = self.AsyncResult(task_id)
        return found.is_aborted()

"""The tasks of one app, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from celery.exceptions import InvalidTaskError, NotRegistered

if TYPE_CHECKING:
    from celery.app.task import Task

__all__ = ("TaskRegistry",)


class TaskRegistry(dict[str, "Task"]):
    """Task name to task instance; an unknown name raises ``NotRegistered``, a ``KeyError``."""

    NotRegistered = NotRegistered

    def __missing__(self, key: str) -> NoReturn:
        raise self.NotRegistered(key)

    def register(self, task: Any) -> None:
        """Add *task*, or one instance of it if it is a class, under its name.

        Raises:
            InvalidTaskError: The task has no name.
        """
        if task.name is None:
            raise InvalidTaskError(
                f"cannot register {task!r} without a name: give the class a `name`, "
                "or declare the task with @app.task"
            )
        instance: Any = task() if isinstance(task, type) else task
        self[task.name] = instance

    def unregister(self, name: Any) -> None:
        """Remove a task, given by its name or itself.

        Raises:
            NotRegistered: There is no such task.
        """
        name = getattr(name, "name", name)
        if name not in self:
            raise self.NotRegistered(name)
        del self[name]

    def regular(self) -> dict[str, Task]:
        """List the tasks that are not of type ``"periodic"``."""
        return self.filter_types("regular")

    def periodic(self) -> dict[str, Task]:
        """List the tasks of type ``"periodic"``."""
        return self.filter_types("periodic")

    def filter_types(self, type: str) -> dict[str, Task]:
        """List the tasks whose attribute ``type`` equals *type* (``"regular"`` when absent)."""
        return {
            name: task for name, task in self.items() if getattr(task, "type", "regular") == type
        }

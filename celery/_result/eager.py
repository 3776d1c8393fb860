"""`EagerResult`: a task that ran in this process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from celery import states
from celery._result.joining import assert_will_not_block
from celery._result.node import T
from celery._result.single import AsyncResult
from celery.exceptions import TaskRevokedError

if TYPE_CHECKING:
    from collections.abc import Callable


class EagerResult(AsyncResult[T]):
    """The result of a task that ran in this process; nothing is stored or read.

    Args:
        id: Id of the task.
        ret_value: Its value, or the exception it raised.
        state: The final state.
        traceback: Traceback as text.
        name: Name of the task.
    """

    def __init__(
        self,
        id: str,
        ret_value: Any,
        state: str,
        traceback: str | None = None,
        name: str | None = None,
    ) -> None:
        # Not the constructor of AsyncResult: no app or back-end takes part.
        self.id = id
        self._backend = None
        self._cache = {
            "task_id": id,
            "result": ret_value,
            "status": state,
            "traceback": traceback,
            "children": None,
            "name": name,
        }

    @property
    def backend(self) -> Any:
        """None: there is no back-end to ask."""
        return self._backend

    @backend.setter
    def backend(self, backend: Any) -> None:
        self._backend = backend

    @property
    def _meta(self) -> dict[str, Any]:
        return cast("dict[str, Any]", self._cache)

    def _remote_traceback(self, text: str | None) -> None:
        """Return None: the error was raised here, and has its traceback."""

    def then(
        self,
        callback: Callable[..., Any],
        on_error: Callable[..., Any] | None = None,
        weak: bool = False,
    ) -> Any:
        """Call *callback* with this result at once."""
        return self.on_ready.then(callback, on_error)

    def ready(self) -> bool:
        """Return true: the task has ended."""
        return True

    def get(  # type: ignore[override] # the other options make no sense here
        self,
        timeout: float | None = None,
        propagate: bool = True,
        disable_sync_subtasks: bool = True,
        callback: Callable[[str, T], Any] | None = None,
        **kwargs: Any,
    ) -> T:
        """Return the value or raise the error; see `AsyncResult.get`.

        A task that was ignored or rejected has no value: None.
        """
        if disable_sync_subtasks:
            assert_will_not_block()
        value, state = self.result, self.state
        if state in states.PROPAGATE_STATES:
            if propagate:
                raise value if isinstance(value, BaseException) else Exception(value)
        elif state != states.SUCCESS:
            value = None
        if callback is not None:
            callback(self.id, value)
        return cast("T", value)

    wait = get  # type: ignore[assignment] # as above

    async def aget(
        self, timeout: float | None = None, propagate: bool = True, follow_parents: bool = True
    ) -> T:
        """Return the value or raise the error."""
        return self.get(propagate=propagate, disable_sync_subtasks=False)

    def exists(self) -> bool:
        """Return true: the outcome is in this object."""
        return True

    def forget(self) -> None:
        """Do nothing: nothing is stored."""

    def revoke(self, *args: Any, **kwargs: Any) -> None:
        """Mark the result as revoked; `get` then raises TaskRevokedError."""
        self._meta.update(status=states.REVOKED, result=TaskRevokedError("revoked"))

    @property
    def supports_native_join(self) -> bool:
        """False: there is nothing to fetch."""
        return False

    def __repr__(self) -> str:
        return f"<EagerResult: {self.id}>"

    def __copy__(self) -> EagerResult[T]:
        return type(self)(*self.__reduce_args__())

    def __reduce_args__(self) -> tuple[Any, ...]:
        meta = self._meta
        return meta["task_id"], meta["result"], meta["status"], meta["traceback"], meta["name"]

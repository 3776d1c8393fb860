"""
Shapes at the seams: what one layer may ask of an object that another one made.

Adapters are written against these, so a result back-end never imports the task class and a task
never imports a back-end.  `Any` appears only where a user's value or a decoded document does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypedDict

if TYPE_CHECKING:
    from typing import Generic as Generic
else:

    class Generic:
        """What ``typing.Generic`` is to type checkers, leaving no trace among the bases."""

        def __class_getitem__(cls, params: Any) -> Any:
            return cls()

        def __mro_entries__(self, bases: Any) -> tuple[()]:
            return ()


TaskArgs: TypeAlias = Sequence[Any]
TaskKwargs: TypeAlias = Mapping[str, Any]
TaskOptions: TypeAlias = dict[str, Any]
#: Whatever a task returned.
Result: TypeAlias = Any
#: Seconds, or a span.
Seconds: TypeAlias = float | timedelta
ExcInfo: TypeAlias = (
    tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
)


class ResultDocument(TypedDict, total=False):
    """What a store keeps about one task."""

    task_id: str
    status: str
    result: Any
    traceback: str | None
    children: list[Any]
    date_done: str | datetime | None
    group_id: str | None
    parent_id: str | None
    name: str | None
    args: Any
    kwargs: Any
    worker: str | None
    retries: int | None
    queue: str | None


class RequestLike(Protocol):
    """The context of one running task, as far as stores and events read it."""

    id: str | None
    task: str | None
    args: Any
    kwargs: Any
    root_id: str | None
    parent_id: str | None
    group: str | None
    group_index: int | None
    chord: Any
    children: list[Any] | None
    errbacks: Any
    retries: int
    hostname: str | None
    ignore_result: bool
    reply_to: str | None
    correlation_id: str | None
    delivery_info: dict[str, Any] | None

    def get(self, key: str, default: Any = None) -> Any:
        """Read a field that may be absent."""
        ...


class Timer(Protocol):
    """Where parts of the worker put what has to happen later."""

    def call_after(
        self,
        secs: float,
        fun: Callable[..., Any],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        priority: int = 0,
    ) -> Any:
        """Call *fun* once, *secs* from now."""
        ...

    def call_repeatedly(
        self,
        secs: float,
        fun: Callable[..., Any],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        priority: int = 0,
    ) -> Any:
        """Call *fun* every *secs*."""
        ...


class EventDispatcherLike(Protocol):
    """The sending end of events."""

    enabled: bool
    groups: set[str]

    def send(self, type: str, **fields: Any) -> Any:
        """Send one event, if events are on."""
        ...

"""
Every error and warning of the library, in one tree.

`CeleryError` is the root of what goes wrong, `CeleryWarning` of what merely looks wrong, and
`TaskPredicate` of the exceptions that a task raises to steer the worker.  Each class keeps its
constructor arguments in ``args`` (or reduces itself), because errors cross process borders.
"""

from __future__ import annotations

from datetime import datetime
from importlib import import_module
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from billiard.exceptions import (
        SoftTimeLimitExceeded,
        Terminated,
        TimeLimitExceeded,
        WorkerLostError,
    )
    from click import ClickException
    from kombu.exceptions import OperationalError

    class CeleryCommandException(ClickException):
        """A command line error that chooses the exit status of the process."""

        def __init__(self, message: str, exit_code: int) -> None: ...

    class TasksNotSent(OperationalError, Exception):
        """Of many calls that were to be sent together, some were not, or not for sure."""

        #: Those that are not known to have reached the broker; all others have.
        task_ids: list[str]

        def __init__(self, task_ids: Sequence[str] = ()) -> None: ...


__all__ = (
    "AlreadyRegistered",
    "AlwaysEagerIgnored",
    "BackendError",
    "BackendGetMetaError",
    "BackendStoreError",
    "CDeprecationWarning",
    "CPendingDeprecationWarning",
    "CeleryCommandException",
    "CeleryError",
    "CeleryWarning",
    "ChordError",
    "DuplicateNodenameWarning",
    "DuplicateTaskNameWarning",
    "FixupWarning",
    "Ignore",
    "ImproperlyConfigured",
    "IncompleteStream",
    "InvalidTaskError",
    "MaxRetriesExceededError",
    "NotConfigured",
    "NotRegistered",
    "OperationalError",
    "QueueNotFound",
    "Reject",
    "Retry",
    "SecurityError",
    "SecurityWarning",
    "SoftTimeLimitExceeded",
    "TaskError",
    "TaskPredicate",
    "TaskRevokedError",
    "Terminated",
    "TimeLimitExceeded",
    "TimeoutError",
    "WorkerLostError",
    "WorkerShutdown",
    "WorkerTerminate",
    "reraise",
)

UNREGISTERED_FMT = "No task named {0!r} is registered; is the module that defines it imported?"


def reraise(
    tp: type[BaseException], value: BaseException, tb: TracebackType | None = None
) -> NoReturn:
    """Raise *value* with the traceback *tb* in place of its own (*tp* is there for old callers)."""
    raise value if value.__traceback__ is tb else value.with_traceback(tb)


class CeleryWarning(UserWarning):
    """Root of the warnings."""


class AlwaysEagerIgnored(CeleryWarning):
    """``send_task`` publishes although ``task_always_eager`` is on."""


class DuplicateNodenameWarning(CeleryWarning):
    """More than one worker answers to the same node name."""


class DuplicateTaskNameWarning(CeleryWarning):
    """A task was declared under a name that another one already has."""


class FixupWarning(CeleryWarning):
    """A framework that is present could not be prepared."""


class NotConfigured(CeleryWarning):
    """No configuration was found; the defaults are in use."""


class SecurityWarning(CeleryWarning):
    """A set-up that invites trouble."""


class CDeprecationWarning(DeprecationWarning):
    """Goes away in a coming release."""


class CPendingDeprecationWarning(PendingDeprecationWarning):
    """Will be deprecated in a coming release."""


class CeleryError(Exception):
    """Root of the errors."""


class ImproperlyConfigured(CeleryError):
    """A setting, or a combination of them, cannot work."""


class SecurityError(CeleryError):
    """A signature does not hold, or the security set-up is incomplete."""


class TaskPredicate(CeleryError):
    """Root of what a task raises to tell the worker how to end it."""


class Retry(TaskPredicate):
    """
    The task will run again.

    Args:
        message: Text to show in place of the generated one.
        exc: What made the retry necessary: an exception, or its text.
        when: Seconds from now, or the moment of the next attempt.
        is_eager: The task runs in the calling process; *sig* is its next attempt.
    """

    message: str | None = None
    exc: BaseException | None = None
    when: float | datetime | None = None

    def __init__(
        self,
        message: str | None = None,
        exc: BaseException | str | None = None,
        when: float | datetime | None = None,
        is_eager: bool = False,
        sig: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(exc, when, **kwargs)
        self.message = message
        self.when = when
        self.is_eager = is_eager
        self.sig = sig
        # ``excs`` survives where the exception itself can't be pickled.
        self.excs: str | None
        if exc is None or isinstance(exc, str):
            self.exc, self.excs = None, exc
        else:
            self.exc, self.excs = exc, _repr(exc)

    def humanize(self) -> str:
        """Say when: ``in 5s`` or ``at 2030-01-01 00:00:00``."""
        if isinstance(self.when, int | float):
            return f"in {self.when}s"
        return f"at {self.when}"

    def __str__(self) -> str:
        if self.message:
            return self.message
        if self.excs:
            return f"Retry {self.humanize()}: {self.excs}"
        return f"Retry {self.humanize()}"

    def __reduce__(self) -> tuple[Any, ...]:
        # ``sig`` only means something to the eager caller, who shares our process.
        exc = self.exc if _pickles(self.exc) else None
        return type(self), (self.message, exc or self.excs, self.when, self.is_eager)


RetryTaskError = Retry  # the name it had in version 3


class Ignore(TaskPredicate):
    """End the task without storing a state."""


class Reject(TaskPredicate):
    """
    Refuse the message.

    Args:
        reason: Shown in the log and in the stored result.
        requeue: Ask the broker to deliver it again.  Needs ``acks_late``.
    """

    def __init__(self, reason: Any = None, requeue: bool = False) -> None:
        super().__init__(reason, requeue)
        self.reason = reason
        self.requeue = requeue

    def __repr__(self) -> str:
        return f"reject requeue={self.requeue}: {self.reason}"

    __str__ = __repr__


class TaskError(CeleryError):
    """Root of what goes wrong with one task."""


class AlreadyRegistered(TaskError):
    """The name is taken by another task."""


class ChordError(TaskError):
    """A part of a chord failed, so its body cannot run."""


class IncompleteStream(TaskError):
    """The end of a stream of data is missing."""


class InvalidTaskError(TaskError):
    """A message that does not describe a task call."""


class MaxRetriesExceededError(TaskError):
    """The task used up its retries."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.task_args: Any = kwargs.pop("task_args", [])
        self.task_kwargs: Any = kwargs.pop("task_kwargs", {})
        super().__init__(*args, **kwargs)


class NotRegistered(KeyError, TaskError):
    """The registry has no task of this name."""

    def __repr__(self) -> str:
        return UNREGISTERED_FMT.format(self.args[0] if self.args else None)


class QueueNotFound(KeyError, TaskError):
    """The queue is not declared and may not be created."""


class TaskRevokedError(TaskError):
    """The task was revoked, or expired, before it ended."""


class TimeoutError(TaskError):
    """An operation took longer than it was allowed to."""


class BackendError(Exception):
    """Root of what goes wrong with a result store."""


class BackendGetMetaError(BackendError):
    """A result could not be read; the task itself may have run."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args)
        self.task_id: str = kwargs.get("task_id", "")

    def __repr__(self) -> str:
        return f"{super().__repr__()} task_id:{self.task_id}"


class BackendStoreError(BackendError):
    """A result could not be written, so whoever waits for it will not see it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args)
        self.state: str = kwargs.get("state", "")
        self.task_id: str = kwargs.get("task_id", "")

    def __repr__(self) -> str:
        return f"{super().__repr__()} state:{self.state} task_id:{self.task_id}"


class WorkerTerminate(SystemExit):
    """Ends the worker at once."""


SystemTerminate = WorkerTerminate  # the name it had in version 3


class WorkerShutdown(SystemExit):
    """Ends the worker once its running tasks are done."""


def _repr(exc: BaseException) -> str:
    try:
        return repr(exc)
    except Exception as bad:  # noqa: BLE001 - a user's __repr__ may do anything
        return f"<{type(exc).__name__}: repr raised {type(bad).__name__}>"


def _pickles(exc: BaseException | None) -> bool:
    import pickle  # for those who do

    try:
        pickle.loads(pickle.dumps(exc))
    except Exception:  # noqa: BLE001 - whatever a user's class raises, the answer is no
        return False
    return True


def _command_exception() -> type[Exception]:
    from click import ClickException

    class CeleryCommandException(ClickException):
        """A command line error that chooses the exit status of the process."""

        def __init__(self, message: str, exit_code: int) -> None:
            super().__init__(message)
            self.exit_code = exit_code  # type: ignore[misc]  # click has it on the class

        def __reduce__(self) -> tuple[Any, ...]:
            return type(self), (self.message, self.exit_code)

    return CeleryCommandException


def _tasks_not_sent() -> type[Exception]:
    from kombu.exceptions import OperationalError

    class TasksNotSent(OperationalError, TaskError):
        """Of many calls that were to be sent together, some were not, or not for sure.

        Args:
            task_ids: Ids of the calls that are not known to have reached the broker; all others
                have.
        """

        def __init__(self, task_ids: Sequence[str] = ()) -> None:
            super().__init__(list(task_ids))
            self.task_ids = list(task_ids)

        def __str__(self) -> str:
            shown = ", ".join(self.task_ids[:3])
            more = ", …" if len(self.task_ids) > 3 else ""
            return f"{len(self.task_ids)} calls were not sent, or not for sure: {shown}{more}"

    return TasksNotSent


#: Classes of packages that take much longer to import than this module, and ours with a base
#: there; most programs that import this module need none of them.
_ON_DEMAND: dict[str, str | Callable[[], type[Exception]]] = {
    "CeleryCommandException": _command_exception,
    "OperationalError": "kombu.exceptions",
    "SoftTimeLimitExceeded": "billiard.exceptions",
    "TasksNotSent": _tasks_not_sent,
    "Terminated": "billiard.exceptions",
    "TimeLimitExceeded": "billiard.exceptions",
    "WorkerLostError": "billiard.exceptions",
}


def __getattr__(name: str) -> Any:
    origin = _ON_DEMAND.get(name)
    if origin is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if isinstance(origin, str):
        found = getattr(import_module(origin), name)
    else:
        found = origin()
        found.__qualname__ = name
    # Of two threads that ask at once, both get the same class.
    return globals().setdefault(name, found)

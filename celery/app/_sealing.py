"""The moment from which nobody else ends a task: its body has returned or raised.

A termination or a time limit that strikes while a task stores how it ended would give it two final
states. So what comes later comes too late, and the task ends as its body did. The tracer names the
moment; a pool that can interrupt bodies puts into `sealing` what it wants called then.

A process can be killed from outside at any time. So the tracer also says how the task has ended,
before it publishes what follows, and again before it stores the end. A pool whose processes may
vanish keeps it where it outlives them, and reports an `UnreportedEnd` for one that did; then the
worker does what the process was about to do. Storing twice the same leaves one final state, however
much of the first attempt reached the store; only what was being published may come twice.

A body that has published its next attempt goes on for a while: it may clean up. It can still be
ended, but should it vanish, then it has been retried, whatever it was about to do.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from billiard.einfo import ExceptionInfo
from billiard.exceptions import WorkerLostError

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery.app._follow_ups import FollowUp
    from celery.exceptions import Retry

__all__ = ("Ended", "Seal", "UnreportedEnd", "note_retry", "noting", "sealed_as", "sealing")


class Ended(NamedTuple):
    """How a task has ended."""

    #: What the body returned.
    value: Any = None
    #: What it raised, as a billiard `ExceptionInfo`; None when it returned.
    error: Any = None
    #: Results of the tasks that it called, as tuples.
    children: list[Any] | None = None
    #: The result is stored; otherwise only the chord is told.
    stores: bool = True
    #: False when the value was too much to be kept.
    is_whole: bool = True
    #: What has not been published for sure; the first of these was on its way.
    unsent: list[FollowUp] | None = None
    #: All of this is stored and sent.
    is_done: bool = False


class Seal(Protocol):
    """Called when the body has ended, then with *how* before each step of what is left to do."""

    def __call__(self, how: Ended | None = None, /) -> object: ...


class UnreportedEnd(WorkerLostError):  # type: ignore[misc]  # billiard has no types
    """The process of a task is gone that had ended it, and was about to store and report that."""

    def __init__(self, message: str, ended: Ended) -> None:
        super().__init__(message, ended)
        self.ended = ended

    def __str__(self) -> str:
        return str(self.args[0])


#: What the tracer calls, a few times, after the body of the task that runs in this context.
sealing: ContextVar[Seal | None] = ContextVar("sealing", default=None)

#: Called with the end that the task of this context has if its process vanishes in the body.
noting: ContextVar[Callable[[Ended], object] | None] = ContextVar("noting", default=None)


def note_retry(reason: Retry) -> None:
    """Tell the pool, if its processes may vanish, that the next attempt is published."""
    note = noting.get()
    if note is not None:
        try:
            raise reason
        except type(reason):
            note(Ended(error=ExceptionInfo()))
        # It is still to be raised, where it belongs.
        reason.__traceback__ = None


def sealed_as(how: Ended) -> None:
    """Tell the pool, if there is one that listens, how the task of this context has ended."""
    seal = sealing.get()
    if seal is not None:
        seal(how)

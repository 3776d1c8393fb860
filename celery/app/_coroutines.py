"""
Coroutines of tasks: how they are run where nobody else runs a loop, and how they are interrupted.

`complete` is called by the tracer with what an ``async def`` body returned.  Each thread keeps a
loop of its own for that, so that what a body opens there (sessions, pools of connections) serves
the next body too.  A pool whose threads can't run a loop says who runs coroutines instead, with
`delegate`.

asyncio can only cancel.  `Interruptible` makes that the exception which a time limit or a
termination means: a body may catch SoftTimeLimitExceeded as it would in a plain function.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
from collections.abc import Callable, Coroutine, Generator
from types import TracebackType
from typing import Any, NamedTuple, NoReturn

from billiard.exceptions import SoftTimeLimitExceeded

__all__ = ("Interruptible", "complete", "delegate", "interrupt")


class _SoftLimit(SoftTimeLimitExceeded, asyncio.CancelledError):  # type: ignore[misc]  # no types
    """The soft limit as it reaches a body: to asyncio's own constructs it is a cancellation."""


class Interruptible(Coroutine[Any, Any, Any]):
    """
    A coroutine that can be made to raise a given exception where it waits.

    Whatever it ends with is kept for `outcome`: asyncio lets SystemExit and KeyboardInterrupt end
    the loop, and here they are to end a task.

    Args:
        coro: The coroutine to drive.
    """

    __slots__ = ("_coro", "_escaped", "_is_told", "_reason", "is_running", "task")

    #: The asyncio task that drives this; set by who creates it.
    task: asyncio.Task[Any]

    def __init__(self, coro: Coroutine[Any, Any, Any]) -> None:
        self._coro = coro
        self._reason: BaseException | None = None
        self._escaped: BaseException | None = None
        self._is_told = False
        #: The interpreter is inside of the coroutine at the moment.
        self.is_running = False

    def interrupt(self, reason: BaseException) -> None:
        """
        End the coroutine with *reason*, unless it catches what it is told; on its loop's thread.

        SoftTimeLimitExceeded is raised in it as such, any other reason as CancelledError.
        """
        self._reason, self._is_told = reason, False
        self.task.cancel()

    def outcome(self) -> Any:
        """Return what the coroutine has returned, or raise what it has raised."""
        if self._escaped is not None:
            raise self._escaped
        return self.task.result()

    def send(self, value: Any) -> Any:
        """Go on until the coroutine waits or ends."""
        self.is_running = True
        try:
            return self._coro.send(value)
        except (asyncio.CancelledError, SystemExit, KeyboardInterrupt) as exc:
            self._escape(exc)
        finally:
            self.is_running = False

    def throw(  # type: ignore[override]  # in the forms that asyncio uses
        self, typ: Any, val: BaseException | None = None, tb: TracebackType | None = None
    ) -> Any:
        """Raise in the coroutine, and go on until it waits or ends."""
        exc: BaseException = typ if isinstance(typ, BaseException) else (val or typ())
        reason = self._reason
        if reason is not None and not self._is_told and isinstance(exc, asyncio.CancelledError):
            self._is_told = True
            if isinstance(reason, SoftTimeLimitExceeded):
                exc = _SoftLimit(*reason.args)
                # What the body does from here on is not being cancelled any more.
                self.task.uncancel()
        self.is_running = True
        try:
            return self._coro.throw(exc)
        except (asyncio.CancelledError, SystemExit, KeyboardInterrupt) as left:
            self._escape(left)
        finally:
            self.is_running = False

    def _escape(self, exc: BaseException) -> NoReturn:
        """End as a coroutine that returned, and keep what *exc* means."""
        if isinstance(exc, asyncio.CancelledError) and self._reason is not None:
            exc = self._reason.with_traceback(exc.__traceback__)
        self._escaped = exc
        raise StopIteration

    def close(self) -> None:
        """Give the coroutine up."""
        self._coro.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._coro.__await__()


class TimePassed(SystemExit):
    """Ends a coroutine whose hard time limit has passed; no tracer stores it."""


class Limits(NamedTuple):
    """Time limits of the coroutine that a call may turn out to be."""

    #: Seconds; None for no limit.
    soft_s: float | None
    hard_s: float | None
    #: Called with ``soft=True`` and ``timeout=`` when the soft limit passes.
    on_soft: Callable[..., Any] | None


_limits: contextvars.ContextVar[Limits | None] = contextvars.ContextVar("limits", default=None)


def call_limited(limits: Limits, fun: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call *fun* with *limits* for the coroutine that it completes.

    Raises:
        TimePassed: The hard limit has passed.
    """
    token = _limits.set(limits)
    try:
        return fun(*args, **kwargs)
    finally:
        _limits.reset(token)


class _Loop:
    """The loop that one thread keeps."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._running: Interruptible | None = None

    def run(self, coro: Coroutine[Any, Any, Any]) -> Any:
        """Run *coro* to its end, in the context of the caller."""
        loop = self._loop
        if loop is None or loop.is_closed():
            loop = self._loop = asyncio.new_event_loop()
        body = Interruptible(coro)
        task = body.task = loop.create_task(body, context=contextvars.copy_context())
        timers = _timers(loop, body, _limits.get())
        self._running = body
        try:
            loop.run_until_complete(task)
        except BaseException as exc:
            if task.done():
                raise
            # A signal handler raised while the loop was waiting: that is for the body.
            body.interrupt(exc)
            loop.run_until_complete(task)
        finally:
            self._running = None
            for timer in timers:
                timer.cancel()
        return body.outcome()

    def interrupt(self, reason: BaseException) -> bool:
        """Interrupt what runs, from a signal handler; False if raising there does it."""
        body, loop = self._running, self._loop
        if body is None or loop is None or body.is_running:
            return False
        loop.call_soon_threadsafe(body.interrupt, reason)
        return True


def _timers(
    loop: asyncio.AbstractEventLoop, body: Interruptible, limits: Limits | None
) -> list[asyncio.TimerHandle]:
    """Have *body* interrupted when its time is over."""
    if limits is None:
        return []
    soft_s, hard_s, on_soft = limits

    def warn() -> None:
        body.interrupt(SoftTimeLimitExceeded())
        if on_soft is not None:
            on_soft(soft=True, timeout=soft_s)

    timers = []
    if soft_s:
        timers.append(loop.call_later(soft_s, warn))
    if hard_s:
        timers.append(loop.call_later(hard_s, body.interrupt, TimePassed()))
    return timers


class _Kept(threading.local):
    def __init__(self) -> None:
        self.loop = _Loop()


_kept = _Kept()
_delegate: Callable[[Coroutine[Any, Any, Any]], Any] | None = None


def delegate(run: Callable[[Coroutine[Any, Any, Any]], Any] | None) -> None:
    """Have *run* complete the coroutines of this process; None for the loop of each thread."""
    global _delegate  # noqa: PLW0603 - one register per process, by design
    _delegate = run


def _start_anew() -> None:
    """Forget loops in a forked child: they belong to the parent."""
    _kept.loop = _Loop()
    delegate(None)


os.register_at_fork(after_in_child=_start_anew)


def complete(coro: Coroutine[Any, Any, Any]) -> Any:
    """Run *coro* to its end and return its value, or raise what it raises."""
    if _delegate is not None:
        return _delegate(coro)
    if asyncio._get_running_loop() is None:
        return _kept.loop.run(coro)
    return _complete_aside(coro)


def _complete_aside(coro: Coroutine[Any, Any, Any]) -> Any:
    """Run *coro* in a thread of its own, for callers that block a loop already (eager tasks)."""
    outcome: list[Any] = []
    context = contextvars.copy_context()

    def run() -> None:
        try:
            outcome.extend((context.run(asyncio.run, coro), None))
        except BaseException as exc:  # noqa: BLE001 - raised again by the caller
            outcome.extend((None, exc))

    thread = threading.Thread(target=run, name="celery-coroutine")
    thread.start()
    thread.join()
    value, error = outcome
    if error is not None:
        raise error
    return value


def interrupt(reason: BaseException) -> bool:
    """
    Interrupt the coroutine that this thread runs, from a signal handler.

    Returns:
        False if there is none, or if it is on the processor: then raise *reason* right away.
    """
    return _kept.loop.interrupt(reason)

"""
The pool of coroutines: one asyncio loop, in a thread of its own.

``async def`` tasks run on the loop, up to *limit* at a time; plain functions run beside it in as
many threads.  What may block around a coroutine (decoding, hooks, signals, storing the result,
sending what follows it) is done by a few more threads, the crew, so that a slow answer of some
server does not hold up a thousand tasks.  The loop of the worker, which owns the connection to
the broker, stays in the main thread: a body that blocks keeps its fellows waiting, never the
worker.

Time limits and termination cancel a coroutine at its next ``await``.  A plain function in a
thread can't be interrupted.

A `Job` passes from thread to thread, and is only ever touched by one of them::

    apply_async  ->  begin  ->  coroutine  ->  conclude, callback
    any thread       crew       loop           crew
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import itertools
import os
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from inspect import iscoroutinefunction
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from billiard.common import TERM_SIGNAL
from billiard.exceptions import SoftTimeLimitExceeded, Terminated, TimeLimitExceeded

from celery import _state
from celery.app import trace
from celery.app._coroutines import Interruptible
from celery.concurrency import base
from celery.concurrency.base import BasePool
from celery.concurrency.thread import ApplyResult
from celery.utils.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from billiard.einfo import ExceptionInfo

__all__ = ("TaskPool",)

logger = get_logger(__name__)

#: Threads of the crew.
CREW = 4

#: Seconds that things get to end which should end at once.
_PATIENCE_S = 2.0

#: New objects after which garbage is looked for. Thousands of tasks under way are none, and the
#: collector, whose usual value is for programs with less to walk, took a quarter of all time.
_GARBAGE_AT = 50_000

#: Names of jobs; far from the numbers of processes, for which they stand.
_numbers = itertools.count(1 << 32)


class Killed(SystemExit):
    """Ends a coroutine whose task is terminated or has had its time; no tracer stores it."""


def _steps(
    target: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Generator[Any, Any, Any] | None:
    """Return a call in two steps, with its coroutine in between; None if it makes none."""
    if target is trace.fast_trace_task or target is trace.trace_task_ret:
        return trace.steps_of(target, *args, **kwargs)
    return _untraced(target, args, kwargs) if iscoroutinefunction(target) else None


def _untraced(
    target: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Generator[Any, Any, Any]:
    return (yield target(*args, **kwargs))


class Job:
    """One call of a coroutine function, and its handle for the worker."""

    __slots__ = (
        "__weakref__",
        "accept_callback",
        "body",
        "callback",
        "context",
        "error_callback",
        "is_answered",
        "is_expired",
        "number",
        "signum",
        "soft_timeout",
        "steps",
        "timeout",
        "timeout_callback",
        "timers",
    )

    def __init__(
        self,
        steps: Generator[Any, Any, Any],
        callback: Callable[[Any], Any] | None,
        accept_callback: Callable[[int, float], Any] | None,
        error_callback: Callable[[Any], Any] | None,
        timeout_callback: Callable[..., Any] | None,
        soft_timeout: float | None,
        timeout: float | None,
    ) -> None:
        self.number = next(_numbers)
        self.steps = steps
        self.callback = callback
        self.accept_callback = accept_callback
        self.error_callback = error_callback
        self.timeout_callback = timeout_callback
        self.soft_timeout = soft_timeout
        self.timeout = timeout
        self.context = contextvars.Context()
        self.timers: list[asyncio.TimerHandle] = []
        self.body: Interruptible | None = None
        self.signum: int | str | None = None
        self.is_answered = False
        #: The hard time limit has passed: whatever the coroutine still does, that is the answer.
        self.is_expired = False

    def ready(self) -> bool:
        """Say whether the worker has been told how the call ended."""
        return self.is_answered

    def answer(self, value: Any) -> None:
        """Report that the target returned *value*."""
        self.is_answered = True
        if self.callback is not None:
            self.callback(value)

    def fail(self, einfo: ExceptionInfo) -> None:
        """Report what the target raised."""
        self.is_answered = True
        base.report_failure(einfo, self.callback, self.error_callback)

    def expire(self) -> None:
        """Report that the hard time limit has passed."""
        if self.timeout_callback is None:
            self.fail(base.describe(TimeLimitExceeded(self.timeout)))
        else:
            self.is_answered = True
            self.timeout_callback(soft=False, timeout=self.timeout)


class _Crew:
    """A few threads that make calls in the order in which they are handed in."""

    def __init__(self, size: int) -> None:
        self._calls: SimpleQueue[tuple[Callable[..., Any], tuple[Any, ...]] | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, name=f"TaskCrew-{number}", daemon=True)
            for number in range(1, size + 1)
        ]
        for thread in self._threads:
            thread.start()

    def add(self, call: Callable[..., Any], *args: Any) -> None:
        self._calls.put((call, args))

    def stop(self) -> None:
        """Let the calls end that have been handed in, and the threads with them."""
        for _ in self._threads:
            self._calls.put(None)
        for thread in self._threads:
            thread.join(_PATIENCE_S)

    def _work(self) -> None:
        get = self._calls.get
        while True:
            item = get()
            if item is None:
                return
            call, args = item
            try:
                call(*args)
            except Exception:
                logger.exception("Error around a coroutine of the pool")
            # Not kept alive while waiting for the next.
            del item, call, args


class TaskPool(BasePool):
    """Run coroutines on one loop, and plain functions in threads, up to *limit* at a time."""

    body_can_be_buffer = True
    signal_safe = False
    enforces_soft_limit = True
    reports_terminated = True
    enforces_hard_limit = True
    limit: int

    _executor: ThreadPoolExecutor
    _crew: _Crew
    _loop: asyncio.AbstractEventLoop
    _thread: threading.Thread
    #: Set when the last job has gone; exists once the pool stops.
    _idle: threading.Event | None = None
    _is_released = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._jobs: dict[int, Job] = {}
        #: Coroutines on their way to the loop, which is woken for the first of them only.
        self._begun: deque[tuple[Job, Any]] = deque()
        self._is_woken = False
        self._usual_garbage_at = 0

    # -- Life

    def on_start(self) -> None:
        """Start the loop and the threads."""
        self._executor = ThreadPoolExecutor(self.limit, "TaskThread")
        self._crew = _Crew(CREW)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="TaskLoop", daemon=True)
        self._thread.start()
        self._is_released = False
        self._usual_garbage_at = gc.get_threshold()[0]
        if 0 < self._usual_garbage_at < _GARBAGE_AT:
            gc.set_threshold(_GARBAGE_AT)

    def on_stop(self) -> None:
        """Let running calls end; drop plain functions that have not begun."""
        if self._is_released:
            return
        self._executor.shutdown(wait=True, cancel_futures=True)
        self._wait_for_jobs(None)
        self._release()

    def on_terminate(self) -> None:
        """Cancel every coroutine, and leave threads behind that are still busy."""
        if self._is_released:
            return
        self._executor.shutdown(wait=False, cancel_futures=True)
        for job in list(self._jobs.values()):
            self._loop.call_soon_threadsafe(self._terminate, job, TERM_SIGNAL)
        self._wait_for_jobs(_PATIENCE_S)
        self._release()

    def _wait_for_jobs(self, timeout_s: float | None) -> None:
        self._idle = threading.Event()
        if self._jobs:
            self._idle.wait(timeout_s)

    def _release(self) -> None:
        self._is_released = True
        if gc.get_threshold()[0] == _GARBAGE_AT:
            gc.set_threshold(self._usual_garbage_at)
        self._crew.stop()
        closing = asyncio.run_coroutine_threadsafe(self._close_loop(), self._loop)
        try:
            closing.result(_PATIENCE_S)
        except TimeoutError:
            logger.warning("A coroutine blocks the loop of the pool: left behind")
            return
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _close_loop(self) -> None:
        """Cancel what bodies have left on the loop."""
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=_PATIENCE_S / 2)
        await self._loop.shutdown_asyncgens()

    # -- Calls

    def on_apply(
        self,
        target: Callable[..., Any],
        args: tuple[Any, ...] | None = None,
        kwargs: dict[str, Any] | None = None,
        callback: Callable[[Any], Any] | None = None,
        accept_callback: Callable[[int, float], Any] | None = None,
        error_callback: Callable[[Any], Any] | None = None,
        timeout_callback: Callable[..., Any] | None = None,
        soft_timeout: float | None = None,
        timeout: float | None = None,
        **_: Any,
    ) -> Job | ApplyResult:
        """Run one call: on the loop if it is a coroutine function's, else in a thread."""
        args, kwargs = args or (), kwargs or {}
        steps = _steps(target, args, kwargs)
        if steps is None:
            return ApplyResult(
                self._executor,
                target,
                args,
                kwargs,
                callback,
                accept_callback,
                error_callback=error_callback,
            )
        job = Job(
            steps,
            callback,
            accept_callback,
            error_callback,
            timeout_callback,
            soft_timeout or self.options.get("soft_timeout"),
            timeout or self.options.get("timeout"),
        )
        job.context.run(_state._allow_awaiting)
        self._jobs[job.number] = job
        self._crew.add(self._begin, job)
        return job

    def _begin(self, job: Job) -> None:
        """Do what comes before the coroutine; in the crew."""
        try:
            if job.accept_callback is not None:
                job.accept_callback(job.number, time.monotonic())
            coro = job.context.run(next, job.steps)
        except BaseException as exc:  # noqa: BLE001 - border to task code
            self._end(job, exc)
            return
        self._begun.append((job, coro))
        if not self._is_woken:
            self._is_woken = True
            self._loop.call_soon_threadsafe(self._take_over)

    def _take_over(self) -> None:
        """Start the coroutines that are ready; on the loop."""
        self._is_woken = False
        begun, loop = self._begun, self._loop
        while begun:
            job, coro = begun.popleft()
            body = job.body = Interruptible(coro)
            body.task = loop.create_task(body, context=job.context)
            body.task.add_done_callback(partial(self._on_done, job))
            if job.soft_timeout:
                job.timers.append(loop.call_later(job.soft_timeout, self._on_soft_limit, job))
            if job.timeout:
                job.timers.append(loop.call_later(job.timeout, self._on_hard_limit, job))
            if job.signum is not None:
                body.interrupt(Killed(job.signum))

    def _on_done(self, job: Job, task: asyncio.Task[Any]) -> None:
        for timer in job.timers:
            timer.cancel()
        body, job.body = job.body, None
        self._crew.add(self._conclude, job, body)

    def _conclude(self, job: Job, body: Interruptible) -> None:
        """Do what comes after the coroutine; in the crew."""
        go_on, what = job.steps.send, None
        try:
            what = body.outcome()
        except BaseException as exc:  # noqa: BLE001 - for the tracer
            go_on, what = job.steps.throw, exc
        if job.is_expired:
            go_on, what = job.steps.throw, Killed()
        try:
            job.context.run(go_on, what)
        except BaseException as exc:  # noqa: BLE001 - border to task code
            self._end(job, exc)

    def _end(self, job: Job, exc: BaseException) -> None:
        """Report how the steps ended, which is being handled: they return or raise."""
        try:
            if job.is_expired:
                return
            if isinstance(exc, StopIteration):
                job.answer(exc.value)
            elif isinstance(exc, Killed):
                job.fail(base.describe(Terminated(job.signum)))
            else:
                job.fail(base.judge(exc))
        finally:
            del self._jobs[job.number]
            if self._idle is not None and not self._jobs:
                self._idle.set()

    # -- Interruptions, on the loop

    def _on_soft_limit(self, job: Job) -> None:
        if job.body is not None:
            job.body.interrupt(SoftTimeLimitExceeded())
            if job.timeout_callback is not None:
                self._crew.add(partial(job.timeout_callback, soft=True, timeout=job.soft_timeout))

    def _on_hard_limit(self, job: Job) -> None:
        if job.body is not None:
            job.is_expired = True
            job.body.interrupt(Killed())
            self._crew.add(job.expire)

    def _terminate(self, job: Job, signum: int | str) -> None:
        job.signum = signum
        if job.body is not None:
            job.body.interrupt(Killed(signum))

    def terminate_job(self, pid: int, signal: int | str | None = None) -> None:
        """Cancel the coroutine under *pid*, as named by its accept callback.

        Raises:
            NotImplementedError: The call is that of a plain function, in a thread.
        """
        if pid == os.getpid():
            raise NotImplementedError("the asyncio pool can't interrupt a plain function")
        job = self._jobs.get(pid)
        if job is not None:
            self._loop.call_soon_threadsafe(self._terminate, job, signal or TERM_SIGNAL)

    # -- Size

    def grow(self, n: int = 1) -> None:
        """Allow *n* more calls at a time."""
        self.limit += n
        self._executor._max_workers = self.limit

    def shrink(self, n: int = 1) -> None:
        """Allow *n* fewer calls at a time, at least one; running ones go on."""
        self.limit = max(self.limit - n, 1)
        self._executor._max_workers = self.limit

    def _get_info(self) -> dict[str, Any]:
        return super()._get_info() | {
            "coroutines": len(self._jobs),
            "threads": len(self._executor._threads),
            "timeouts": [self.options.get("soft_timeout") or 0, self.options.get("timeout") or 0],
        }

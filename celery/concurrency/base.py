"""
The port that every pool implements.

The worker creates a pool with a limit, starts it, and hands it one call per task.  A pool answers
each call through callbacks: *accept_callback* when the body is about to run, and then exactly one
of *callback* (the target returned) and *error_callback* (it could not).  Nothing that a body
raises may stop the pool.

A subclass implements the ``on_*`` methods; callers use the others.
"""

from __future__ import annotations

import os
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from billiard.common import human_status
from billiard.einfo import ExceptionInfo
from billiard.exceptions import TimeLimitExceeded, WorkerLostError

from celery.app._coroutines import Limits, TimePassed, call_limited
from celery.exceptions import WorkerShutdown, WorkerTerminate
from celery.utils import timer2
from celery.utils.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from celery.app.base import Celery

__all__ = ("BasePool", "apply_target")

logger = get_logger(__name__)


def describe(exc: BaseException) -> ExceptionInfo:
    """Wrap an error that nothing raised, for callbacks that expect a raised one."""
    try:
        raise exc
    except type(exc):
        return ExceptionInfo()


def exit_status(exc: SystemExit) -> int:
    """Return the status that the interpreter would end with."""
    if exc.code is None:
        return 0
    return exc.code if isinstance(exc.code, int) else 1


def judge(exc: BaseException) -> ExceptionInfo:
    """
    Say how a call failed whose target raised *exc*, which is being handled.

    ``sys.exit()`` is the end of a process that was needed, and looks the same whether the
    process could obey (prefork) or not; a SystemExit as result would end the client's program.
    """
    if not isinstance(exc, SystemExit):
        return ExceptionInfo()
    return describe(
        WorkerLostError(f"Worker exited prematurely: {human_status(exit_status(exc))}.")
    )


def report_failure(
    einfo: ExceptionInfo,
    callback: Callable[[Any], Any] | None,
    error_callback: Callable[[Any], Any] | None,
) -> None:
    """
    Deliver *einfo* as the outcome of a call.

    Callers that offer no *error_callback* get a failed outcome in the form in which traced
    tasks return theirs, so that an outcome is never lost.
    """
    if error_callback is not None:
        error_callback(einfo)
    elif callback is not None:
        callback((1, einfo, 0.0))


def apply_target(
    target: Callable[..., Any],
    args: Iterable[Any] = (),
    kwargs: dict[str, Any] | None = None,
    callback: Callable[[Any], Any] | None = None,
    accept_callback: Callable[[int, float], Any] | None = None,
    pid: int | None = None,
    getpid: Callable[[], int] = os.getpid,
    propagate: tuple[type[BaseException], ...] = (),
    monotonic: Callable[[], float] = time.monotonic,
    soft_timeout: float | None = None,
    timeout: float | None = None,
    **_: Any,
) -> None:
    """
    Run *target* here and now, in the manner of a pool: one accept, one outcome.

    Args:
        soft_timeout: Seconds after which a coroutine is told; plain functions are not.
        timeout: Seconds after which a coroutine is ended.
        pid: What to call the process in *accept_callback*; None asks *getpid*.
        propagate: Exceptions of the body that the caller wants raised instead of reported.
        _: Options that don't apply in process, and ``error_callback``.
    """
    if soft_timeout or timeout:
        limits = Limits(soft_timeout, timeout, _.get("timeout_callback"))
        target = partial(call_limited, limits, target)
    if accept_callback is not None:
        accept_callback(pid or getpid(), monotonic())
    try:
        result = target(*args, **(kwargs or {}))
    except TimePassed:
        if _.get("timeout_callback") is not None:
            _["timeout_callback"](soft=False, timeout=timeout)
        else:
            einfo = describe(TimeLimitExceeded(timeout))
            report_failure(einfo, callback, _.get("error_callback"))
    except propagate:
        raise
    except (WorkerShutdown, WorkerTerminate):
        # The worker's own signal handlers raise these, wherever the main thread happens to be.
        raise
    except BaseException as exc:  # noqa: BLE001 - border to task code
        report_failure(judge(exc), callback, _.get("error_callback"))
    else:
        if callback is not None:
            callback(result)


class BasePool:
    """
    Something that runs calls, up to *limit* at a time.

    Args:
        limit: Greatest number of calls that run at the same time.
        putlocks: Block in `apply_async` while every slot is taken; for pools that could
            otherwise queue without bound.
        forking_enable: False for fresh interpreters instead of forked processes.
        callbacks_propagate: Exceptions that callbacks may raise through the pool.
        app: The app whose tasks run; pools without need of it accept None.
        options: What single implementations take; the others ignore it.
    """

    RUN = 0x1
    CLOSE = 0x2
    TERMINATE = 0x3

    #: What runs timers beside this pool when the worker has no event loop.
    Timer: type[Any] = timer2.Timer

    #: Signals may interrupt a body without leaving the pool in disorder.
    signal_safe = True

    #: Bodies run in green threads.
    is_green = False

    #: The number of calls handed over at a time is limited by a semaphore of the worker.
    uses_semaphore = False

    #: Waiting for another task's result inside a task may starve the pool.
    task_join_will_block = True

    #: A body that passes its soft or hard time limit is interrupted.
    enforces_soft_limit = False
    enforces_hard_limit = False

    #: A call that `terminate_job` has ended fails with billiard's Terminated.
    reports_terminated = False

    #: Both limits are enforced where the body is a coroutine, even if not for plain functions.
    limits_coroutines = False

    #: Has processes, which leave after a number of tasks or when they have grown.
    recycles = False

    #: Runs each body within the call that hands it over, while the loop waits.
    runs_in_call = False

    #: The body of a message may be handed over as a view of the receive buffer.
    body_can_be_buffer = False

    _state: int | None = None
    _pool: Any = None

    def __init__(
        self,
        limit: int | None = None,
        putlocks: bool = True,
        forking_enable: bool = True,
        callbacks_propagate: tuple[type[BaseException], ...] = (),
        app: Celery | None = None,
        **options: Any,
    ) -> None:
        self.limit = limit
        self.putlocks = putlocks
        self.forking_enable = forking_enable
        self.callbacks_propagate = callbacks_propagate
        self.app = app
        self.options = options

    # -- What implementations fill in.

    def on_start(self) -> None:
        """Create what runs the calls."""

    def did_start_ok(self) -> bool:
        """Say whether nothing failed so early that the worker had better give up."""
        return True

    def flush(self) -> None:
        """Forget calls that have not begun."""

    def on_stop(self) -> None:
        """Let running calls end, then release everything."""

    def on_apply(self, *args: Any, **kwargs: Any) -> Any:
        """Take one call; see `apply_async`."""
        raise NotImplementedError(f"{type(self).__name__} does not run calls (on_apply)")

    def on_terminate(self) -> None:
        """Release everything, running calls included."""

    def on_close(self) -> None:
        """Take no more calls."""

    def on_soft_timeout(self, job: Any) -> None:
        """React to *job* having passed its soft time limit."""

    def on_hard_timeout(self, job: Any) -> None:
        """React to *job* having passed its hard time limit."""

    def register_with_event_loop(self, loop: Any) -> None:
        """Do I/O on the worker's event loop instead of in own threads."""

    def maintain_pool(self, *args: Any, **kwargs: Any) -> None:
        """Replace what has died, for pools that have parts that die."""

    def terminate_job(self, pid: int, signal: int | str | None = None) -> None:
        """Stop the call that runs under *pid*, as named by its accept callback."""
        raise NotImplementedError(f"{type(self).__name__} does not implement kill_job")

    def restart(self) -> None:
        """Replace every part of the pool by a new one."""
        raise NotImplementedError(f"{type(self).__name__} does not implement restart")

    # -- What the worker calls.

    def start(self) -> None:
        """Make the pool ready for calls."""
        self._warn_of_limits()
        self._state = self.RUN
        self.on_start()

    def _warn_of_limits(self) -> None:
        limits = {
            "soft time limit": ("soft_timeout", self.enforces_soft_limit),
            "time limit": ("timeout", self.enforces_hard_limit),
        }
        ignored = [
            name
            for name, (option, is_enforced) in limits.items()
            if self.options.get(option) and not is_enforced
        ]
        kind = type(self).__module__.rpartition(".")[2]
        if ignored:
            logger.warning(
                "The %s pool can't interrupt tasks: %s not enforced%s",
                kind,
                " and ".join(ignored),
                ", but in coroutines" if self.limits_coroutines else "",
            )
        for option, value in {
            "--max-tasks-per-child": self.options.get("maxtasksperchild"),
            "--max-memory-per-child": self.options.get("max_memory_per_child"),
        }.items():
            if value and not self.recycles:
                logger.warning("%s has no effect: the %s pool has no processes", option, kind)

    def stop(self) -> None:
        """Take no more calls, wait for the running ones, release everything."""
        self.on_stop()
        self._state = self.TERMINATE

    def close(self) -> None:
        """Take no more calls; the running ones go on."""
        self._state = self.CLOSE
        self.on_close()

    def terminate(self) -> None:
        """End everything now."""
        self._state = self.TERMINATE
        self.on_terminate()

    def apply_async(
        self,
        target: Callable[..., Any],
        args: tuple[Any, ...] | None = None,
        kwargs: dict[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """
        Run ``target(*args, **kwargs)`` and report through callbacks.

        Args:
            options: ``accept_callback(pid, time_accepted)``, ``callback(result)``,
                ``error_callback(einfo)``, ``timeout_callback(soft=, timeout=)``,
                ``soft_timeout`` and ``timeout`` in seconds, ``correlation_id``.

        Returns:
            The pool's handle of the call, if it has one.
        """
        return self.on_apply(
            target,
            args,
            kwargs,
            waitforslot=self.putlocks,
            callbacks_propagate=self.callbacks_propagate,
            **options,
        )

    def _get_info(self) -> dict[str, Any]:
        kind = type(self)
        return {
            "implementation": f"{kind.__module__}:{kind.__qualname__}",
            "max-concurrency": self.limit,
        }

    @property
    def info(self) -> dict[str, Any]:
        """What the remote command ``stats`` shows of the pool."""
        return self._get_info()

    @property
    def active(self) -> bool:
        """The pool takes calls."""
        return self._state == self.RUN

    @property
    def num_processes(self) -> int:
        """How many calls can run at the same time now."""
        return self.limit or 0

"""
The pool of gevent's green threads.

For very many bodies that wait.  The hard time limit is enforced as soon as the body yields to
other green threads; the soft one is not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gevent
from billiard.exceptions import TimeLimitExceeded
from gevent import monkey
from gevent.event import Event
from gevent.pool import Pool

from celery.app._sealing import Ended, sealing
from celery.concurrency import base
from celery.concurrency._green import GreenPool, GreenTimer, Killed, LoopThread, apply_killable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from celery.concurrency._green import GreenEntry

__all__ = ("TaskPool",)


class _LimitPassed(SystemExit):
    """Raised in a body that has run for too long."""


def apply_target(
    target: Callable[..., Any],
    args: Iterable[Any] = (),
    kwargs: dict[str, Any] | None = None,
    callback: Callable[[Any], Any] | None = None,
    accept_callback: Callable[[int, float], Any] | None = None,
    getpid: Callable[[], int] | None = None,
    **_: Any,
) -> None:
    """Run *target* in this green thread, whose identity *getpid* returns."""
    apply_killable(
        target,
        args,
        kwargs,
        callback,
        accept_callback,
        getpid,
        _.get("propagate", ()),
        _.get("error_callback"),
        _.get("seal"),
    )


def apply_timeout(
    target: Callable[..., Any],
    args: Iterable[Any] = (),
    kwargs: dict[str, Any] | None = None,
    callback: Callable[[Any], Any] | None = None,
    accept_callback: Callable[[int, float], Any] | None = None,
    getpid: Callable[[], int] | None = None,
    timeout: float | None = None,
    timeout_callback: Callable[..., Any] | None = None,
    Timeout: type[gevent.Timeout] = gevent.Timeout,
    apply_target: Callable[..., Any] = apply_target,
    **rest: Any,
) -> None:
    """Run *target* for at most *timeout* seconds; what follows its body is outside the limit."""

    def limited(*args: Any, **kwargs: Any) -> Any:
        unlimited = sealing.get()
        with Timeout(timeout, _LimitPassed()) as limit:

            def seal(how: Ended | None = None) -> None:
                limit.cancel()
                if unlimited is not None:
                    unlimited(how)

            sealing.set(seal)
            return target(*args, **kwargs)

    try:
        apply_target(
            limited,
            args,
            kwargs,
            callback,
            accept_callback,
            getpid,
            propagate=(_LimitPassed,),
            **rest,
        )
    except _LimitPassed:
        if timeout_callback is not None:
            timeout_callback(soft=False, timeout=timeout)
        else:
            einfo = base.describe(TimeLimitExceeded(timeout))
            base.report_failure(einfo, callback, rest.get("error_callback"))


class Timer(GreenTimer):
    """Timers as green threads."""

    def _spawn_later(
        self, delay: float, run: Callable[[GreenEntry], None], entry: GreenEntry
    ) -> Any:
        greenlet = gevent.spawn_later(delay, run, entry)
        return lambda: greenlet.kill(block=False)


class _LoopThread(LoopThread):
    """Where coroutines run beside the green threads."""

    def _start_thread(self, run: Callable[[], None]) -> None:
        monkey.get_original("_thread", "start_new_thread")(run, ())

    def _bell(self) -> tuple[Callable[[], None], Callable[[], None], Callable[[], None]]:
        rung = Event()
        watcher = gevent.get_hub().loop.async_()
        watcher.start(rung.set)
        return watcher.send, rung.wait, watcher.close


class TaskPool(GreenPool):
    """Run calls in up to *limit* green threads."""

    Timer = Timer

    enforces_hard_limit = True
    _pool: Pool | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(_LoopThread(), *args, **kwargs)
        self.Pool = Pool
        self.spawn_n = gevent.spawn
        self.getcurrent = gevent.getcurrent
        self.getpid = lambda: id(gevent.getcurrent())
        self.timeout = self.options.get("timeout")

    def on_start(self) -> None:
        """Create the group that limits the number of green threads."""
        self._pool = self.Pool(self.limit)
        self._coroutines.start()

    def on_stop(self) -> None:
        """Wait for the running calls."""
        if self._pool is not None:
            self._pool.join()
        self._coroutines.stop()

    def on_apply(
        self,
        target: Callable[..., Any],
        args: tuple[Any, ...] | None = None,
        kwargs: dict[str, Any] | None = None,
        callback: Callable[[Any], Any] | None = None,
        accept_callback: Callable[[int, float], Any] | None = None,
        timeout: float | None = None,
        timeout_callback: Callable[..., Any] | None = None,
        apply_target: Callable[..., Any] = apply_target,
        **_: Any,
    ) -> gevent.Greenlet:
        """Start one call; waits while the pool is full."""
        if self._pool is None:
            raise RuntimeError("the gevent pool has not been started")
        timeout = self.timeout if timeout is None else timeout
        rest: dict[str, Any] = {"error_callback": _.get("error_callback"), "seal": self._seal}
        run = apply_target
        if timeout:
            run = apply_timeout
            rest |= {
                "timeout": timeout,
                "timeout_callback": timeout_callback,
                "apply_target": apply_target,
            }
        greenlet = self._pool.spawn(
            run, target, args or (), kwargs, callback, accept_callback, self.getpid, **rest
        )
        self._note_start(greenlet)
        return greenlet

    def grow(self, n: int = 1) -> None:
        """Allow *n* more calls at a time."""
        if self._pool is not None:
            self._pool.size += n
            for _ in range(n):
                self._pool._semaphore.release()
        self.limit += n

    def shrink(self, n: int = 1) -> None:
        """Allow *n* fewer calls at a time, at least one; running ones go on."""
        n = min(n, self.limit - 1)
        if self._pool is not None:
            self._pool.size -= n
            # May become negative: then that many calls have to end before the next begins.
            self._pool._semaphore.counter -= n
        self.limit -= n

    def terminate_job(self, pid: int, signal: int | str | None = None) -> None:
        """Stop the call under *pid* when it yields next."""
        gevent.get_hub().loop.run_callback(self._kill, pid, Killed(signal))

    def _kill(self, pid: int, reason: Killed) -> None:
        """Stop a call, unless it has come to its end before its turn; in the hub."""
        greenlet = self._running.get(pid)
        if greenlet is not None:
            greenlet.throw(reason)

    @property
    def num_processes(self) -> int:
        """How many calls may run at the same time now."""
        return self.limit

"""
The pool of eventlet's green threads.

For very many bodies that wait, where the rest of the program is built on eventlet; its authors
advise new projects against it.  Time limits are not enforced.
"""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING, Any

import eventlet
import greenlet
from eventlet import greenpool, greenthread, hubs, patcher

from celery import signals
from celery.concurrency._green import GreenPool, GreenTimer, Killed, LoopThread, apply_killable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from celery.app._sealing import Seal
    from celery.concurrency._green import GreenEntry

__all__ = ("TaskPool",)

#: Packages that must not take locks and sockets from an unpatched standard library.
RACE_MODS = ("billiard.", "celery.", "kombu.")

W_RACE = (
    "Celery was imported before eventlet patched the standard library; start the worker with "
    "'-P eventlet' on the command line, or call eventlet.monkey_patch() first: %s"
)


def apply_target(
    target: Callable[..., Any],
    args: Iterable[Any] = (),
    kwargs: dict[str, Any] | None = None,
    callback: Callable[[Any], Any] | None = None,
    accept_callback: Callable[[int, float], Any] | None = None,
    getpid: Callable[[], int] | None = None,
    error_callback: Callable[[Any], Any] | None = None,
    seal: Seal | None = None,
) -> None:
    """Run *target* in this green thread, whose identity *getpid* returns."""
    apply_killable(
        target,
        args,
        kwargs,
        callback,
        accept_callback,
        getpid,
        error_callback=error_callback,
        seal=seal,
    )


class Timer(GreenTimer):
    """Timers as green threads."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.GreenletExit = greenlet.GreenletExit

    def _spawn_later(
        self, delay: float, run: Callable[[GreenEntry], None], entry: GreenEntry
    ) -> Any:
        return greenthread.spawn_after(delay, run, entry).cancel


class _LoopThread(LoopThread):
    """Where coroutines run beside the green threads."""

    def _start_thread(self, run: Callable[[], None]) -> None:
        patcher.original("_thread").start_new_thread(run, ())

    def _bell(self) -> tuple[Callable[[], None], Callable[[], None], Callable[[], None]]:
        reader, writer = os.pipe()
        write: Callable[[int, bytes], int] = patcher.original("os").write

        def close() -> None:
            os.close(reader)
            os.close(writer)

        return (
            lambda: (write(writer, b"!"), None)[1],
            lambda: hubs.trampoline(reader, read=True),
            close,
        )


class TaskPool(GreenPool):
    """Run calls in up to *limit* green threads."""

    Timer = Timer

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(_LoopThread(), *args, **kwargs)
        self.Pool = greenpool.GreenPool
        self.getcurrent = greenlet.getcurrent
        self.getpid = lambda: id(greenlet.getcurrent())
        self.spawn_n = greenthread.spawn_n

    def on_start(self) -> None:
        """Create the group that limits the number of green threads."""
        _warn_if_unpatched()
        self._pool = self.Pool(self.limit)
        self._coroutines.start()
        signals.eventlet_pool_started.send(sender=self)

    def on_stop(self) -> None:
        """Wait for the running calls."""
        signals.eventlet_pool_preshutdown.send(sender=self)
        if self._pool is not None:
            self._pool.waitall()
        self._coroutines.stop()
        signals.eventlet_pool_postshutdown.send(sender=self)

    def on_apply(
        self,
        target: Callable[..., Any],
        args: tuple[Any, ...] | None = None,
        kwargs: dict[str, Any] | None = None,
        callback: Callable[[Any], Any] | None = None,
        accept_callback: Callable[[int, float], Any] | None = None,
        **_: Any,
    ) -> Any:
        """Start one call; waits while the pool is full."""
        if self._pool is None:
            raise RuntimeError("the eventlet pool has not been started")
        signals.eventlet_pool_apply.send(sender=self, target=target, args=args, kwargs=kwargs)
        thread = self._pool.spawn(
            apply_target,
            target,
            args or (),
            kwargs,
            callback,
            accept_callback,
            self.getpid,
            _.get("error_callback"),
            self._seal,
        )
        self._note_start(thread)
        return thread

    def grow(self, n: int = 1) -> None:
        """Allow *n* more calls at a time."""
        self.limit += n
        if self._pool is not None:
            self._pool.resize(self.limit)

    def shrink(self, n: int = 1) -> None:
        """Allow *n* fewer calls at a time, at least one; running ones go on."""
        self.limit = max(self.limit - n, 1)
        if self._pool is not None:
            self._pool.resize(self.limit)

    def terminate_job(self, pid: int, signal: int | str | None = None) -> None:
        """Stop the call under *pid* when it yields next."""
        # Killing switches to the victim at once; the caller has things to finish first.
        eventlet.spawn_after(0, self._kill, pid, Killed(signal))

    def _kill(self, pid: int, reason: Killed) -> None:
        """Stop a call, unless it has come to its end before its turn."""
        thread = self._running.get(pid)
        if thread is not None:
            thread.kill(reason)

    def _get_info(self) -> dict[str, Any]:
        pool = self._pool
        return super()._get_info() | {
            "free-threads": pool.free() if pool is not None else self.limit,
            "running-threads": pool.running() if pool is not None else 0,
        }


def _warn_if_unpatched() -> None:
    if os.environ.get("EVENTLET_NOPATCH") or patcher.is_monkey_patched("socket"):
        return
    names = ", ".join(name.rstrip(".") for name in RACE_MODS)
    warnings.warn(RuntimeWarning(W_RACE % names), stacklevel=3)

"""
What the two pools of green threads have in common.

A green thread is stopped by raising something in it.  What we raise is also a SystemExit: code
that traces tasks lets that pass, so a stopped task doesn't end as one that failed by itself.
"""

from __future__ import annotations

import asyncio
import contextvars
from time import monotonic
from typing import TYPE_CHECKING, Any

from billiard.common import TERM_SIGNAL
from billiard.exceptions import Terminated
from greenlet import GreenletExit
from kombu.asynchronous import timer

from celery.app import _coroutines
from celery.app._coroutines import Interruptible
from celery.app._sealing import Ended, Seal, sealing
from celery.concurrency import base

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable


class Killed(GreenletExit, SystemExit):  # type: ignore[misc]  # greenlet may have no types
    """Raised in a body whose task is to be terminated."""

    def __init__(self, signum: int | str | None = None) -> None:
        super().__init__(signum)
        self.signum = signum or int(TERM_SIGNAL)


def apply_killable(
    target: Callable[..., Any],
    args: Iterable[Any] = (),
    kwargs: dict[str, Any] | None = None,
    callback: Callable[[Any], Any] | None = None,
    accept_callback: Callable[[int, float], Any] | None = None,
    getpid: Callable[[], int] | None = None,
    propagate: tuple[type[BaseException], ...] = (),
    error_callback: Callable[[Any], Any] | None = None,
    seal: Seal | None = None,
) -> None:
    """
    Do what `base.apply_target` does; a `Killed` body ends as `Terminated`.

    Args:
        seal: Called in this green thread when it must not be killed any more.
    """
    sealing.set(seal)
    try:
        base.apply_target(
            target,
            args,
            kwargs,
            callback,
            accept_callback,
            pid=getpid() if getpid is not None else None,
            propagate=(Killed, *propagate),
            error_callback=error_callback,
        )
    except Killed as exc:
        base.report_failure(base.describe(Terminated(exc.signum)), callback, error_callback)


class GreenEntry(timer.Entry):
    """One call that a green thread makes when it is due."""

    __slots__ = ("stop",)

    #: Wakes the green thread for good; set when it is started.
    stop: Callable[[], Any] | None

    def __init__(
        self, fun: Callable[..., Any], args: Any = None, kwargs: dict[str, Any] | None = None
    ) -> None:
        super().__init__(fun, args, kwargs)  # type: ignore[no-untyped-call]
        self.stop = None

    def cancel(self) -> None:
        """Make the call never happen, and release what waits for its time."""
        self.canceled = True
        stop, self.stop = self.stop, None
        if stop is not None:
            stop()


class GreenTimer(timer.Timer):
    """A timer with a green thread for each entry; subclasses say how to start one."""

    Entry = GreenEntry
    _queue: set[GreenEntry]  # type: ignore[assignment]  # kombu keeps a heap

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]
        self._queue = set()

    def _spawn_later(
        self, delay: float, run: Callable[[GreenEntry], None], entry: GreenEntry
    ) -> Any:
        """Start ``run(entry)`` after *delay* seconds; return what prevents that when called."""
        raise NotImplementedError

    def _enter(  # type: ignore[override]  # nothing is pushed
        self, eta: float, priority: int, entry: GreenEntry, **kwargs: Any
    ) -> GreenEntry:
        entry.stop = self._spawn_later(max(eta - monotonic(), 0.0), self._run, entry)
        self._queue.add(entry)
        return entry

    def _run(self, entry: GreenEntry) -> None:
        entry.stop = None
        self._queue.discard(entry)
        if not entry.canceled:
            self.apply_entry(entry)  # type: ignore[no-untyped-call]

    def clear(self) -> None:
        """Cancel every entry."""
        entries, self._queue = self._queue, set()
        for entry in entries:
            entry.cancel()

    def cancel(self, tref: GreenEntry) -> None:
        """Cancel one entry."""
        self._queue.discard(tref)
        tref.cancel()

    @property
    def queue(self) -> set[GreenEntry]:
        """The entries that are not due yet, in no order."""
        return self._queue


class LoopThread:
    """
    An asyncio loop in a real thread, where the coroutines of all green threads run.

    It can't run among them: asyncio allows for one running loop in a real thread. Subclasses say
    how a green thread waits for something that happens in a real one.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Complete the coroutines of this process from now on."""
        _coroutines.delegate(self.complete)

    def stop(self) -> None:
        """Let the thread end; harmless twice."""
        _coroutines.delegate(None)
        loop, self._loop = self._loop, None
        if loop is not None:
            loop.call_soon_threadsafe(self._end, loop)

    @staticmethod
    def _end(loop: asyncio.AbstractEventLoop) -> None:
        """Let the loop end as soon as nothing runs on it."""
        running = asyncio.all_tasks(loop)
        if running:
            last = asyncio.ensure_future(asyncio.wait(running))
            last.add_done_callback(lambda _: loop.stop())
        else:
            loop.stop()

    def _start_thread(self, run: Callable[[], None]) -> None:
        """Call *run* in a real thread."""
        raise NotImplementedError

    def _bell(self) -> tuple[Callable[[], None], Callable[[], None], Callable[[], None]]:
        """Return what rings in any thread, waits for that in this green one, and cleans up."""
        raise NotImplementedError

    def _started(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            ring, wait, close = self._bell()

            def run() -> None:
                loop = self._loop = asyncio.new_event_loop()
                loop.call_soon(ring)
                loop.run_forever()
                loop.close()

            self._start_thread(run)
            wait()
            close()
            assert self._loop is not None
        return self._loop

    def complete(self, coro: Coroutine[Any, Any, Any]) -> Any:
        """Run *coro* to its end, while this green thread waits; what ends that is for *coro*."""
        loop = self._started()
        body = Interruptible(coro)
        context = contextvars.copy_context()
        ring, wait, close = self._bell()

        def begin() -> None:
            body.task = loop.create_task(body, context=context)
            body.task.add_done_callback(lambda _: ring())

        loop.call_soon_threadsafe(begin)
        try:
            wait()
        except BaseException as exc:  # noqa: BLE001 - comes back out of the coroutine
            loop.call_soon_threadsafe(body.interrupt, exc)
            wait()
        finally:
            close()
        return body.outcome()


class GreenPool(base.BasePool):
    """Runs calls in up to *limit* green threads; for subclasses that know how to start them."""

    signal_safe = False
    is_green = True
    task_join_will_block = False
    reports_terminated = True
    limit: int
    _pool: Any = None
    #: Identity of the green thread that calls it.
    getpid: Callable[[], int]

    def __init__(self, coroutines: LoopThread, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._coroutines = coroutines
        #: Green threads that can be stopped, by their identity.
        self._running: dict[int, Any] = {}

    def on_terminate(self) -> None:
        """Stop the running calls."""
        for pid in list(self._running):
            self.terminate_job(pid)
        self._coroutines.stop()

    def _note_start(self, thread: Any) -> None:
        self._running[id(thread)] = thread
        thread.link(self._on_end)

    def _on_end(self, thread: Any) -> None:
        self._running.pop(id(thread), None)

    def _seal(self, how: Ended | None = None) -> None:
        """Take the green thread that calls this out of those that can be stopped."""
        self._running.pop(self.getpid(), None)

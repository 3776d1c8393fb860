"""
What does the I/O of the prefork pool: the worker's event loop, or a thread of the pool's own.

The pool says which descriptors it watches and when it wants to be woken; on which loop that
happens may change at any time, and for a while there may be none.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

from celery.concurrency import _loop
from celery.concurrency._children import NEVER

if TYPE_CHECKING:
    from collections.abc import Callable


class Driver:
    """
    The loop in use, if any, with what is to be watched on it and its one timer.

    Args:
        on_attach: Called with a loop that is used from now on.
        on_detach: Called with one that is not used any more.
        on_timer: Called when `due` has come.
    """

    def __init__(
        self,
        on_attach: Callable[[Any], object],
        on_detach: Callable[[Any], object],
        on_timer: Callable[[], object],
    ) -> None:
        self._on_attach, self._on_detach, self._on_timer = on_attach, on_detach, on_timer
        self._loop: Any = None
        self._thread: _loop.ThreadLoop | None = None
        self._idle_thread: _loop.ThreadLoop | None = None
        self._watched: dict[int, tuple[Callable[..., object], tuple[Any, ...]]] = {}
        self._timer: Any = None
        #: Monotonic time of the next call of *on_timer*.
        self.due = NEVER
        self._changed = threading.Condition()

    # -- which loop

    def start_thread(self) -> None:
        """Do I/O in a thread."""
        loop = _loop.ThreadLoop()
        self._attach(loop)
        self._thread = loop
        loop.start()

    def move_to(self, hub: Any) -> None:
        """Do I/O on *hub* from now on; again after the hub was reset."""
        if self._thread is not None:
            # The thread stays, as children that it forked would die with it.
            self._idle_thread, self._thread = self._thread, None
            self._loop.call_in_thread(self._detach)
        self._attach(hub)

    def stop(self) -> None:
        """Do no more I/O; returns when the threads have ended."""
        for thread in (self._thread, self._idle_thread):
            if thread is not None:
                thread.stop()
        self._thread = self._idle_thread = None
        self._detach()

    def is_running(self) -> bool:
        """Say whether I/O is done without the caller's help."""
        return self._loop is not None

    def outlives_children(self) -> bool:
        """Say whether the calling thread lasts as long as children that it forks."""
        current = threading.current_thread()
        return current is threading.main_thread() or (
            self._thread is not None and self._thread.is_current()
        )

    def foreign_fds(self) -> set[int]:
        """List what the loop of somebody else watches, the pool's own descriptors included."""
        loop = self._loop
        if loop is None or isinstance(loop, _loop.Loop):
            return set()
        return {fd for fd in {*loop.readers, *loop.writers} if isinstance(fd, int)}

    def _attach(self, loop: Any) -> None:
        self._detach()
        self._loop = loop
        self._on_attach(loop)
        for fd, (callback, args) in self._watched.items():
            loop.add_reader(fd, callback, *args)
        self._set_timer()

    def _detach(self) -> None:
        loop, self._loop = self._loop, None
        self._cancel_timer()
        if loop is not None:
            self._on_detach(loop)
            for fd in self._watched:
                loop.remove(fd)

    # -- what is done there

    def watch(self, fd: int, callback: Callable[..., object], *args: Any) -> None:
        """Call *callback* whenever *fd* can be read."""
        self._watched[fd] = callback, args
        if self._loop is not None:
            self._loop.add_reader(fd, callback, *args)

    def unwatch(self, fd: int) -> None:
        """Watch *fd* no more."""
        del self._watched[fd]
        if self._loop is not None:
            self._loop.remove(fd)

    def wake_by(self, due: float) -> None:
        """Have *on_timer* called at the monotonic time *due*, or before."""
        if due < self.due:
            self.due = due
            self._cancel_timer()
            self._set_timer()

    def call(self, function: Callable[..., object], *args: Any) -> None:
        """Call *function* where reports are read, so that nothing changes under it."""
        if self._thread is None or self._thread.is_current():
            function(*args)
        else:
            self._thread.call_later(0, lambda: function(*args))

    def call_soon(self, function: Callable[[], object]) -> None:
        """Call *function* at the next turn of the loop, if there is one."""
        if self._loop is not None:
            self._loop.call_later(0, function)

    def run(self, until: Callable[[], bool], timeout: float | None = None) -> bool:
        """
        Have I/O done until *until* holds, or *timeout* seconds have passed; say whether it does.

        In a thread of the pool's own, *until* is looked at after each `notify`.
        """
        if self._thread is not None:
            with self._changed:
                return self._changed.wait_for(until, timeout)
        deadline = None if timeout is None else time.monotonic() + timeout
        outer, loop = self._loop, _loop.Loop()
        self._attach(loop)
        try:
            loop.run(until, deadline)
        finally:
            self._detach()
            loop.close()
            if outer is not None:
                self._attach(outer)
        return until()

    def notify(self) -> None:
        """Tell those that wait in `run` that something has changed."""
        with self._changed:
            self._changed.notify_all()

    def _set_timer(self) -> None:
        if self._loop is not None and self.due != NEVER:
            wait = max(0.0, self.due - time.monotonic())
            self._timer = self._loop.call_later(wait, self._ring)

    def _cancel_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _ring(self) -> None:
        self._timer, self.due = None, NEVER
        self._on_timer()

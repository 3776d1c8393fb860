"""
A small event loop for the prefork pool when the worker has none.

It offers the few methods of kombu's Hub that the pool uses, so the pool's I/O is the same code
under both.  It runs in a thread of its own while the pool works beside a blocking consumer, and
in the caller's thread while a pool on the Hub is being joined.
"""

from __future__ import annotations

import heapq
import itertools
import selectors
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

from celery.utils.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable

logger = get_logger(__name__)


class Timer:
    """One call that is due later."""

    __slots__ = ("callback", "due")

    def __init__(self, due: float, callback: Callable[[], Any]) -> None:
        self.due = due
        self.callback: Callable[[], Any] | None = callback

    def cancel(self) -> None:
        """Make the call never happen."""
        self.callback = None


class Loop:
    """Watch file descriptors and timers; every method may be called from any thread."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._timers: list[tuple[float, int, Timer]] = []
        self._ids = itertools.count()
        self._lock = threading.Lock()
        self._wakeup_reader, self._wakeup_writer = socket.socketpair()
        for end in (self._wakeup_reader, self._wakeup_writer):
            end.setblocking(False)
        self.add_reader(self._wakeup_reader, self._on_wakeup)

    def add_reader(self, fd: Any, callback: Callable[..., Any], *args: Any) -> None:
        """Call *callback* whenever *fd* can be read."""
        self._selector.register(fd, selectors.EVENT_READ, (callback, args))

    def add_writer(self, fd: Any, callback: Callable[..., Any], *args: Any) -> None:
        """Call *callback* whenever *fd* can be written."""
        self._selector.register(fd, selectors.EVENT_WRITE, (callback, args))

    def remove(self, fd: Any) -> None:
        """Watch *fd* no more; harmless if it is not watched."""
        try:
            self._selector.unregister(fd)
        except (KeyError, ValueError):
            return

    def call_later(self, delay: float, callback: Callable[[], Any]) -> Timer:
        """Call *callback* after *delay* seconds, unless cancelled."""
        timer = Timer(time.monotonic() + delay, callback)
        with self._lock:
            heapq.heappush(self._timers, (timer.due, next(self._ids), timer))
        self.wake()
        return timer

    def wake(self) -> None:
        """Make a waiting `run` look at its condition and timers again."""
        try:
            self._wakeup_writer.send(b"\0")
        except OSError:
            return  # full: a wake-up is under way already; closed: nobody waits

    def run(self, until: Callable[[], bool], deadline: float | None = None) -> None:
        """
        Serve events until *until* says True or *deadline*, in monotonic time, has passed.

        What a callback raises is logged; the loop goes on, as it carries every job.
        """
        while not until():
            timeout = self._run_timers()
            if until():  # a timer may have brought it about
                return
            if deadline is not None:
                left = deadline - time.monotonic()
                if left <= 0:
                    return
                timeout = left if timeout is None else min(left, timeout)
            for key, _ in self._selector.select(timeout):
                callback, args = key.data
                try:
                    callback(*args)
                except Exception:
                    logger.exception("Pool event handler failed")

    def close(self) -> None:
        """Release the descriptors of the loop itself."""
        self._selector.close()
        self._wakeup_reader.close()
        self._wakeup_writer.close()

    def _on_wakeup(self) -> None:
        self._wakeup_reader.recv(4096)

    def _run_timers(self) -> float | None:
        """Run what is due; return the seconds until the next timer, None without one."""
        while True:
            with self._lock:
                if not self._timers:
                    return None
                due, _, timer = self._timers[0]
                wait = due - time.monotonic()
                if timer.callback is not None and wait > 0:
                    return wait
                heapq.heappop(self._timers)
            if (callback := timer.callback) is not None:
                try:
                    callback()
                except Exception:
                    logger.exception("Pool timer failed")


class ThreadLoop(Loop):
    """A loop that runs in a daemon thread of its own from `start` to `stop`."""

    def __init__(self) -> None:
        super().__init__()
        self._is_stopping = threading.Event()
        self._thread = threading.Thread(
            target=self.run, args=(self._is_stopping.is_set,), name="celery-pool", daemon=True
        )

    def start(self) -> None:
        """Begin to serve events."""
        self._thread.start()

    def stop(self) -> None:
        """Serve no more events; returns when the thread has ended."""
        self._is_stopping.set()
        self.wake()
        if not self.is_current():
            self._thread.join()
            self.close()

    def is_current(self) -> bool:
        """Say whether the caller runs in this loop's thread."""
        return threading.current_thread() is self._thread

    def call_in_thread(self, function: Callable[[], Any]) -> None:
        """Call *function* in the thread, and return when it has returned."""
        if self.is_current():
            function()
            return
        done = threading.Event()

        def run() -> None:
            try:
                function()
            finally:
                done.set()

        self.call_later(0, run)
        done.wait()

"""The event loop of a worker: kombu's, with another order within a turn.

kombu's loop asks the timer how long to wait, then lets transports do their work of the turn, then
waits: what they have asked the timer for meanwhile may come a second late. Here the timer is asked
last.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from queue import Empty
from time import monotonic
from types import GeneratorType
from typing import TYPE_CHECKING, Any, TypeAlias

from kombu.utils.eventio import ERR, READ, WRITE

if TYPE_CHECKING:
    KombuHub: TypeAlias = Any
else:
    from kombu.asynchronous import Hub as KombuHub

__all__ = ("Hub",)

#: Seconds of a turn in which nothing happens.
LONGEST_WAIT_S = 1.0


class Hub(KombuHub):  # type: ignore[misc]  # kombu's, untyped
    """An event loop; each ``next()`` of what `create_loop` gives is one turn."""

    def create_loop(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """Return a generator that takes one turn after the other."""
        waker = self._waker
        if waker is None or waker.pid != os.getpid():
            waker = self._create_waker()
        waker_fd = waker.fileno()
        poll = self.poller.poll
        timers = self.timer._queue
        self._loop_thread = threading.get_ident()
        while True:
            for item in self._pop_ready():
                if item:
                    item()
            if timers:
                self.fire_timers(propagate=self.propagate_errors)
            for tick in tuple(self.on_tick):
                tick()
            timeout = LONGEST_WAIT_S
            if self._ready:
                timeout = 0.0
            elif timers:
                timeout = min(max(timers[0].eta - monotonic(), 0.0), timeout)
            try:
                events = poll(timeout)
            except ValueError:
                # A descriptor was closed under the poller.
                return
            for fd, event in events or ():
                if fd == waker_fd:
                    self._on_wakeup(waker)
                else:
                    self._on_event(fd, event)
            yield

    def _on_event(self, fd: int, event: int) -> None:
        known = None
        if event & READ:
            known = self.readers.get(fd)
        elif event & WRITE:
            known = self.writers.get(fd)
        if known is None and event & ERR:
            known = self.readers.get(fd) or self.writers.get(fd)
        if known is None:
            # Removed while an earlier event of this turn was handled.
            self._forget(fd, event)
            return
        callback, args = known
        if isinstance(callback, GeneratorType):
            self._resume(fd, callback)
            return
        try:
            callback(*args)
        except Empty:
            return

    def _forget(self, fd: int, event: int) -> None:
        if event & READ and fd in self.writers:
            self.remove_reader(fd)
        elif event & WRITE and fd in self.readers:
            self.remove_writer(fd)
        else:
            self.remove(fd)

    def _resume(self, fd: int, callback: Any) -> None:
        try:
            next(callback)
        except StopIteration:
            return
        except OSError as exc:
            if exc.errno != errno.EBADF:
                raise
            self.remove(fd)
        except Exception:
            self.remove(fd)
            raise

"""Waiting for messages of a broker that cannot wake us: look, pause, look again.

The pauses end at once when there is something else to do: a signal, a message to settle. They
are short after a message and grow to the interval that the transport asks for, so a queue in use is
quick to follow and an idle one costs no more than the interval says.
"""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from celery.utils.functional import noop

__all__ = ("Bell", "Polling", "rings")

#: Seconds after a look that found something, or the first that found nothing.
FIRST_PAUSE_S = 0.01

#: Seconds to wait for a message within a look: as good as none, where 0 would mean for ever.
NO_WAIT_S = 1e-9


class Bell(NamedTuple):
    """The end of a socket that becomes readable when the loop is woken."""

    reader: socket.socket

    def quiet(self) -> None:
        """Forget that it rang."""
        try:
            self.reader.recv(4096)
        except (BlockingIOError, TimeoutError):
            # Another wake-up was taken with this one.
            return

    def wait(self, timeout_s: float) -> None:
        """Return when it rings, or after some seconds."""
        self.reader.settimeout(timeout_s)
        self.quiet()


@contextmanager
def rings(obj: Any) -> Iterator[Bell]:
    """Make a bell that signals ring (a wait would be resumed after one, PEP 475) and ``obj.wake``.

    Args:
        obj: The consumer of the worker, whose ``wake`` is set meanwhile.
    """
    reader, writer = socket.socketpair()
    reader.setblocking(False)
    writer.setblocking(False)

    def wake() -> None:
        # So many wake-ups may be there already, or the loop just ended.
        with suppress(OSError):
            writer.send(b"!")

    previous = None
    if threading.current_thread() is threading.main_thread():
        previous = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    obj.wake = wake
    try:
        yield Bell(reader)
    finally:
        obj.wake = noop
        if previous is not None:
            signal.set_wakeup_fd(previous)
        reader.close()
        writer.close()


class Polling:
    """Looks for messages and pauses in between.

    Args:
        drain: Waits for one message, for some seconds; raises TimeoutError when none came.
        pause: Waits for some seconds, or until woken.
        interval_s: Longest pause.
    """

    def __init__(
        self, drain: Callable[[float], Any], pause: Callable[[float], Any], interval_s: float
    ) -> None:
        self.drain = drain
        self.pause = pause
        self.interval_s = interval_s
        self._next_s = FIRST_PAUSE_S

    def turn(self) -> None:
        """Look once, and pause if that was in vain."""
        try:
            self.drain(NO_WAIT_S)
        except TimeoutError:
            self.pause(min(self._next_s, self.interval_s))
            self._next_s = min(2 * self._next_s, self.interval_s)
        else:
            self._next_s = FIRST_PAUSE_S

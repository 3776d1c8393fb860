"""
A debugger for code that has no terminal: tasks in worker processes.

Put ``from celery.contrib import rdb; rdb.set_trace()`` into a task. The process waits there and
logs a port; ``telnet`` to it talks to :mod:`pdb`. Environment: ``CELERY_RDB_HOST`` (127.0.0.1 by
default; whoever can connect can run code) and ``CELERY_RDB_PORT``, from which a free port is
searched upwards.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
from pdb import Pdb
from types import FrameType, TracebackType
from typing import IO, Any

from billiard.process import current_process

__all__ = (
    "CELERY_RDB_HOST",
    "CELERY_RDB_PORT",
    "DEFAULT_PORT",
    "Rdb",
    "debugger",
    "set_trace",
)

DEFAULT_PORT = 6899

CELERY_RDB_HOST = os.environ.get("CELERY_RDB_HOST") or "127.0.0.1"
CELERY_RDB_PORT = int(os.environ.get("CELERY_RDB_PORT") or DEFAULT_PORT)

NO_AVAILABLE_PORT = (
    "{self.ident}: no free port for the debugger at {self.host}, from {self.port} on. "
    "Set the environment variable CELERY_RDB_PORT to a number where some are free."
)
BANNER = (
    "{self.ident}: Please telnet {self.host} {self.port}.  "
    "Type `exit` in session to continue.\n\n{self.ident}: Waiting for client..."
)
SESSION_STARTED = "{self.ident}: Now in session with {self.remote_addr}."
SESSION_ENDED = "{self.ident}: Session with {self.remote_addr} ended."

#: The debugger of this process, between its first and its last use.
_current: list[Rdb | None] = [None]


class Rdb(Pdb):
    """
    A debugger that talks to a socket.

    Args:
        host: Interface to listen on.
        port: First port to try.
        port_search_limit: Number of ports to try.
        port_skew: Added to the port, so that pool processes don't compete.
        out: Where to tell about the session.
    """

    me = "Remote Debugger"

    _prev_outs: tuple[Any, Any] | None = None
    _sock: socket.socket | None = None

    def __init__(
        self,
        host: str = CELERY_RDB_HOST,
        port: int = CELERY_RDB_PORT,
        port_search_limit: int = 100,
        port_skew: int = 0,
        out: IO[str] = sys.stdout,
    ) -> None:
        self.active = True
        self.out = out
        self.host = host
        self.port = port
        self.ident = f"{self.me}:{port}"
        self._sock, self.port = self.get_avail_port(host, port, port_search_limit, port_skew)
        self._sock.listen(1)
        self.ident = f"{self.me}:{self.port}"
        self.say(BANNER.format(self=self))
        self._client, address = self._sock.accept()
        self.remote_addr = ":".join(str(part) for part in address)
        self.say(SESSION_STARTED.format(self=self))
        # Two files: one for both ways forgets, at each write, what it has read ahead.
        self._reader, self._writer = self._client.makefile("r"), self._client.makefile("w")
        self._prev_outs = sys.stdin, sys.stdout
        super().__init__(completekey="tab", stdin=self._reader, stdout=self._writer)
        sys.stdin, sys.stdout = self._reader, self._writer

    def get_avail_port(
        self, host: str, port: int, search_limit: int = 100, skew: int = 0
    ) -> tuple[socket.socket, int]:
        """
        Return a bound socket and its port.

        Raises:
            RuntimeError: No port is free.
        """
        with contextlib.suppress(AttributeError, ValueError):
            # ForkPoolWorker-2 takes the second port, and so on.
            skew = skew + int(current_process().name.rpartition("-")[2])
        first = port + skew
        for candidate in range(first, first + search_limit):
            listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind((host, candidate))
            except OSError as exc:
                listener.close()
                if exc.errno not in (errno.EADDRINUSE, errno.EINVAL):
                    raise
            else:
                return listener, candidate
        raise RuntimeError(NO_AVAILABLE_PORT.format(self=self))

    def say(self, m: str) -> None:
        """Tell about the session."""
        print(m, file=self.out, flush=True)

    def __enter__(self) -> Rdb:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._close_session()

    def _close_session(self) -> None:
        """Close the connection and give stdin and stdout back; harmless twice."""
        if self._prev_outs is not None:
            sys.stdin, sys.stdout = self._prev_outs
            self._prev_outs = None
        if not self.active:
            return
        self.active = False
        for part in (self._writer, self._reader, self._client, self._sock):
            if part is not None:
                part.close()
        self.say(SESSION_ENDED.format(self=self))

    def do_continue(self, arg: str) -> bool | None:
        """Go on without the debugger."""
        self._close_session()
        self.set_continue()
        return True

    do_c = do_cont = do_continue

    def do_quit(self, arg: str) -> bool | None:
        """End the session; the program goes on."""
        self._close_session()
        self.set_quit()
        return True

    do_q = do_exit = do_quit

    def set_quit(self) -> None:
        """Stop tracing, where the standard debugger would end the program."""
        sys.settrace(None)


def debugger() -> Rdb:
    """Return the debugger of this process; makes one, and waits for its user, if need be."""
    found = _current[0]
    if found is None or not found.active:
        found = _current[0] = Rdb()
    return found


def set_trace(frame: FrameType | None = None) -> None:
    """Stop here, or in *frame*, and let somebody connect."""
    if frame is None:
        frame = sys._getframe().f_back
    debugger().set_trace(frame)

"""One connection to a Redis server, with as little as possible between us and the socket.

redis-py connects, authenticates, encrypts, asks sentinels: its connection object is made as
kombu's transport would make it. From then on bytes go straight to and from the socket, many
commands in one write and many replies in one read.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from time import monotonic
from typing import Any

from redis import exceptions
from redis.connection import DefaultParser

from celery.local import try_import
from celery.utils.sockets import has_data

#: A parser in C; without it the one below is slower, and enough.
hiredis: Any = try_import("hiredis")

__all__ = ("Link", "PureReader", "lost", "pack", "pack_args")

#: Bytes asked for with one read. For twice as many the C library may get memory from the system,
#: and give it back, each time, which costs more than the rest of a call.
READ_SIZE = 1 << 16
#: Reads, at most, before what has come is looked at: four megabytes.
MOST_READS = 64
#: A connection that rested for longer is looked at before it is used again.
REST_S = 1.0
#: Answers that may be outstanding when more is posted.
MOST_OWED = 4

#: How errors begin that another attempt, perhaps on another server, may not see.
PASSING = ("UNBLOCKED", "FENCED", "BUSY", "MISCONF", "NOREPLICAS", "MASTERDOWN")

#: How many forks lie between this process and the one that imported this module.
_forks = 0


def _note_fork() -> None:
    global _forks  # noqa: PLW0603 - one count per process, by design
    _forks += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)

#: What a reader answers when there is no whole reply yet.
NOTHING: Any = object()

parse_error: Callable[[str], Exception] = DefaultParser.parse_error


def pack(*args: bytes | str | float) -> bytes:
    """Return one command as the bytes that a server reads."""
    return b"*%d\r\n%b" % (len(args), pack_args(args))


def pack_args(args: Iterable[bytes | str | float]) -> bytes:
    """Return arguments of a command as bytes; how many there are goes before them."""
    parts = []
    for arg in args:
        if not isinstance(arg, bytes):
            arg = str(arg).encode()
        parts.append(b"$%d\r\n%b\r\n" % (len(arg), arg))
    return b"".join(parts)


class PureReader:
    """Parses replies where hiredis is missing; has the two methods that are used of it."""

    def __init__(self) -> None:
        self._data = b""
        self._at = 0

    def feed(self, data: bytes) -> None:
        """Add what was read."""
        self._data = self._data[self._at :] + data
        self._at = 0

    def gets(self) -> Any:
        """Return the next reply, `NOTHING` when it has not arrived in full."""
        start = self._at
        try:
            return self._parse()
        except IndexError:
            self._at = start
            return NOTHING

    def _line(self) -> bytes:
        end = self._data.find(b"\r\n", self._at)
        if end < 0:
            raise IndexError
        line = self._data[self._at : end]
        self._at = end + 2
        return line

    def _parse(self) -> Any:
        line = self._line()
        kind, rest = line[:1], line[1:]
        if kind == b"$":
            size = int(rest)
            return None if size < 0 else self._bulk(size)
        if kind == b"*":
            size = int(rest)
            return None if size < 0 else [self._parse() for _ in range(size)]
        if kind == b":":
            return int(rest)
        if kind == b"+":
            return rest
        if kind == b"-":
            return parse_error(rest.decode(errors="replace"))
        raise exceptions.InvalidResponse(f"cannot read a reply that begins with {line[:40]!r}")

    def _bulk(self, size: int) -> bytes:
        end = self._at + size
        if len(self._data) < end + 2:
            raise IndexError
        value = self._data[self._at : end]
        self._at = end + 2
        return value


def new_reader() -> Any:
    """Return a parser of replies."""
    if hiredis is None:
        return PureReader()
    return hiredis.Reader(
        protocolError=exceptions.InvalidResponse, replyError=parse_error, notEnoughData=NOTHING
    )


class Link:
    """One connection, made when first used.

    A link belongs to the process that made it: after a fork the child gets a connection of
    its own and leaves the inherited one alone. `call` may be used by any thread.

    Args:
        make_connection: Gives a redis-py connection, not yet connected.
        timeout_s: Seconds within which the server has to take what is sent, and to answer.
            None waits forever.
        broker: URL for errors, without password.
    """

    def __init__(
        self, make_connection: Callable[[], Any], timeout_s: float | None, broker: str
    ) -> None:
        self.make_connection = make_connection
        self.timeout_s = timeout_s
        self.broker = broker
        self.lock = threading.RLock()
        self.connection: Any = None
        self.sock: Any = None
        self._reader: Any = None
        self._pending: Any = None
        #: Whether a read may be told not to wait.
        self._is_plain = False
        self._forks = 0
        self._used_at = 0.0
        #: Replies to what was posted that have not been looked at.
        self._owed = 0

    def fileno(self) -> int:
        """Return the descriptor of the socket."""
        return int(self.sock.fileno())

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection that this process may use."""
        return self.sock is not None and self._forks == _forks

    def connect(self) -> None:
        """Connect, unless connected.

        Raises:
            redis.exceptions.ConnectionError: That failed.
            redis.exceptions.TimeoutError: That took too long.
        """
        if self.sock is not None:
            if self._forks == _forks:
                return
            self._forget()
        connection = self.make_connection()
        try:
            connection.connect()
        except (exceptions.ConnectionError, exceptions.TimeoutError) as exc:
            raise self._named(exc) from exc
        self.connection = connection
        self.sock = _with_kernel_timeout(connection._sock, self.timeout_s)
        self._reader = new_reader()
        self._pending = getattr(self.sock, "pending", None)
        self._is_plain = _is_plain(self.sock)
        self._owed = 0
        self._forks = _forks
        self._used_at = monotonic()

    def disconnect(self) -> None:
        """Close the connection; harmless when there is none."""
        if self.sock is not None and self._forks != _forks:
            self._forget()
            return
        connection, self.connection, self.sock = self.connection, None, None
        if connection is not None:
            connection.disconnect()

    def _forget(self) -> None:
        # Closes the descriptor of this process, and leaves the connection to its owner.
        sock, self.connection, self.sock = self.sock, None, None
        sock.close()

    def is_silent(self) -> bool:
        """Say whether nothing waits to be read: what is late may have come while we were busy."""
        return self.sock is not None and not has_data(self.sock)

    def send(self, data: bytes) -> None:
        """Write *data*, one or more packed commands.

        Raises:
            redis.exceptions.ConnectionError: The connection is lost, or there is none.
            redis.exceptions.TimeoutError: The server does not read.
        """
        if self.sock is None:
            raise exceptions.ConnectionError(f"{self.broker}: not connected")
        try:
            self.sock.sendall(data)
        except OSError as exc:
            self.disconnect()
            raise self._lost(exc) from exc

    def receive(self) -> list[Any]:
        """Read once and return the replies that are complete, errors among them.

        Raises:
            redis.exceptions.ConnectionError: The connection is lost, or there is none.
            redis.exceptions.TimeoutError: Nothing came.
        """
        sock = self.sock
        if sock is None:
            raise exceptions.ConnectionError(f"{self.broker}: not connected")
        reader = self._reader
        try:
            data = sock.recv(READ_SIZE)
            if self._pending is not None:
                # An encrypted connection may hold more than it was asked for, unseen by a poll.
                while data and self._pending():
                    reader.feed(data)
                    data = sock.recv(READ_SIZE)
            elif len(data) == READ_SIZE and self._is_plain:
                # A long message: each turn of the loop would cost as much as a read.
                data = self._read_on(data)
        except OSError as exc:
            self.disconnect()
            raise self._lost(exc) from exc
        if not data:
            self.disconnect()
            raise exceptions.ConnectionError(f"{self.broker}: connection closed by the server")
        reader.feed(data)
        replies = []
        while (reply := reader.gets()) is not NOTHING:
            replies.append(reply)
        return replies

    def _read_on(self, data: bytes) -> bytes:
        """Read what else has come, and return the last of it."""
        recv, feed = self.sock.recv, self._reader.feed
        for _ in range(MOST_READS):
            try:
                more = recv(READ_SIZE, socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            if not more:
                # The next read will see the end, after the replies that came before it.
                break
            feed(data)
            data = more
            if len(data) < READ_SIZE:
                break
        return data

    def call(self, data: bytes, replies: int = 1) -> list[Any]:
        """Send *data* and wait for that many replies; connects where needed.

        Raises:
            redis.exceptions.ConnectionError: The connection is lost.
            redis.exceptions.TimeoutError: No answer in time.
            redis.exceptions.ResponseError: The first reply that is an error.
        """
        with self.lock:
            if self.sock is None or self._forks != _forks or monotonic() - self._used_at > REST_S:
                self.connect_or_check()
            try:
                self.send(data)
                owed, self._owed = self._owed, 0
                got = self._receive(owed + replies)
            except BaseException:
                # What comes later would be taken for the answer to the next command.
                self.disconnect()
                raise
            self._used_at = monotonic()
        _raise_first(got)
        return got[owed:]

    def post(self, data: bytes, replies: int = 1) -> None:
        """Send *data* without waiting for the answer, which is looked at later; see `call`.

        Raises:
            redis.exceptions.ResponseError: An error that was the answer to an earlier one.
        """
        with self.lock:
            self.connect_or_check()
            try:
                # As a rule it came long ago.
                got = self._receive(1) if self._owed >= MOST_OWED else []
                self._owed -= len(got)
                self.send(data)
            except BaseException:
                self.disconnect()
                raise
            self._owed += replies
            self._used_at = monotonic()
        _raise_first(got)

    def settle(self) -> None:
        """Wait for the answers to all that was posted; see `call`."""
        with self.lock:
            if not (self._owed and self.is_connected):
                return
            try:
                owed, self._owed = self._owed, 0
                got = self._receive(owed)
            except BaseException:
                self.disconnect()
                raise
        _raise_first(got)

    def _receive(self, replies: int) -> list[Any]:
        got = self.receive()
        while len(got) < replies:
            got += self.receive()
        return got

    def connect_or_check(self) -> None:
        """Connect, also again where the server has closed a connection that rested."""
        if self.is_connected and monotonic() - self._used_at > REST_S:
            with suppress(exceptions.ConnectionError):
                self.settle()
            if self.sock is not None and self._is_closed():
                self.disconnect()
        self.connect()

    def _is_closed(self) -> bool:
        # Nothing is due: whatever there is to read is the end of the connection.
        try:
            self.sock.setblocking(False)
            try:
                self.sock.recv(1)
            finally:
                self.sock = _with_kernel_timeout(self.sock, self.timeout_s)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as exc:
            return type(exc).__name__ not in {"SSLWantReadError", "SSLWantWriteError"}
        return True

    def ask(self, *command: bytes | str | float) -> Any:
        """Send one command and return its reply; see `call`."""
        return self.call(pack(*command))[0]

    def run(
        self, script: Any, keys: Sequence[bytes | str], args: Iterable[bytes | str | float]
    ) -> Any:
        """Run a script and return its reply; see `call`."""
        rest = (len(keys), *keys, *args)
        try:
            return self.ask("EVALSHA", script.sha, *rest)
        except exceptions.NoScriptError:
            return self.ask("EVAL", script.text, *rest)

    def _lost(self, exc: OSError) -> Exception:
        if isinstance(exc, BlockingIOError | TimeoutError):
            return exceptions.TimeoutError(
                f"{self.broker}: the server did not answer within {self.timeout_s} s"
            )
        return exceptions.ConnectionError(f"{self.broker}: {exc}")

    def _named(self, exc: Exception) -> Exception:
        if self.broker in str(exc):
            return exc
        return type(exc)(f"{self.broker}: {exc}")


def _raise_first(replies: list[Any]) -> None:
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply


def _is_plain(sock: Any) -> bool:
    """Say whether *sock* is one of the system's, with nothing of TLS or greenlets around it."""
    return (
        type(sock) is socket.socket and socket.socket.__module__ == "socket" and os.name == "posix"
    )


def _with_kernel_timeout(sock: Any, timeout_s: float | None) -> Any:
    """Bound reads and writes of *sock*, for plain sockets without a system call for each.

    Python waits with a poll before each operation on a socket with a timeout. The kernel's own
    time-outs need none, but mean nothing to sockets of gevent, eventlet or TLS.
    """
    if not _is_plain(sock):
        sock.settimeout(timeout_s)
        return sock
    seconds = timeout_s or 0.0
    value = struct.pack("ll", int(seconds), int(seconds % 1 * 1_000_000))
    sock.settimeout(None)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, value)
    return sock


def lost(error: Exception, broker: str) -> Exception:
    """Return *error*, as the loss of the connection where a new one may mend it."""
    if isinstance(error, exceptions.ConnectionError):
        return error
    if isinstance(error, exceptions.ReadOnlyError) or str(error).startswith(PASSING):
        return exceptions.ConnectionError(f"{broker}: {error}")
    return error
